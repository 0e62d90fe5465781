"""Every ONNX form against the naive reference on the weights that it really computes with."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgeprof.core.dtypes import KV_TOLERANCE, WEIGHT_DTYPES
from edgeprof.core.types import Artifact, ArtifactSpec, BenchCase
from edgeprof.models.block import block_of
from edgeprof.operators.arrays import Array, Weights, random_input, random_weights
from edgeprof.operators.attribute import attribute
from edgeprof.operators.base import Dims, OperatorSpec
from edgeprof.operators.onnx_graph import BATCH, TOKENS, Graph, dequantize_rows, quantize_rows
from edgeprof.operators.registry import make_spec
from edgeprof.operators.swa.onnx import cache_rows
from edgeprof.runtimes import onnxruntime as runtime_module
from edgeprof.runtimes.base import Built
from edgeprof.runtimes.onnxruntime import RUNTIME, OnnxCell

HEADS: Dims = {"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
DIMS: dict[str, Dims] = {
    "short_conv": {"d_model": 64},
    "swa": HEADS | {"window": 6},
    "gqa": HEADS,
    "swiglu": {"d_model": 64, "d_ff": 96},
    "geglu": {"d_model": 64, "d_ff": 96},
    "embedding": {"vocab": 80, "d_model": 64},
    "head": {"vocab": 80, "d_model": 64},
    "rms_norm": {"d_model": 64},
    "residual": {"d_model": 64},
    "identity": {"d_model": 64},
}
IMPLIED: dict[str, Dims] = {
    "gqa": {"eps": 0.1},
    "swa": {"eps": 0.1},
    "head": {"eps": 0.1},
    "rms_norm": {"eps": 0.1},
    "embedding": {"scale": 25},
}
"""Values far from what is implied, so that one which is not heeded shows."""
RUNS = {
    "decode": ([1] * 20, 0, 1),
    "prefill": ([20], 0, 1),
    "chunks": ([7, 5, 1, 2, 3, 8], 0, 1),
    "start": ([3, 1, 1, 4], 9, 1),
    "batch decode": ([1] * 8, 2, 2),
    "batch chunks": ([5, 4, 1, 2], 3, 2),
}
"""Calls' lengths, the position of the first token, and the batch."""


def artifact_spec(spec: OperatorSpec, dtype: str, kv_dtype: str, batch: int) -> ArtifactSpec:
    return ArtifactSpec(
        op=spec.name, op_version=1, dims=spec.dims(), batch=batch, q_len=1, capacity=0, has_past=True, dtype=dtype,
        kv_dtype=kv_dtype, runtime="onnxruntime", runtime_version="", source_hash="",
    )  # fmt: skip


def load(
    built: Built, spec: OperatorSpec, described: ArtifactSpec, folder: Path, capacity: int, n_threads: int = 1
) -> OnnxCell:
    artifact = Artifact(key="", spec=described, files=built.files, weight_bytes=built.weight_bytes)
    RUNTIME.start(n_threads)
    return RUNTIME.load(spec, artifact, folder, capacity)


def run(cell: OnnxCell, x: Array, calls: list[int], start: int) -> Array:
    outputs, done = [], 0
    for tokens in calls:
        cell.bind(x[:, done : done + tokens], start + done)()
        outputs.append(cell.output())
        done += tokens
    return np.concatenate(outputs, axis=1)


def worst_error(spec: OperatorSpec, weights: Weights, x: Array, start: int, y: Array) -> float:
    """Largest relative L2 error of a token."""
    exact = {name: torch.from_numpy(w).double() for name, w in weights.items()}
    given = torch.from_numpy(x)
    truth = attribute(spec.reference)(spec, exact, given if spec.takes_tokens else given.double(), start).numpy()
    return float((np.linalg.norm(y - truth, axis=-1) / np.linalg.norm(truth, axis=-1)).max())


