"""Synthetic checks from recorded processes: how often the gate cries wolf, and what it catches, beside two plain rules.

Suites of cases are drawn from a results folder and judged by the very functions that `edgeprof check` uses. Both sides come
from the same code, so every alarm of an A/A check is false; for detection, one case of a suite has its head slowed. What is
drawn are processes, never samples (edgeprof/regress/resample.py).

What the split is worth: floor and looks were chosen on one half of the cases (by the parity of the key), and the other half is
what is reported. That a process counts with its best load was chosen on all cases, and both halves come from the same sessions of
the same host. The bounds below are those of drawing: other hosts, and other days of this one, are not in them.

The rules beside ours judge the same processes:
  pytest-benchmark   its `--benchmark-compare-fail=mean:5%`: the mean of one run's samples against one run of the base.
  mean + 5 %         the mean over as many processes of either side as our check used.

Seconds are those recorded for loading, warming up and sampling, and a share of starting the processes (--start-s each).

    python benchmarks/gate.py [--results results] [--checks 2000] [--detections 500] [--suite 10] [--half report]
"""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from edgeprof.regress.resample import Drawn, RecordedCase, draw, recorded_cases
from edgeprof.regress.sequential import Plan
from edgeprof.regress.verdict import Verdict, judge, rerun_plan, suspects
from edgeprof.store import Store

SLOWDOWNS = (0.03, 0.05, 0.10, 0.20)
THRESHOLD = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--device", help="one of the stored devices; all of them unless told")
    parser.add_argument("--checks", type=int, default=2000, help="A/A checks")
    parser.add_argument("--detections", type=int, default=500, help="checks for each slowdown")
    parser.add_argument("--suite", type=int, default=10, help="cases of a check")
    parser.add_argument("--half", choices=("tune", "report", "all"), default="report")
    parser.add_argument("--floor", type=float, default=Plan().floor)
    parser.add_argument("--looks", type=lambda text: tuple(int(n) for n in text.split(",")), default=Plan().looks)
    parser.add_argument(
        "--budget-s", type=float, default=60, help="seconds a case within which a slowdown should be caught"
    )
    parser.add_argument("--start-s", type=float, default=1.1, help="seconds that starting one process takes")
    parser.add_argument("--max-block-s", type=float, default=4.0, help="leave out cases whose block takes longer")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cases = load(options)
    options.suite = min(options.suite, len(cases))
    plan = Plan(floor=options.floor, looks=options.looks, n_cases=options.suite)
    print(f"{plan}\nsuites of {options.suite} out of {len(cases)} recorded cases ({options.half})\n")
    report_alarms([check(cases, plan, options, i, None) for i in range(options.checks)], options)
    report_detection(
        {s: [check(cases, plan, options, i, s) for i in range(options.detections)] for s in SLOWDOWNS}, options
    )


def load(options: argparse.Namespace) -> list[RecordedCase]:
    store = Store(options.results)
    devices = [options.device] if options.device else store.devices()
    cases = [c for device in devices for c in recorded_cases(store.records(device))]
    if options.half != "all":
        cases = [c for c in cases if (int(c.case.key, 16) % 2 == 0) == (options.half == "tune")]
    kept = [c for c in cases if c.block_seconds <= options.max_block_s]
    if not kept:
        raise SystemExit(f"{options.results}: no case with enough processes of one session")
    print(f"{len(cases) - len(kept)} of {len(cases)} cases left out: a block takes over {options.max_block_s:g} s")
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One case of a synthetic check: its kind, our verdict, whether it was slowed, the plain rules' alarms, and seconds."""

    kind: str
    verdict: Verdict
    first_alarm: bool
    slowed: bool
    pytest_benchmark: bool
    mean: bool
    n_blocks: int
    seconds: float


def check(
    cases: list[RecordedCase], plan: Plan, options: argparse.Namespace, number: int, slowdown: float | None
) -> list[Seen]:
    """One check of a suite drawn at random; with a ``slowdown`` the first of its cases has it."""
    rng = np.random.default_rng([options.seed, number, round(1000 * (slowdown or 0))])
    suite = {str(i): cases[j] for i, j in enumerate(rng.choice(len(cases), options.suite, replace=False))}
    added = {key: slowdown or 0.0 if key == "0" else 0.0 for key in suite}
    drawn = {key: draw(case, plan.looks[-1], rng) for key, case in suite.items()}
    blocks = {key: drawn[key].blocks(case, added[key]) for key, case in suite.items()}
    again = {
        key: draw(suite[key], plan.looks[-1], rng).blocks(suite[key], added[key]) for key in suspects(blocks, plan)
    }
    verdicts = judge(blocks, plan, again)
    repeated = judge(again, rerun_plan(plan)) if again else {}
    processes = 4 * len({(case.case.runtime, case.case.n_threads) for case in suite.values()})
    start_s = options.start_s * processes / len(suite)
    seen = []
    for key, case in suite.items():
        n = verdicts[key].n_blocks + (repeated[key].n_blocks if key in repeated else 0)
        seen.append(
            Seen(
                kind=f"{case.case.cache_state} {case.case.phase}",
                verdict=verdicts[key],
                first_alarm=key in again,
                slowed=key == "0" and slowdown is not None,
                pytest_benchmark=rule_alarm(case, drawn[key], 1, added[key]),
                mean=rule_alarm(case, drawn[key], verdicts[key].n_blocks, added[key]),
                n_blocks=n,
                seconds=n * (case.block_seconds + start_s),
            )
        )
    return seen


