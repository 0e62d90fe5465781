"""Measures a suite several times from scratch and says how far each row moved, and how often its interval covered that.

A run's interval is asked three things: whether it covers another run's p50 (each ordered pair of runs is one question), the mean
of the other runs', and the mean of all. It speaks of the true value, of which nobody has a copy: another run's p50 has noise of
its own, so an honest 95 % interval covers it less often (about 86 % with three equal runs), and the mean of all, which it has
itself moved, more often.

    python benchmarks/repeatability.py [--suite quick] [--runs 3] [--keep FOLDER]
"""

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.keep or Path(folder)
        runs = [measure(root / f"run{i}", options) for i in range(options.runs)]
    report(runs)


def measure(results: Path, options: argparse.Namespace) -> dict[str, dict]:
    command = [
        sys.executable,
        "-m",
        "edgeprof",
        "bench",
        "--suite",
        options.suite,
        "--effort",
        options.effort,
        "--json",
    ]
    done = subprocess.run([*command, "--results", str(results)], stdout=subprocess.PIPE, check=False)
    document = json.loads(done.stdout)
    print(f"{results.name}: noise floor {document['noise_floor']:.2%}, drift {document['drift_sd']:.2%}", flush=True)
    return {m["case_key"]: m for m in document["measurements"] if m["status"] == "ok"}


def report(runs: list[dict[str, dict]]) -> None:
    keys = [key for key in runs[0] if all(key in run for run in runs)]
    covered, covered_mean, covered_all, widths, spreads = [], [], [], [], {"p10_ns": [], "p50_ns": []}
    print(f"{'row':64} {'p10 spread':>10} {'p50 spread':>10} {'covered':>8} {'width':>7}")
    for key in keys:
        rows = [run[key] for run in runs]
        hits = [lies_in(a["p50_ns"], b["ci95_ns"]) for a, b in itertools.permutations(rows, 2)]
        means = [
            lies_in(math.exp(statistics.fmean(math.log(r["p50_ns"]) for r in rows if r is not row)), row["ci95_ns"])
            for row in rows
        ]
        grand = math.exp(statistics.fmean(math.log(r["p50_ns"]) for r in rows))
        covered_all += [lies_in(grand, r["ci95_ns"]) for r in rows]
        width = statistics.median((r["ci95_ns"][1] - r["ci95_ns"][0]) / r["p50_ns"] for r in rows)
        spread = {name: max(r[name] for r in rows) / min(r[name] for r in rows) - 1 for name in spreads}
        for name, values in spreads.items():
            values.append(spread[name])
        covered += hits
        covered_mean += means
        widths.append(width)
        m = rows[0]
        name = f"{m['runtime']} {m['dtype']} {m['op']} {m['phase']} q{m['q_len']} kv{m['kv_len']} {m['cache_state']}"
        print(f"{name:64} {spread['p10_ns']:10.1%} {spread['p50_ns']:10.1%} {sum(hits):>5}/{len(hits)} {width:7.1%}")
    print(
        f"\n{len(keys)} rows, {len(runs)} runs: spread of p10 median {statistics.median(spreads['p10_ns']):.1%}, "
        f"of p50 {statistics.median(spreads['p50_ns']):.1%} (largest {max(spreads['p50_ns']):.1%})\n"
        f"a run's interval covers another run's p50 in {statistics.fmean(covered):.1%} of {len(covered)} pairs, and the mean "
        f"of the other runs in {statistics.fmean(covered_mean):.1%} of {len(covered_mean)}; it covers the mean of all runs, its "
        f"own included, in {statistics.fmean(covered_all):.1%}\n"
        f"median relative width of an interval {statistics.median(widths):.1%}"
    )


def lies_in(value: float, bounds: list[float] | None) -> bool:
    return bounds is not None and bounds[0] <= value <= bounds[1]


if __name__ == "__main__":
    main()