def error(
    folder: Path, op: str, dims: Dims, calls: list[int], start: int = 0, batch: int = 1,
    dtype: str = "fp32", kv_dtype: str = "fp32", n_threads: int = 1,
) -> float:  # fmt: skip
    spec = make_spec(op, dims)
    weights, described = random_weights(spec, seed=1), artifact_spec(spec, dtype, kv_dtype, batch)
    built = RUNTIME.build(spec, described, weights, folder)
    x = random_input(spec, batch=batch, q_len=sum(calls), seed=3)
    y = run(load(built, spec, described, folder, start + sum(calls), n_threads), x, calls, start)
    return worst_error(spec, built.effective or weights, x, start, y)


@pytest.mark.parametrize("how", RUNS)
@pytest.mark.parametrize("dtype", ["fp32", "int4"])
@pytest.mark.parametrize("op", DIMS)
def test_a_form_computes_what_the_reference_does(tmp_path: Path, op: str, dtype: str, how: str) -> None:
    calls, start, batch = RUNS[how]
    assert error(tmp_path, op, DIMS[op], calls, start, batch, dtype) < WEIGHT_DTYPES[dtype].tolerance


@pytest.mark.parametrize("dtype", ["fp32", "int4"])
@pytest.mark.parametrize("op", IMPLIED)
def test_an_epsilon_or_a_scale_is_computed_with(tmp_path: Path, op: str, dtype: str) -> None:
    assert error(tmp_path, op, DIMS[op] | IMPLIED[op], [5, 1, 1], dtype=dtype) < WEIGHT_DTYPES[dtype].tolerance


@pytest.mark.parametrize("how", RUNS)
@pytest.mark.parametrize("dtype", ["fp32", "int4"])
@pytest.mark.parametrize("op", ["gqa", "swa"])
def test_an_int8_cache_keeps_to_its_tolerance(tmp_path: Path, op: str, dtype: str, how: str) -> None:
    calls, start, batch = RUNS[how]
    dims = DIMS[op] | {"d_model": 128, "head_dim": 32}
    tolerance = WEIGHT_DTYPES[dtype].tolerance + KV_TOLERANCE["int8"]
    assert error(tmp_path, op, dims, calls, start, batch, dtype, "int8") < tolerance


@pytest.mark.parametrize("kernel_size", range(1, 8))
def test_short_conv_of_any_kernel_size(tmp_path: Path, kernel_size: int) -> None:
    assert error(tmp_path, "short_conv", {"d_model": 32, "kernel_size": kernel_size}, [1, 1, 1, 9, 1, 3]) < 1e-4


@pytest.mark.parametrize("op", ["gqa", "swa"])
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_attention_with_any_grouping_of_heads(tmp_path: Path, op: str, n_kv_heads: int, qk_norm: bool) -> None:
    dims = DIMS[op] | {"n_kv_heads": n_kv_heads, "qk_norm": qk_norm, "rope_theta": 1e4}
    assert error(tmp_path, op, dims, [5, 1, 1, 6, 2]) < 1e-4


@pytest.mark.parametrize("window", [1, 2, 5, 33, 48])
def test_swa_forgets_what_left_the_window(tmp_path: Path, window: int) -> None:
    """33 and 48 keep rows to spare, so that the cache is moved every now and then only."""
    assert error(tmp_path, "swa", HEADS | {"window": window}, [1] * (2 * window + 3) + [4, 3 * window, 1, 1]) < 1e-4


@pytest.mark.parametrize("op", ["gqa", "swa", "short_conv"])
def test_a_long_call_is_split_into_runs(tmp_path: Path, op: str) -> None:
    assert error(tmp_path, op, DIMS[op], [600, 1], batch=2) < 1e-4


@pytest.mark.parametrize("op", ["gqa", "swa", "short_conv", "swiglu", "geglu"])
def test_two_threads_compute_the_same(tmp_path: Path, op: str) -> None:
    assert error(tmp_path, op, DIMS[op], [5, 1, 1, 6], n_threads=2) < 1e-4


@pytest.mark.parametrize("dtype", ["fp32", "int4"])
@pytest.mark.parametrize(
    ("op", "dims"),
    [
        ("swiglu", {"d_model": 48, "d_ff": 80}),
        ("embedding", {"vocab": 33, "d_model": 6}),
        ("head", {"vocab": 33, "d_model": 40}),
        ("short_conv", {"d_model": 20}),
    ],
)
def test_sizes_that_no_block_divides(tmp_path: Path, op: str, dims: Dims, dtype: str) -> None:
    assert error(tmp_path, op, dims, [3, 1, 2], dtype=dtype) < WEIGHT_DTYPES[dtype].tolerance


