"""Our hot times beside those of the tools that come with each runtime, for the same loaded cell, turn by turn in one process.

torch.utils.benchmark times the same call in blocks. ONNX Runtime's profiler and ExecuTorch's event tracer report how long the
runtime itself was busy in the very calls that we time, so our figure holds a call boundary (Python and binding) more.

    python benchmarks/agreement.py [--suite quick] [--rounds 5]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgeprof.bench.plan import plan
from edgeprof.bench.protocol import quiet_gc, warm_up
from edgeprof.bench.selection import Selection
from edgeprof.bench.suite import load_suite
from edgeprof.bench.worker import bind_timed, pin
from edgeprof.core.types import BenchCase
from edgeprof.devices.base import DEVICES
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.artifact import artifact_folder, artifact_spec, build_artifact, cached_artifact
from edgeprof.runtimes.base import RUNTIMES

CALLS = 20
WARM_UP_NS = 300_000_000
PEERS = {
    "torch_eager": "torch.utils.benchmark",
    "torch_compile": "torch.utils.benchmark",
    "onnxruntime": "onnxruntime profiler",
    "executorch": "executorch event tracer",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runtime", choices=list(PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.runtime is None:
        print(f"{'case':52} {'peer':24} {'ours us':>10} {'peer us':>10} {'ours/peer':>9} {'spread':>8}", flush=True)
        for runtime in ("torch_eager", "onnxruntime", "executorch"):  # a process each: profilers and pools do not mix
            arguments = ["--suite", options.suite, "--rounds", str(options.rounds), "--runtime", runtime]
            subprocess.run([sys.executable, __file__, *arguments], check=True)
        return
    cases = plan(
        load_suite(options.suite), Selection(suite=options.suite, runtimes=(options.runtime,), cache_states=("hot",))
    )
    pin(list(DEVICES.get("local").pick_cpus(1)))
    RUNTIMES.get(options.runtime).start(1)
    for case in cases:
        compare(case, options.rounds)


def compare(case: BenchCase, rounds: int) -> None:
    """Prints one row: medians over the rounds, and the range of the ratio between them."""
    measure = {"onnxruntime": onnxruntime_pair, "executorch": executorch_pair}.get(case.runtime, torch_pair)
    pairs = measure(case, rounds)
    ours, theirs = (statistics.median(p[i] for p in pairs) / 1e3 for i in (0, 1))
    ratios = sorted(a / b for a, b in pairs)
    name = f"{case.runtime} {case.dtype} {case.op} {case.phase} q{case.q_len} kv{case.kv_len}"
    spread = f"{ratios[0]:.3f}-{ratios[-1]:.3f}"
    print(
        f"{name:52} {PEERS[case.runtime]:24} {ours:10.1f} {theirs:10.1f} {statistics.median(ratios):9.3f} {spread:>13}",
        flush=True,
    )


def load(case: BenchCase):
    spec = artifact_spec(case)
    artifact = cached_artifact(spec.key) or build_artifact(spec)
    operator = make_spec(case.op, case.dims)
    cell = RUNTIMES.get(case.runtime).load(operator, artifact, artifact_folder(spec.key), case.kv_len)
    cell.fill(1)
    return cell


def timed(call, calls: int) -> list[int]:
    times = []
    for _ in range(calls):
        begin = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - begin)
    return times


def calls_for(call) -> int:
    """Fewer calls where one takes long."""
    begin = time.perf_counter_ns()
    call()
    return max(5, min(CALLS, 500_000_000 // max(1, time.perf_counter_ns() - begin)))


def torch_pair(case: BenchCase, rounds: int) -> list[tuple[float, float]]:
    from torch.utils.benchmark import Timer

    call = bind_timed(load(case), case)
    warm_up(call, WARM_UP_NS)
    n = calls_for(call)
    timer = Timer("call()", globals={"call": call}, num_threads=1)
    pairs = []
    for _ in range(rounds):  # call by call in turn, so that the host's drift meets both alike
        with quiet_gc():
            turns = []
            for _ in range(n):
                timed(call, 2)  # timeit warms up with two calls before each of its own
                turns.append((timed(call, 1)[0], timer.timeit(1).median * 1e9))
        pairs.append((statistics.median(t[0] for t in turns), statistics.median(t[1] for t in turns)))
    return pairs


def onnxruntime_pair(case: BenchCase, rounds: int) -> list[tuple[float, float]]:
    import edgeprof.runtimes.onnxruntime as room

    plain_options = room.session_options
    with tempfile.TemporaryDirectory() as folder:

        def profiled(n_threads: int):
            options = plain_options(n_threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            return options

        room.session_options = profiled
        try:
            cell = load(case)
        finally:
            room.session_options = plain_options
        call = bind_timed(cell, case)
        warm_up(call, WARM_UP_NS)
        n = calls_for(call)
        with quiet_gc():
            times = [timed(call, n) for _ in range(rounds)]
        events = json.loads(Path(cell._session.end_profiling()).read_text())
    runs = [e["dur"] * 1e3 for e in events if e.get("name") == "model_run"]
    per_call = -(-case.q_len // cell._tokens_per_run)
    theirs = [sum(runs[i : i + per_call]) for i in range(len(runs) - rounds * n * per_call, len(runs), per_call)]
    return [(statistics.median(t), statistics.median(theirs[i * n : (i + 1) * n])) for i, t in enumerate(times)]


def executorch_pair(case: BenchCase, rounds: int) -> list[tuple[float, float]]:
    from executorch.devtools import Inspector

    from edgeprof.runtimes.executorch_libraries import import_runtime

    cell = load(case)
    spec = artifact_spec(case)
    path = str(artifact_folder(spec.key) / cached_artifact(spec.key).files["model"])
    cell.program = import_runtime()._load_program(path, enable_etdump=True)
    cell.method = cell.program.load_method("forward")
    call = bind_timed(cell, case)
    warm_up(call, WARM_UP_NS)
    n = calls_for(call)
    with quiet_gc():
        times = [timed(call, n) for _ in range(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        dump = str(Path(folder) / "trace.etdp")
        cell.program.write_etdump_result_to_file(dump)
        inspector = Inspector(etdump_path=dump)  # in milliseconds
        runs = [e.perf_data.raw for b in inspector.event_blocks for e in b.events if e.name == "Method::execute"]
    theirs = [1e6 * ms for raw in runs for ms in raw][-rounds * n :]
    return [(statistics.median(t), statistics.median(theirs[i * n : (i + 1) * n])) for i, t in enumerate(times)]


if __name__ == "__main__":
    main()
