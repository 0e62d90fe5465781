"""What architectures cost on paper, against figures known from elsewhere and against hand counts."""

import subprocess
import sys

import pytest

from edgeprof.models.accounting import (
    TokenCost,
    embedding_parameters,
    embedding_share,
    floor_ns,
    parameters,
    parameters_by_part,
    state_by_mixer,
    token_cost,
    usual_contexts,
    vocabulary_share,
    weight_costs,
)
from edgeprof.models.config import config_of_pattern, load_config, preset_names

TINY = config_of_pattern(
    "CSG",
    {"kernel_size": 3, "n_heads": 2, "n_kv_heads": 1, "head_dim": 4, "window": 5, "d_ff": 16},
    name="tiny",
    d_model=8,
    vocab=10,
    tied=False,
)

CONV = 4 * 8 * 8 + 3 * 8
ATTENTION = 8 * 8 + 4 * 8 + 4 * 8 + 8 * 8 + 2 * 4
FFN = 3 * 8 * 16


@pytest.mark.parametrize(
    ("preset", "total", "share"),
    [
        ("lfm2-350m", 354_483_968, "18.93"),
        ("lfm2-700m", 742_489_344, "13.56"),
        ("lfm2-1.2b", 1_170_340_608, "11.47"),
        ("gemma-3-270m", 268_098_176, "62.58"),
        ("qwen3-0.6b", 596_049_920, "26.10"),
    ],
)
def test_presets_have_the_parameters_of_the_models_they_are_called_after(preset: str, total: int, share: str) -> None:
    config = load_config(preset)
    assert parameters(config) == total
    assert f"{100 * embedding_share(config):.2f}" == share


@pytest.mark.parametrize("preset", preset_names())
def test_the_parts_add_up_to_the_model(preset: str) -> None:
    config = load_config(preset)
    parts = parameters_by_part(config)
    assert sum(part.parameters for part in parts) == parameters(config)
    assert parts[0].name == "embedding"
    assert parts[0].parameters == embedding_parameters(config)


def test_the_parts_of_a_small_model_are_those_counted_by_hand() -> None:
    assert {p.name: (p.count, p.parameters) for p in parameters_by_part(TINY)} == {
        "embedding": (1, 80),
        "short_conv": (1, CONV),
        "swa": (1, ATTENTION),
        "gqa": (1, ATTENTION),
        "swiglu": (3, 3 * FFN),
        "norms": (7, 7 * 8),
        "head": (1, 80),
    }
    assert vocabulary_share(TINY) == 2 * embedding_share(TINY)


def test_weights_at_each_precision_hold_their_scales_and_a_tied_head_twice_where_it_is_quantised() -> None:
    config = load_config("lfm2-350m")
    table, total = 65536 * 1024, parameters(config)
    vectors = 33 * 1024 + 10 * 3 * 1024 + 6 * 2 * 64
    costs = {w.dtype: (w.weight_bytes, w.embedding_bytes, w.tied_copy_bytes) for w in weight_costs(config)}
    linear = total - table - vectors
    assert costs["fp32"] == (4 * total, 4 * table, 0)
    assert costs["bf16"] == (2 * total, 2 * table, 0)
    assert costs["int4"] == ((total - vectors) * 5 // 8 + 4 * vectors, table * 5 // 8, table * 5 // 8)
    assert costs["8da4w"] == (4 * (table + vectors) + linear * 9 // 16, 4 * table, table * 9 // 16)
    assert all(w.tied_copy_bytes == 0 for w in weight_costs(TINY))


def test_a_token_costs_what_is_counted_by_hand() -> None:
    norms = 7 * 4 * 8
    conv = 2 * (4 * 8 * 8 + 3 * 8) + 2 * 8
    attention = [2 * (ATTENTION - 8) + 4 * seen * 8 for seen in (5, 20)]
    ffn = 2 * FFN + 16
    flops = norms + conv + sum(attention) + 3 * ffn + 3 * 2 * 8 + 2 * 10 * 8
    state = 4 * (2 * 8 + 2 * 4 * 5 + 2 * 4 * 20)
    weights = 4 * (parameters(TINY) - 80 + 8)  # a row of the embedding
    moved = weights + state + 4 * 2 * 8 + 8 + 4 * 10  # the convolution's state is written too
    expected = TokenCost(context=20, dtype="fp32", kv_dtype="fp32", flops=flops, state_bytes=state, bytes_moved=moved)
    assert token_cost(TINY, context=20, dtype="fp32", kv_dtype="fp32") == expected


def test_state_grows_with_full_attention_only() -> None:
    early, late = (state_by_mixer(TINY, context=n, kv_dtype="bf16") for n in (10, 1000))
    assert early == {"short_conv": 2 * 2 * 8, "swa": 2 * 2 * 4 * 5, "gqa": 2 * 2 * 4 * 10}
    assert late == early | {"gqa": 100 * early["gqa"]}


@pytest.mark.parametrize(
    ("preset", "contexts"),
    [
        ("lfm2-350m", (1024, 4096, 16384, 32768)),
        ("qwen3-0.6b", (1024, 4096, 16384, 40960)),
        ("tiny-conv", (1024, 2048)),
    ],
)
def test_contexts_go_up_to_the_longest(preset: str, contexts: tuple[int, ...]) -> None:
    assert usual_contexts(load_config(preset)) == contexts


def test_a_model_for_short_contexts_is_looked_at_there() -> None:
    config = config_of_pattern("C", {"d_ff": 8}, name="x", d_model=8, vocab=8, max_context=100)
    assert usual_contexts(config) == (100,)


def test_the_floor_is_bytes_over_bandwidth() -> None:
    assert floor_ns(50_000_000, 100e9) == 500_000


def test_accounting_needs_no_library_that_computes() -> None:
    code = "import sys, edgeprof.models.accounting as a, edgeprof.models.config as c\n"
    code += "a.parameters(c.load_config('tiny-hybrid'))\nassert not {'torch', 'numpy', 'scipy', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