@pytest.mark.parametrize(("window", "rows"), [(5, 5), (31, 31), (48, 50), (128, 134), (512, 542), (2048, 2174)])
def test_a_windowed_cache_has_the_window_and_a_sixteenth_more(window: int, rows: int) -> None:
    assert cache_rows(window) == rows


def test_reset_forgets_and_fill_writes_all_of_the_state(tmp_path: Path) -> None:
    spec = make_spec("gqa", HEADS)
    described = artifact_spec(spec, "fp32", "fp32", batch=1)
    built = RUNTIME.build(spec, described, random_weights(spec, seed=1), tmp_path)
    cell = load(built, spec, described, tmp_path, capacity=16)
    x = random_input(spec, batch=1, q_len=1, seed=3)
    call = cell.bind(x, pos=8)
    call()
    zeroed = cell.output()
    cell.fill(seed=0)
    call()
    filled = cell.output()
    cell.reset()
    call()
    assert np.array_equal(cell.output(), zeroed)
    assert not np.allclose(filled, zeroed, atol=1e-2)


def test_a_call_repeats_its_step_and_two_loads_share_nothing(tmp_path: Path) -> None:
    spec = make_spec("gqa", HEADS)
    described = artifact_spec(spec, "fp32", "fp32", batch=1)
    built = RUNTIME.build(spec, described, random_weights(spec, seed=1), tmp_path)
    one, other = (load(built, spec, described, tmp_path, capacity=16) for _ in range(2))
    x = random_input(spec, batch=1, q_len=2, seed=3)
    call = one.bind(x, pos=4)
    call()
    first = one.output()
    other.fill(seed=1)
    call()
    assert np.array_equal(one.output(), first)