def rule_alarm(case: RecordedCase, drawn: Drawn, n_blocks: int, slowdown: float) -> bool:
    """Whether the head's mean lies more than 5 % above the base's: one process of either side, or all of several blocks."""
    means = np.array(case.mean_ns)
    take = (0, slice(0, 1)) if n_blocks == 1 else (slice(0, n_blocks), slice(None))
    base, head = means[drawn.base[take]].mean(), means[drawn.head[take]].mean() * (1 + slowdown)
    return bool(head > THRESHOLD * base)


def upper_bound(hits: int, n: int) -> float:
    """The exact one-sided 95 % bound of a share (Clopper and Pearson, Biometrika 26 (1934), 404)."""
    return float(stats.binomtest(hits, n, alternative="less").proportion_ci(0.95, method="exact").high)


def share(hits: int, n: int) -> str:
    return f"{hits}/{n} = {hits / n:.2%} (at most {upper_bound(hits, n):.2%})"


def report_alarms(checks: list[list[Seen]], options: argparse.Namespace) -> None:
    n = len(checks)
    rules = {
        "edgeprof": lambda s: s.verdict.outcome == "regressed",
        "edgeprof without its re-run": lambda s: s.first_alarm,
        "pytest-benchmark mean:5%": lambda s: s.pytest_benchmark,
        "mean + 5 %": lambda s: s.mean,
    }
    print(f"A/A: {n} checks of {options.suite} cases. Checks with a false alarm, exact one-sided 95 % bound:")
    for name, rule in rules.items():
        alarmed, single = sum(any(map(rule, c)) for c in checks), sum(rule(s) for c in checks for s in c)
        print(f"  {name:28} {share(alarmed, n):42} of cases {single / (n * options.suite):.3%}")
    print("A/A: what cases were called, and what that took (blocks and seconds a case: median, 95th percentile):")
    seen = [s for c in checks for s in c]
    for kind in ("all", *sorted({s.kind for s in seen})):
        some = [s for s in seen if kind in ("all", s.kind)]
        called = Counter(s.verdict.outcome for s in some)
        outcomes = ", ".join(f"{name} {count / len(some):.1%}" for name, count in called.most_common())
        print(f"  {kind:18} {outcomes:60} {spent(some)}")


def report_detection(found: dict[float, list[list[Seen]]], options: argparse.Namespace) -> None:
    print(f"\nDetection: {options.detections} checks for each slowdown of one case")
    columns = (
        "caught",
        f"within {options.budget_s:g} s",
        "called unchanged",
        "pytest-benchmark",
        "mean + 5 %",
        "spent",
    )
    print(f"  {'':24}" + "".join(f"{name:>18}" for name in columns))
    for slowdown, checks in found.items():
        slowed = [s for c in checks for s in c if s.slowed]
        for kind in ("all", *sorted({s.kind for s in slowed})):
            some = [s for s in slowed if kind in ("all", s.kind)]
            caught = [s for s in some if s.verdict.outcome == "regressed"]
            in_time = [s for s in caught if s.seconds <= options.budget_s]
            unchanged = [s for s in some if s.verdict.outcome == "unchanged"]
            by_rules = [s for s in some if s.pytest_benchmark], [s for s in some if s.mean]
            cells = "".join(f"{len(x) / len(some):18.1%}" for x in (caught, in_time, unchanged, *by_rules))
            print(f"  +{slowdown:4.0%} {kind:18}{cells}   {spent(some)}")


def spent(seen: list[Seen]) -> str:
    blocks, seconds = [s.n_blocks for s in seen], [s.seconds for s in seen]
    return (
        f"{np.median(blocks):.0f}, {np.quantile(blocks, 0.95):.0f} blocks; "
        f"{np.median(seconds):.0f}, {np.quantile(seconds, 0.95):.0f} s"
    )


if __name__ == "__main__":
    main()
