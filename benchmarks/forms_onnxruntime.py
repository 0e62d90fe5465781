"""Ratios between the forms that an operator can take in ONNX Runtime, in one run: what docs/forms-onnxruntime.md records.

    python benchmarks/forms_onnxruntime.py [operator ...]

Every form of an operator is loaded, at LFM2-350M's dimensions and one thread; then all forms are called in turn, round
after round. The table has ratios to the form that the runtime uses, of medians over loads of 20th percentiles over calls; a form
whose output differs from it is not timed. Two more tables: calls of 4096 tokens by tokens in a run, and the windowed cache
over decode steps that really follow each other, so that moving it is counted.
"""

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel
from variants_onnxruntime import D_MODEL, FORMS, HEAD_DIM, WINDOW, swa_sliding

from edgeprof.operators.arrays import random_input, random_weights
from edgeprof.operators.attribute import form
from edgeprof.operators.onnx_graph import Emit, operator_graph
from edgeprof.operators.registry import make_spec
from edgeprof.operators.swa.onnx import cache_rows
from edgeprof.runtimes.onnxruntime import PROVIDERS, OnnxCell, session_options

HEADS = {"d_model": D_MODEL, "n_heads": 16, "n_kv_heads": 8, "head_dim": HEAD_DIM}
SAME = {"fp32": 1e-4, "int4": 3e-2}
"""Largest relative difference between two forms' outputs that still counts as the same."""
LOADS = 3
"""Separate loads of every form: where memory lands shifts a load by up to 28 %."""
SIZES = {
    "swiglu": {"d_model": D_MODEL, "d_ff": 4608},
    "geglu": {"d_model": D_MODEL, "d_ff": 4608},
    "short_conv": {"d_model": D_MODEL},
    "gqa": HEADS,
    "swa": HEADS | {"window": WINDOW},
    "rms_norm": {"d_model": D_MODEL},
}
CALLS = ((1, 4095, 60), (4, 4092, 30), (256, 3840, 9))
"""Tokens of a call, its position, and how often it is timed."""
WINDOWS = (128, 512, 2048)
FIRST_STEP, STEPS, PASSES = 4200, 260, 5
RUN_LENGTHS = (64, 128, 256, 512, 1024, 4096)
USED = "**used**"
ONLY_INT4 = ("MatMulNBits",)
ONLY_FP32 = ("MatMul over", "Gemm")


def load(op: str, emit: Emit, dtype: str, seed: int, capacity: int = 4096, **dims: int) -> OnnxCell:
    spec = make_spec(op, SIZES[op] | dims)
    with tempfile.TemporaryDirectory() as folder:
        graph = operator_graph(spec, emit, random_weights(spec, seed), dtype=dtype, kv_dtype="fp32")
        files = graph.save(Path(folder)).files
        model = f"{folder}/{files['model']}"
        return OnnxCell(onnxruntime.InferenceSession(model, session_options(1), providers=PROVIDERS), 1, capacity)


def times_ns(cells: dict[str, OnnxCell], op: str, dtype: str, q_len: int, pos: int, rounds: int) -> dict[str, float]:
    """Each form's 20th percentile over calls made in turn; a form whose output differs from the first one's has NaN."""
    x = random_input(make_spec(op, SIZES[op]), batch=1, q_len=q_len, seed=5)
    calls, reference = {}, None
    for name, cell in cells.items():
        if q_len > 1 and "(one token)" in name:
            continue
        cell.reset()
        calls[name] = cell.bind(x, pos)
        calls[name]()
        y = cell.output()
        reference = y if reference is None else reference
        if np.linalg.norm(y - reference) > SAME["int4" if "int8" in name else dtype] * np.linalg.norm(reference):
            del calls[name]
        cell.fill(1)
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed_ns(call))
    return {name: float(np.quantile(times[name], 0.2)) if name in times else float("nan") for name in cells}


def forms_of(op: str, dtype: str) -> dict[str, Emit]:
    skipped = ONLY_INT4 if dtype == "fp32" else ONLY_FP32
    others = {name: emit for name, emit in FORMS[op].items() if not name.startswith(skipped)}
    return {USED: form(make_spec(op, SIZES[op]), "onnx")} | others