@pytest.mark.parametrize("dtype", ["fp32", "int4"])
@pytest.mark.parametrize("op", ["short_conv", "gqa", "embedding"])
def test_fresh_bytes_change_weights_a_little_and_nothing_else(tmp_path: Path, op: str, dtype: str) -> None:
    """Low mantissa bytes move fp32 weights by less than 2^-15; packed 4-bit values may become any, scales stay."""
    spec = make_spec(op, DIMS[op])
    described = artifact_spec(spec, dtype, "fp32", batch=1)
    built = RUNTIME.build(spec, described, random_weights(spec, seed=1), tmp_path)
    x = random_input(spec, batch=1, q_len=4, seed=3)
    before = run(load(built, spec, described, tmp_path, capacity=4), x, [4], 0)
    covered = 0
    for part in built.fresh:
        data = np.memmap(tmp_path / part.file, np.uint8, "r+", part.offset, (part.length,))
        data[part.offset_in_stride :: part.stride] ^= 0x5A
        covered += part.length
    after = run(load(built, spec, described, tmp_path, capacity=4), x, [4], 0)
    large = sum(w.size for w in spec.weights().values() if w.kind != "vector")
    assert covered == (4 * large if dtype == "fp32" else large // 2)
    assert np.isfinite(after).all()
    assert not np.array_equal(after, before)
    if dtype == "fp32":
        assert np.allclose(after, before, rtol=1e-2, atol=1e-2)
    else:
        assert np.abs(after).max() < 10 * np.abs(before).max()


def test_forms_compose_into_one_graph(tmp_path: Path) -> None:
    """A block of two mixers: prefixes keep names apart, RoPE tables and call inputs are shared."""
    gqa, conv = make_spec("gqa", HEADS), make_spec("short_conv", DIMS["short_conv"])
    parts = {"layers.0.": (conv, random_weights(conv, 1)), "layers.1.": (gqa, random_weights(gqa, 2)),
             "layers.2.": (gqa, random_weights(gqa, 3))}  # fmt: skip
    graph = Graph()
    y = graph.input("x", np.float32, (BATCH, TOKENS, 64))
    for prefix, (spec, weights) in parts.items():
        y = attribute(spec.forms["onnx"])(graph, spec, weights, y, prefix)
    graph.output(y, (BATCH, TOKENS, 64))
    files = graph.save(tmp_path).files
    built = Built(files=files, weight_bytes=0)
    cell = load(built, gqa, artifact_spec(gqa, "fp32", "fp32", batch=1), tmp_path, capacity=9)
    x = random_input(gqa, batch=1, q_len=9, seed=3)
    expected = torch.from_numpy(x).double()
    for spec, weights in parts.values():
        exact = {name: torch.from_numpy(w).double() for name, w in weights.items()}
        expected = attribute(spec.reference)(spec, exact, expected, 0)
    assert np.allclose(run(cell, x, [6, 1, 2], 0), expected.numpy(), rtol=1e-4, atol=1e-4)
    names = [i.name for i in onnx.load(tmp_path / files["model"], load_external_data=False).graph.input]
    assert (
        len(names) == len(set(names)) == 1 + 1 + 4 + 3 + 2
    )  # x, a conv state, four caches, three of the call, two tables


def test_dequantised_rows_are_within_half_a_step() -> None:
    values = np.random.default_rng(0).standard_normal((5, 70), dtype=np.float32)
    packed, scales = quantize_rows(values)
    step = np.repeat(np.abs(scales), 32, axis=1)[:, :70]
    restored = dequantize_rows(packed, scales, 70)
    assert (np.abs(restored - values) <= step * 1.001).all()  # the side that 8 steps do not reach clips to 7
    assert np.mean(np.abs(restored - values) <= step * 0.501) > 0.95


def test_start_counts_the_threads_that_a_session_has() -> None:
    assert [RUNTIME.start(n) for n in (1, 2, 3)] == [1, 2, 3]


def test_the_smallest_model_is_what_its_comment_says() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert onnx.load_from_string(runtime_module._SMALLEST_MODEL) == model


@pytest.mark.parametrize(
    ("op", "dims", "dtype", "kv_dtype", "reason"),
    [
        ("gqa", {}, "bf16", "bf16", "fp32 or int4 weights"),
        ("short_conv", {}, "fp32", "int8", "no KV cache"),
        ("swa", {"head_dim": 24}, "fp32", "fp32", "multiple of 16"),
        ("embedding", {"d_model": 63}, "int4", "fp32", "even d_model"),
        ("embedding", {"d_model": 63}, "fp32", "fp32", None),
        ("gqa", {}, "int4", "int8", None),
        ("short_conv", {}, "fp32", "fp32", None),
    ],
)
def test_what_does_not_work_says_why(op: str, dims: Dims, dtype: str, kv_dtype: str, reason: str | None) -> None:
    answer = unsupported(op, DIMS[op] | dims, dtype, kv_dtype)
    assert answer is None if reason is None else answer is not None and reason in answer


@pytest.mark.parametrize(
    ("mixer", "dims", "kv_dtype", "reason"),
    [
        ("swa", {}, "int8", None),
        ("short_conv", {}, "int8", None),
        ("gqa", {"head_dim": 24}, "fp32", "multiple of 16"),
    ],
)
def test_a_block_is_judged_by_what_is_in_it(mixer: str, dims: Dims, kv_dtype: str, reason: str | None) -> None:
    """Its norms and feed-forward have no cache, which is no reason to refuse it."""
    block = block_of(make_spec(mixer, DIMS[mixer] | dims), make_spec("geglu", DIMS["geglu"]))
    answer = unsupported("block", block.dims(), "int4", kv_dtype)
    assert answer is None if reason is None else answer is not None and reason in answer


def unsupported(op: str, dims: Dims, dtype: str, kv_dtype: str) -> str | None:
    case = BenchCase(
        op=op, op_version=1, phase="decode", dims=dims, q_len=1, kv_len=8, dtype=dtype, kv_dtype=kv_dtype,
        runtime="onnxruntime", n_threads=1, cache_state="hot",
    )  # fmt: skip
    return RUNTIME.unsupported(case)


def test_a_head_dim_that_is_refused_does_fail_in_the_runtime(tmp_path: Path) -> None:
    """The reason stays true: once ONNX Runtime learns it, this test says so."""
    with pytest.raises(Exception, match="head_size"):
        error(tmp_path, "gqa", HEADS | {"head_dim": 24}, [1])
