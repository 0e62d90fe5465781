"""Torch's cells: every operator through build, load and calls, as a worker does it."""

from pathlib import Path

import numpy as np
import pytest

from edgeprof.bench.gate import gate_error, tolerance
from edgeprof.core.types import Artifact, BenchCase
from edgeprof.operators.arrays import random_input, random_weights
from edgeprof.operators.registry import OPERATORS, make_spec
from edgeprof.runtimes.artifact import artifact_folder, build_artifact, effective_weights, fresh_copy
from edgeprof.runtimes.artifact import artifact_spec as spec_of
from edgeprof.runtimes.torch_eager import RUNTIME, TorchCell, cpu_has_bf16


def build(case: BenchCase) -> Artifact:
    return build_artifact(spec_of(case))


def load(artifact: Artifact, case: BenchCase, folder: Path | None = None) -> TorchCell:
    operator = make_spec(case.op, case.dims)
    return RUNTIME.load(operator, artifact, folder or artifact_folder(artifact.key), case.kv_len)


SHAPES = {
    "decode": {"q_len": 1, "kv_len": 40},
    "decode of a few": {"q_len": 4, "kv_len": 40},
    "decode at the start": {"q_len": 1, "kv_len": 1},
    "full prefill": {"phase": "prefill", "q_len": 24, "kv_len": 24},
    "prefill onto a context": {"phase": "prefill", "q_len": 16, "kv_len": 48},
    "batch": {"q_len": 1, "kv_len": 30, "batch": 3},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", list(OPERATORS))
def test_every_operator_passes_the_gate_by_far(op: str, shape: str, cache, make_case) -> None:
    case = make_case(op, **SHAPES[shape])
    artifact = build(case)
    error = gate_error(load(artifact, case), make_spec(op, case.dims), case, effective_weights(artifact))
    assert error < tolerance(case) / 20


@pytest.mark.parametrize("op", list(OPERATORS))
def test_bf16_is_compared_on_the_rounded_weights(op: str, cache, make_case) -> None:
    """bf16 is computed on any CPU, if slowly: the numbers are the same as where the instructions exist."""
    case = make_case(op, dtype="bf16", kv_dtype="bf16", kv_len=30)
    artifact = build(case)
    spec = make_spec(op, case.dims)
    assert artifact.weight_bytes == 2 * sum(w.size for w in spec.weights().values())
    assert gate_error(load(artifact, case), spec, case, effective_weights(artifact)) < tolerance(case)
    if op == "gqa":
        exact = random_weights(spec, 20_240)
        assert any((effective_weights(artifact)[n] != w).any() for n, w in exact.items())


@pytest.mark.parametrize("op", ["gqa", "swa", "short_conv"])
def test_a_call_repeats_its_step_and_fill_and_reset_act_on_all_of_the_state(op: str, cache, make_case) -> None:
    case = make_case(op, kv_len=9)
    artifact = build(case)
    cell = load(artifact, case)
    x = random_input(make_spec(op, case.dims), batch=1, q_len=1, seed=3)
    cell.fill(seed=1)
    assert all(np.unique(t.numpy()).size == t.numel() for t in cell.state.values())
    call = cell.bind(x, case.past_len)
    call()
    filled = cell.output().copy()
    cell.reset()
    assert not any(t.any() for t in cell.state.values())
    call()
    zeroed = cell.output().copy()
    assert not np.allclose(filled, zeroed)
    cell.reset()
    call()
    assert np.array_equal(cell.output(), zeroed)
    if op != "short_conv":  # its state has moved on
        call()
        assert np.array_equal(cell.output(), zeroed)


def test_two_loads_share_no_memory(cache, make_case) -> None:
    case = make_case("gqa")
    artifact = build(case)
    one, other = load(artifact, case), load(artifact, case)
    for a, b in zip(one.module.parameters(), other.module.parameters(), strict=True):
        assert a.data_ptr() != b.data_ptr()
    x = random_input(make_spec("gqa", case.dims), batch=1, q_len=1, seed=3)
    call = one.bind(x, 5)
    call()
    before = one.output().copy()
    other.fill(seed=2)
    next(other.module.parameters()).zero_()
    call()
    assert np.array_equal(one.output(), before)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_fresh_bytes_move_every_weight_a_little(dtype: str, cache, make_case) -> None:
    case = make_case("gqa", dtype=dtype, kv_dtype=dtype)
    artifact = build(case)
    original = load(artifact, case)
    with fresh_copy(artifact, 7) as folder:
        varied = load(artifact, case, folder)
    for a, b in zip(original.module.parameters(), varied.module.parameters(), strict=True):
        ratio = (a.float() - b.float()).abs() / a.float().abs()
        assert float((a != b).float().mean()) > 0.98
        assert float(ratio.max()) < (2**-15 if dtype == "fp32" else 3.0)  # bf16: up to the lowest bit of the exponent


def test_bf16_without_the_instructions_says_so(make_case, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case("gqa", dtype="bf16", kv_dtype="bf16")
    monkeypatch.setattr("edgeprof.runtimes.torch_eager.cpu_has_bf16", lambda: False)
    reason = RUNTIME.unsupported(case)
    assert reason is not None
    assert "no bf16 multiply" in reason
    monkeypatch.setattr("edgeprof.runtimes.torch_eager.cpu_has_bf16", lambda: True)
    assert RUNTIME.unsupported(case) is None


def test_the_cpus_features_are_read_without_error() -> None:
    assert cpu_has_bf16() in (True, False)