def table_rows(op: str, dtype: str) -> Iterator[str]:
    """Lines of the table: for each kind of call, the ratio to the form that is used, of medians over loads."""
    loads: list[dict[str, list[float]]] = []
    absent = set()
    for seed in range(LOADS):
        cells = {}
        for name, emit in forms_of(op, dtype).items():
            try:
                cells[name] = load(op, emit, dtype, seed)
                cells[name].bind(np.zeros((1, 1, D_MODEL), np.float32), 0)()
            except (NoKernel, RuntimeError):
                absent.add(name)
                cells.pop(name, None)
        columns = [times_ns(cells, op, dtype, *call) for call in CALLS]
        loads.append({name: [c[name] for c in columns] for name in cells})
        del cells
        gc.collect()
    used = [statistics.median(column) for column in zip(*(one[USED] for one in loads), strict=True)]
    yield f"| {op} | {dtype} | {USED} | {' | '.join(f'1 ({ns / 1e3:.0f} us)' for ns in used)} |"
    for name in loads[0]:
        if name != USED:
            own = [statistics.median(column) for column in zip(*(one[name] for one in loads), strict=True)]
            shown = ["-" if np.isnan(ns) else f"{ns / base:.2f}" for ns, base in zip(own, used, strict=True)]
            yield f"| {op} | {dtype} | {name} | {' | '.join(shown)} |"
    for name in sorted(absent):
        yield f"| {op} | {dtype} | {name} | no CPU kernel | | |"


def run_length_rows(tokens: int) -> Iterator[str]:
    """Lines of the table: milliseconds of a call of ``tokens`` tokens for each length of a run."""
    windows = [("swa", {"window": window}) for window in WINDOWS]
    for op, dims in (("short_conv", {}), *windows, ("gqa", {}), ("swiglu", {})):
        spec = make_spec(op, SIZES[op] | dims)
        cell = load(op, form(spec, "onnx"), "fp32", seed=0, **dims)
        x = random_input(spec, batch=1, q_len=tokens, seed=5)
        shown = []
        for length in RUN_LENGTHS:
            cell._tokens_per_run = length
            call = cell.bind(x, 0)
            shown.append(min(timed_ns(call) for _ in range(3)) / 1e6)
        name = f"{op}, window {dims['window']}" if dims else op
        yield f"| {name} | {' | '.join(f'{ms:.0f}' for ms in shown)} |"


def cache_size_rows(window: int) -> Iterator[str]:
    """Lines of the table: decode steps that follow each other, those which move the cache apart, in microseconds.

    All caches make the same step in turn, pass after pass; a step counts with its 20th percentile over passes.
    """
    x = random_input(make_spec("swa", HEADS | {"window": window}), batch=1, q_len=1, seed=5)
    sizes = sorted({window, cache_rows(window), window + window // 8, 2 * window})
    cells = {rows: load("swa", swa_sliding(rows), "int4", seed=0, capacity=8192, window=window) for rows in sizes}
    positions = np.arange(FIRST_STEP, FIRST_STEP + STEPS)
    steps = {rows: [cell.bind(x, int(pos)) for pos in positions] for rows, cell in cells.items()}
    times = {rows: np.zeros((PASSES, STEPS)) for rows in sizes}
    for one in range(PASSES):
        for step in range(STEPS):
            for rows in sizes:
                times[rows][one, step] = timed_ns(steps[rows][step]) / 1e3
    for rows in sizes:
        us, period = np.quantile(times[rows], 0.2, axis=0), rows - window + 1
        moved = (positions + 1 - window) % period == 0
        name = f"{rows} (used)" if rows == cache_rows(window) else f"{rows}"
        still = "-" if moved.all() else f"{us[~moved].mean():.0f}"
        moving = f"{us[moved].mean():.0f} ({moved.sum()} of {STEPS})" if moved.any() else "-"
        both = moved.any() and not moved.all()
        share = f"{(us[moved].mean() / us[~moved].mean() - 1) / period:.1%}" if both else "-"
        yield f"| {window} | {name} | {us.mean():.0f} | {still} | {moving} | {share} |"


def timed_ns(call: Callable[[], None]) -> int:
    begin = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - begin


def main() -> None:
    print("| operator | weights | form | " + " | ".join(f"q_len {q} at {p}" for q, p, _ in CALLS) + " |")
    print("|---|---|---|---|---|---|")
    for op in sys.argv[1:] or FORMS:
        for dtype in ("fp32", "int4") if op != "rms_norm" else ("fp32",):
            for line in table_rows(op, dtype):
                print(line, flush=True)
    print("\n| 4096 tokens | " + " | ".join(f"runs of {n}" for n in RUN_LENGTHS) + " |")
    print("|---|" + "---|" * len(RUN_LENGTHS))
    for line in run_length_rows(4096):
        print(line, flush=True)
    print("\n| window | rows | mean step | without a move | with a move | left out |\n|---|---|---|---|---|---|")
    for window in WINDOWS:
        for line in cache_size_rows(window):
            print(line, flush=True)


if __name__ == "__main__":
    main()
