"""Any architecture survives its file formats."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprof.core.toml import parse_toml
from edgeprof.models.accounting import parameters, parameters_by_part, token_cost
from edgeprof.models.config import (
    MAX_LAYERS,
    ArchConfig,
    config_from_json,
    config_to_json,
    expand_pattern,
    from_file,
    make_layer,
    to_document,
    to_toml,
)
from edgeprof.models.schema import MAX_NAME, parse_document
from edgeprof.operators.base import MAX_SIZE
from edgeprof.operators.registry import make_spec

SIZES = st.integers(1, MAX_SIZE)
EPSILONS = st.floats(0, 1, exclude_min=True, exclude_max=True)


@st.composite
def mixers(draw: st.DrawFn, d_model: int) -> Any:
    op = draw(st.sampled_from(["short_conv", "swa", "gqa"]))
    if op == "short_conv":
        return make_spec(op, {"d_model": d_model, "kernel_size": draw(SIZES)})
    kv_heads = draw(st.integers(1, 64))
    theta = draw(st.floats(1, MAX_SIZE) | st.integers(1, MAX_SIZE))
    dims = {
        "d_model": d_model,
        "n_kv_heads": kv_heads,
        "n_heads": kv_heads * draw(st.integers(1, 8)),
        "head_dim": 2 * draw(st.integers(1, 512)),
        "qk_norm": draw(st.booleans()),
        "rope_theta": theta,
    }
    return make_spec(op, dims | ({"window": draw(SIZES)} if op == "swa" else {}))


@st.composite
def configs(draw: st.DrawFn) -> ArchConfig:
    d_model, vocab, eps, sandwich = draw(SIZES), draw(SIZES), draw(EPSILONS), draw(st.booleans())
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        ffn = make_spec(draw(st.sampled_from(["swiglu", "geglu"])), {"d_model": d_model, "d_ff": draw(SIZES)})
        layer = make_layer(eps, sandwich, draw(mixers(d_model)), ffn)
        layers += [layer] * draw(st.integers(1, 3))
    tokens = st.none() | st.integers(0, vocab - 1)
    return ArchConfig(
        name=draw(st.text(min_size=1, max_size=MAX_NAME)),
        d_model=d_model,
        vocab=vocab,
        tied=draw(st.booleans()),
        norm_eps=eps,
        embedding_scale=draw(st.floats(0, MAX_SIZE, exclude_min=True)),
        sandwich_norm=sandwich,
        max_context=draw(SIZES),
        bos_token=draw(tokens),
        eos_token=draw(tokens),
        pad_token=draw(tokens),
        layers=tuple(layers),
    )


def read(data: Any) -> ArchConfig:
    return from_file(parse_document(data, "x"), "x", default_name="nameless")


@given(configs())
@settings(max_examples=60, deadline=None)
def test_a_config_comes_back_from_toml_and_json(config: ArchConfig) -> None:
    assert read(parse_toml(to_toml(config))) == config
    assert read(json.loads(json.dumps(to_document(config)))) == config


@given(configs())
@settings(max_examples=40, deadline=None)
def test_the_canonical_json_keeps_all_that_computes(config: ArchConfig) -> None:
    text = config_to_json(config)
    back = config_from_json(text)
    for field in ("d_model", "vocab", "tied", "norm_eps", "embedding_scale", "sandwich_norm", "layers"):
        assert getattr(back, field) == getattr(config, field)
    assert config_to_json(back) == text


@given(configs(), st.integers(1, MAX_SIZE - 1))
@settings(max_examples=30, deadline=None)
def test_parts_add_up_and_a_longer_context_never_costs_less(config: ArchConfig, context: int) -> None:
    assert sum(part.parameters for part in parameters_by_part(config)) == parameters(config)
    now, later = (token_cost(config, context=n, dtype="bf16", kv_dtype="bf16") for n in (context, context + 1))
    assert later.flops >= now.flops
    assert later.state_bytes >= now.state_bytes
    assert later.bytes_moved >= now.bytes_moved


@given(st.lists(st.tuples(st.text("CSG", min_size=1, max_size=5), st.integers(1, 4)), min_size=1, max_size=6))
def test_a_pattern_of_repeats_is_what_it_says(runs: list[tuple[str, int]]) -> None:
    written = "".join(f"({letters})x{count}" for letters, count in runs)
    assert expand_pattern(written) == "".join(letters * count for letters, count in runs)[:MAX_LAYERS]
