"""The roof: how fast this machine can read memory and multiply at best, measured by several probes of which the best counts."""

import time
from collections.abc import Callable, Iterator
from typing import Any

BUFFER_BYTES = 1 << 29
"""Half a GiB: beyond any last-level cache."""

SECONDS_A_PROBE = 0.3
SIZES = (512, 1024, 2048)


def measure_roof(n_threads: int) -> dict[str, Any]:
    """Peak bytes read a second and peak FLOP/s for each compute dtype with ``n_threads``, as the fields of a ``Roof``.

    ``fp32``, ``bf16`` and ``int8`` are what a multiply-add is computed in; the 4-bit weight formats multiply in int8.
    """
    import torch

    torch.set_num_threads(n_threads)
    probes = {f"read: {probe}": rate for probe, rate in _read_probes(n_threads)}
    bandwidth = max(probes.values())
    flops: dict[str, float] = {}
    for dtype, probe, rate in _flop_probes(n_threads):
        probes[f"{dtype}: {probe}"] = rate
        flops[dtype] = max(rate, flops.get(dtype, 0.0))
    return {"n_threads": n_threads, "bytes_per_s": bandwidth, "flops_per_s": flops, "probes": probes}


def _best_seconds(call: Callable[[], object]) -> float:
    """The shortest time of a call over a third of a second of them."""
    call()
    best = float("inf")
    end = time.perf_counter() + SECONDS_A_PROBE
    while time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best


def _read_probes(n_threads: int) -> Iterator[tuple[str, float]]:
    """Each probe's name and the bytes a second that it reads."""
    import numpy as np
    import torch

    columns = 8192
    rows = BUFFER_BYTES // 4 // columns
    matrix = torch.ones(rows, columns)
    vector = torch.ones(columns)
    yield "torch mv fp32", BUFFER_BYTES / _best_seconds(lambda: torch.mv(matrix, vector))
    yield "torch sum fp32", BUFFER_BYTES / _best_seconds(matrix.sum)
    yield "torch amax fp32", BUFFER_BYTES / _best_seconds(lambda: torch.amax(matrix))
    integers = matrix.view(torch.int32)
    yield "torch sum int32", BUFFER_BYTES / _best_seconds(integers.sum)
    if n_threads == 1:
        array = matrix.numpy()
        yield "numpy max fp32", BUFFER_BYTES / _best_seconds(lambda: np.max(array))


def _flop_probes(n_threads: int) -> Iterator[tuple[str, str, float]]:
    """Compute dtype, probe name and FLOP/s; a multiply-add counts as two."""
    import torch

    for size in SIZES:
        work = 2 * size**3
        a, b = torch.randn(size, size), torch.randn(size, size)
        yield "fp32", f"torch mm {size}", work / _best_seconds(lambda a=a, b=b: torch.mm(a, b))  # type: ignore[misc]
        half_a, half_b = a.bfloat16(), b.bfloat16()
        yield "bf16", f"torch mm {size}", work / _best_seconds(lambda a=half_a, b=half_b: torch.mm(a, b))  # type: ignore[misc]
        int_a, int_b = (torch.randint(-127, 127, (size, size), dtype=torch.int8) for _ in range(2))
        yield "int8", f"torch int_mm {size}", work / _best_seconds(lambda a=int_a, b=int_b: torch._int_mm(a, b))  # type: ignore[misc]
        for dtype, seconds in _ort_matmul_seconds(size, n_threads):
            yield dtype, f"onnxruntime matmul {size}", work / seconds


def _ort_matmul_seconds(size: int, n_threads: int) -> Iterator[tuple[str, float]]:
    """Best seconds of ONNX Runtime's matrix products with a constant right side, fp32 and int8."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    rng = np.random.default_rng(0)
    for name, operator, numpy_type, onnx_type, out in (
        ("fp32", "MatMul", np.float32, TensorProto.FLOAT, TensorProto.FLOAT),
        ("int8", "MatMulInteger", np.int8, TensorProto.INT8, TensorProto.INT32),
    ):
        left, right = (rng.integers(-100, 100, (size, size)).astype(numpy_type) for _ in range(2))
        shape = [size, size]
        graph = helper.make_graph(
            [helper.make_node(operator, ["x", "w"], ["y"])],
            "matmul",
            [helper.make_tensor_value_info("x", onnx_type, shape)],
            [helper.make_tensor_value_info("y", out, shape)],
            [numpy_helper.from_array(right, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {"x": left}
        yield name, _best_seconds(lambda s=session, f=feeds: s.run(None, f))  # type: ignore[misc]
