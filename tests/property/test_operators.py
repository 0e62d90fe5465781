"""What must hold for every operator at any dimensions: decode, chunks and prefill agree, and costs are true."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprof.bench.gate import reference_output, relative_error
from edgeprof.operators.arrays import Array, random_input, random_weights
from edgeprof.operators.attribute import attribute
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.registry import make_spec

fixed = settings(derandomize=True, deadline=None, max_examples=25, database=None)


EPSILONS = st.sampled_from([1e-6, 1e-5, 0.1])


@st.composite
def attentions(draw: st.DrawFn, op: str) -> OperatorSpec:
    """Any grouping of heads, MHA and MQA included."""
    kv_heads = draw(st.integers(1, 3))
    dims: dict[str, Any] = {
        "d_model": draw(st.integers(1, 12)),
        "n_kv_heads": kv_heads,
        "n_heads": kv_heads * draw(st.integers(1, 3)),
        "head_dim": 2 * draw(st.integers(1, 4)),
        "qk_norm": draw(st.booleans()),
        "rope_theta": draw(st.sampled_from([1e4, 1e6])),
        "eps": draw(EPSILONS),
    }
    return make_spec(op, dims | ({"window": draw(st.integers(1, 9))} if op == "swa" else {}))


def short_convs() -> st.SearchStrategy[OperatorSpec]:
    return st.builds(
        lambda d, k: make_spec("short_conv", {"d_model": d, "kernel_size": k}), st.integers(1, 12), st.integers(1, 7)
    )


@st.composite
def stateless(draw: st.DrawFn) -> OperatorSpec:
    op = draw(st.sampled_from(["swiglu", "geglu", "embedding", "head", "rms_norm", "residual"]))
    dims: dict[str, Any] = {"d_model": draw(st.integers(1, 12))}
    if op in ("swiglu", "geglu"):
        dims["d_ff"] = draw(st.integers(1, 20))
    if op in ("embedding", "head"):
        dims["vocab"] = draw(st.integers(1, 30))
    if op == "head":
        dims["tied"] = draw(st.booleans())
    if op in ("head", "rms_norm"):
        dims["eps"] = draw(EPSILONS)
    if op == "embedding":
        dims["scale"] = draw(st.sampled_from([1.0, 8, 25.3]))
    return make_spec(op, dims)


OPERATORS = st.one_of(short_convs(), attentions("swa"), attentions("gqa"), stateless())
LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def module_of(spec: OperatorSpec) -> Any:
    module = attribute(spec.module)(spec)
    module.load_state_dict({n: torch.from_numpy(w) for n, w in random_weights(spec, 5).items()}, assign=True)
    return module


def run(module: Any, spec: OperatorSpec, x: Array, lengths: list[int], start: int) -> Array:
    """Calls of the given lengths, one after another on one state, whose size must stay the same."""
    state = module.init_state(x.shape[0], start + x.shape[1])
    sizes = {name: t.shape for name, t in state.items()}
    outputs, done = [], 0
    with torch.inference_mode():
        for tokens in lengths:
            outputs.append(module(torch.from_numpy(x[:, done : done + tokens]), state, start + done).numpy())
            done += tokens
            assert {name: t.shape for name, t in state.items()} == sizes
    return np.concatenate(outputs, axis=1)


@fixed
@given(spec=OPERATORS, lengths=LENGTHS, start=st.integers(0, 20), batch=st.integers(1, 2))
def test_decode_chunks_prefill_and_the_reference_agree(
    spec: OperatorSpec, lengths: list[int], start: int, batch: int
) -> None:
    total = sum(lengths)
    x = random_input(spec, batch=batch, q_len=total, seed=9)
    truth = reference_output(spec, random_weights(spec, 5), x, start)
    module = module_of(spec)
    for calls in ([1] * total, lengths, [total]):
        error = relative_error(run(module, spec, x, calls, start), truth)
        assert error < 2e-5, (spec, calls, error)


@fixed
@given(spec=OPERATORS)
def test_a_spec_counts_the_parameters_that_its_module_has(spec: OperatorSpec) -> None:
    parameters = dict(attribute(spec.module)(spec).named_parameters())
    assert {n: tuple(p.shape) for n, p in parameters.items()} == {n: w.shape for n, w in spec.weights().items()}
    tied = spec.name == "head" and spec.dims()["tied"]
    own = {n: p for n, p in parameters.items() if not (tied and n == "w_vocab")}
    assert spec.params() == sum(p.numel() for p in own.values())
    assert spec.weight_bytes("fp32") == 4 * sum(p.numel() for p in parameters.values())


@fixed
@given(spec=OPERATORS, batch=st.integers(1, 2), capacity=st.integers(1, 20))
def test_state_bytes_are_those_of_the_modules_state(spec: OperatorSpec, batch: int, capacity: int) -> None:
    """The ring of SWA is allocated whole; what must be kept of a shorter context is less."""
    state = attribute(spec.module)(spec).init_state(batch, capacity)
    held = sum(t.numel() * t.element_size() for t in state.values())
    kv_len = max(capacity, int(spec.dims().get("window", 0)))
    assert spec.state_bytes(batch=batch, kv_len=kv_len, kv_dtype="fp32") == held
    assert spec.state_bytes(batch=batch, kv_len=kv_len, kv_dtype="bf16") == held // 2


@fixed
@given(
    spec=st.one_of(attentions("swa"), attentions("gqa")),
    q_len=st.integers(1, 9),
    past=st.integers(0, 20),
    batch=st.integers(1, 3),
)
def test_attention_flops_are_those_of_the_visible_pairs(spec: OperatorSpec, q_len: int, past: int, batch: int) -> None:
    window = int(spec.dims().get("window", 10**6))
    pairs = sum(q - window < k <= q for q in range(past, past + q_len) for k in range(past + q_len))
    d = spec.dims()
    matrices = sum(w.size for w in spec.weights().values() if w.kind == "linear")
    expected = batch * (2 * q_len * matrices + 4 * pairs * int(d["n_heads"]) * int(d["head_dim"]))
    assert spec.flops(batch=batch, q_len=q_len, kv_len=past + q_len) == expected


@fixed
@given(spec=OPERATORS, q_len=st.integers(1, 8), past=st.integers(0, 30), more=st.integers(1, 30))
def test_costs_grow_with_the_context_only_where_they_should(
    spec: OperatorSpec, q_len: int, past: int, more: int
) -> None:
    def costs(kv_len: int) -> tuple[int, int, int]:
        return (
            spec.state_bytes(batch=1, kv_len=kv_len, kv_dtype="fp32"),
            spec.bytes_moved(batch=1, q_len=q_len, kv_len=kv_len, dtype="fp32", kv_dtype="fp32"),
            spec.flops(batch=1, q_len=q_len, kv_len=kv_len),
        )

    near, far = costs(past + q_len), costs(past + q_len + more)
    if spec.name == "gqa":
        assert all(b > a for a, b in zip(near, far, strict=True))
    elif spec.name == "swa":
        assert all(b >= a for a, b in zip(near, far, strict=True))
        if past >= int(spec.dims()["window"]):
            assert near == far
    else:
        assert near == far


@fixed
@given(spec=OPERATORS, q_len=st.integers(1, 6), kv_dtype=st.sampled_from(["fp32", "bf16", "int8"]))
def test_a_batch_costs_its_multiple_and_its_weights_once(spec: OperatorSpec, q_len: int, kv_dtype: str) -> None:
    one = spec.flops(batch=1, q_len=q_len, kv_len=30)
    assert spec.flops(batch=3, q_len=q_len, kv_len=30) == 3 * one
    state = spec.state_bytes(batch=1, kv_len=30, kv_dtype=kv_dtype)
    assert spec.state_bytes(batch=3, kv_len=30, kv_dtype=kv_dtype) == 3 * state
    if not spec.takes_tokens:
        a, b = (spec.weight_bytes_moved(batch=n, q_len=q_len, dtype="fp32") for n in (1, 3))
        assert a == b == spec.weight_bytes("fp32")


@pytest.mark.parametrize("tokens", [300, 513])
def test_swa_prefill_of_several_blocks_agrees_with_the_reference(tokens: int) -> None:
    """Longer than a block of queries, so that blocks begin inside the window."""
    dims = {"d_model": 4, "n_heads": 2, "n_kv_heads": 1, "head_dim": 2, "window": 70}
    spec = make_spec("swa", dims)
    x = random_input(spec, batch=1, q_len=tokens, seed=9)
    truth = reference_output(spec, random_weights(spec, 5), x, 11)
    for calls in ([tokens], [100, tokens - 100]):
        assert relative_error(run(module_of(spec), spec, x, calls, 11), truth) < 2e-5
