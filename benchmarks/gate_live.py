"""Live checks of a clone of this checkout against its own commit: unchanged, or with one operator slower or hungrier on purpose.

What is changed on purpose is an edit of the clone's ONNX Runtime adapter beside its commit, which has the same edit by nothing:
the Python that waits would else add 11 us to a call of 600, as it is no longer in the cache when the call ends. Both sides go all
the way: worktree, building, numerics, blocks, verdict. A slowdown waits after every call of the operator, in proportion to what
the call took; hunger fills bytes when its model is loaded.

    python benchmarks/gate_live.py --aa 20 [--busy 5]                   # false alarms; the first 5 beside a busy neighbour
    python benchmarks/gate_live.py --slow 0.05 0.1 --each 10            # what is caught, and after how many seconds
    python benchmarks/gate_live.py --slow 0.05 --time-budget 9m         # the same with 60 s for each of ci's nine cases
    python benchmarks/gate_live.py --hungry-bytes 4000000 --each 10     # the same of memory
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scipy import stats

AUTHOR = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")

LOADED = "        return OnnxCell(session, artifact.spec.batch, capacity)\n"
SLOWER = """        cell = OnnxCell(session, artifact.spec.batch, capacity)
        if operator.name == "{op}":
            import time

            bind = cell.bind

            def slower(x: Array, pos: int) -> Call:
                call = bind(x, pos)

                def wait() -> None:
                    begin = time.perf_counter_ns()
                    call()
                    end = time.perf_counter_ns()
                    until = end + int((end - begin) * {amount})
                    while time.perf_counter_ns() < until:
                        pass

                return wait

            cell.bind = slower
        return cell
"""
HUNGRIER = """        cell = OnnxCell(session, artifact.spec.batch, capacity)
        if operator.name == "{op}":
            cell.extra = b"x" * {amount}
        return cell
"""
IN_TIME_S = 60
"""Seconds of measuring for each case of the suite, second run included, within which a slowdown should be caught."""

NEIGHBOUR = """
import time
import numpy as np
a = np.ones(16 * 2**20)
while True:
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        a.sum()
    time.sleep(0.3)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="ci")
    parser.add_argument("--op", default="gqa", help="the operator that is changed")
    parser.add_argument("--aa", type=int, default=0, help="checks of unchanged code")
    parser.add_argument("--busy", type=int, default=0, help="so many of them beside a busy neighbour")
    parser.add_argument("--slow", type=float, nargs="*", default=[], help="slowdowns, as shares")
    parser.add_argument("--hungry-bytes", type=int, nargs="*", default=[], help="bytes on top of a loaded model")
    parser.add_argument("--each", type=int, default=10, help="checks of each change")
    parser.add_argument("--time-budget", default="5m")
    parser.add_argument("--out", type=Path, help="the checks' JSON, a line each")
    parser.add_argument("--results", type=Path, help="where recordings are kept, for gate.py")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        git("clone", "-q", str(Path(__file__).parents[1]), str(clone))
        adapter = clone / "edgeprof" / "runtimes" / "onnxruntime.py"
        text = adapter.read_text()
        assert text.count(LOADED) == 1, "the adapter has changed: so must this script"
        if options.aa:
            found = []
            for number in range(options.aa):
                with neighbour(number < options.busy):
                    found.append(check(clone, options, "A/A" + (" busy" if number < options.busy else "")))
            tell_alarms(found)
        changes = [(f"+{share:.0%}", SLOWER, share) for share in options.slow]
        changes += [(f"+{n:,} bytes", HUNGRIER, n) for n in options.hungry_bytes]
        for label, patch, amount in changes:
            adapter.write_text(text.replace(LOADED, patch.format(op=options.op, amount=0)))
            git("-C", str(clone), *AUTHOR, "commit", "--allow-empty", "-qam", "by nothing")
            adapter.write_text(text.replace(LOADED, patch.format(op=options.op, amount=amount)))
            rows = "sizes" if "bytes" in label else "cases"
            tell_caught(label, [check(clone, options, label) for _ in range(options.each)], rows, options.op)


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


@contextmanager
def neighbour(is_wanted: bool) -> Iterator[None]:
    """Another process that reads memory half of the time, on whichever CPU it gets."""
    if not is_wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def check(clone: Path, options: argparse.Namespace, label: str) -> dict[str, Any]:
    """One check of the clone against its commit."""
    memory = "--memory" if "bytes" in label else "--no-memory"
    command = [sys.executable, "-m", "edgeprof", "check", "--base", "HEAD", "--suite", options.suite, "--json", memory]
    results = (options.results or clone.parent / "results").absolute()
    command += ["--time-budget", options.time_budget, "--results", str(results)]
    done = subprocess.run(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    if options.out is not None:
        with options.out.open("a") as file:
            file.write(json.dumps({"label": label, **found}) + "\n")
    outcomes = Counter(row["outcome"] for row in found["cases"])
    blocks = max(row["n_blocks"] for row in found["cases"])
    sizes = Counter(row["outcome"] for row in found["sizes"])
    print(
        f"{label}: exit {done.returncode}, {found['seconds']:.0f} s, at most {blocks} blocks, {dict(outcomes)}, "
        f"sizes {dict(sizes)}",
        flush=True,
    )
    return found


def tell_alarms(checks: list[dict[str, Any]]) -> None:
    n = len(checks)
    alarmed = sum(any(row["outcome"] == "regressed" for row in c["cases"]) for c in checks)
    upper = stats.binomtest(alarmed, n, alternative="less").proportion_ci(0.95, method="exact").high
    outcomes = Counter(row["outcome"] for c in checks for row in c["cases"])
    total = sum(outcomes.values())
    print(f"A/A: {alarmed} of {n} checks alarmed (at most {upper:.1%} by the exact one-sided 95 % bound)")
    print(
        "A/A: " + ", ".join(f"{name} {count}/{total} = {count / total:.1%}" for name, count in outcomes.most_common())
    )


def tell_caught(label: str, checks: list[dict[str, Any]], rows: str, op: str) -> None:
    """Of the changed operator's cases in ONNX Runtime how many were caught; of the others how many were called regressed."""
    mine, others = Counter(), 0
    for one in checks:
        for row in one[rows]:
            if row["case"]["op"] == op and row["case"]["runtime"] == "onnxruntime":
                mine[row["outcome"]] += row["quantity"] != "file_size"
            else:
                others += row["outcome"] == "regressed"
    n = len(checks)
    failed = sum(c["exit_code"] == 1 for c in checks)
    seconds = [c["seconds"] / max(1, len(c["cases"])) for c in checks]
    in_time = sum(c["exit_code"] == 1 and s <= IN_TIME_S for c, s in zip(checks, seconds, strict=True))
    print(
        f"{label} in {op}: {failed} of {n} checks failed, {in_time} of them within {IN_TIME_S} s a case; its cases: "
        f"{dict(mine)}; false alarms of other cases: {others}; {min(seconds):.0f} to {max(seconds):.0f} s a case",
        flush=True,
    )


if __name__ == "__main__":
    main()
