"""Synthetic checks from recorded blocks: how often the gate cries wolf, and what it catches, beside two plain rules.

Suites of cases are drawn from recordings of `edgeprof check` in which both sides were the same code, and judged by the very
functions that the command uses. Every alarm of an A/A check is false; for detection, one case of a suite has its head slowed. The
unit that is drawn is the block, four processes in turns, never the sample: samples of a process repeat each other. A coin says
which two of a drawn block's processes are the base's. A recording that does not stop early, of the suite `ci`, is made by

    edgeprof check --suite ci --base HEAD --floor 0 --no-memory --time-budget 30m

Those of gate_live.py's A/A checks serve too: a case that was clear early has fewer blocks in them.

The bounds below are those of drawing: other hosts, and other days of this one, are not in them. Rules beside ours, on the same
processes:
  pytest-benchmark   its `--benchmark-compare-fail=mean:5%`: the mean of one run's samples against one run of the base.
  mean + 5 %         the mean over as many processes of either side as our check used.

    python benchmarks/gate.py RECORDING... [--checks 2000] [--detections 500]
"""

import argparse
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from edgeprof.core.types import BenchCase
from edgeprof.regress.recording import RawBlock, read_recording
from edgeprof.regress.sequential import Block, Plan
from edgeprof.regress.verdict import Verdict, judge, rerun_plan, suspects
from edgeprof.stats.turns import log_times_in_turns

SLOWDOWNS = (0.03, 0.05, 0.10, 0.20)
THRESHOLD = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, nargs="+", help="recordings of checks whose sides were the same code")
    parser.add_argument("--checks", type=int, default=2000, help="A/A checks")
    parser.add_argument("--detections", type=int, default=500, help="checks for each slowdown")
    parser.add_argument("--suite", type=int, default=9, help="cases of a check")
    parser.add_argument("--floor", type=float, default=Plan().floor)
    parser.add_argument("--looks", type=lambda text: tuple(int(n) for n in text.split(",")), default=Plan().looks)
    parser.add_argument(
        "--budget-s", type=float, default=60, help="seconds a case within which a slowdown should be caught"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cases = recorded_cases(options.recordings)
    options.suite = min(options.suite, len(cases))
    plan = Plan(floor=options.floor, looks=options.looks, n_cases=options.suite)
    print(f"{plan}\nsuites of {options.suite} out of {len(cases)} recorded cases")
    for case in cases:
        print(f"  {case.kind:32} {len(case.times)} blocks, scatter {case.scatter:.1%}, {case.seconds:.2f} s a block")
    report_alarms([check(cases, plan, options, i, None) for i in range(options.checks)], options)
    report_detection(
        {s: [check(cases, plan, options, i, s) for i in range(options.detections)] for s in SLOWDOWNS}, options
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCase:
    """The blocks of one case, a row each of its four processes in the order measured.

    ``times``: logarithms of the processes' times; ``means``: the mean in ns of the samples of the process's first load, which
    is what a benchmark without a notion of loads would keep; ``seconds``: what a block takes, its share of starting processes
    included.
    """

    kind: str
    times: np.ndarray
    means: np.ndarray
    seconds: float

    @property
    def scatter(self) -> float:
        """Half of the range that the middle 68 % of the blocks' ratios lie in, the outer two processes over the inner two."""
        ratios = (self.times[:, 0] + self.times[:, 3] - self.times[:, 1] - self.times[:, 2]) / 2
        low, high = np.quantile(ratios, [0.16, 0.84])
        return float(high - low) / 2


def recorded_cases(paths: list[Path]) -> list[RecordedCase]:
    """The cases of all recordings with enough blocks to draw from; what a block took is its mean over the recordings."""
    by_case: dict[str, list[RawBlock]] = defaultdict(list)
    cases: dict[str, BenchCase] = {}
    seconds, n_blocks = 0.0, 0
    for recorded in map(read_recording, paths):
        cases |= recorded.cases
        for raw in recorded.raw_blocks:
            by_case[raw.case_key].append(raw)
        if recorded.seconds:  # one that was interrupted does not say how long it took
            seconds, n_blocks = seconds + recorded.seconds, n_blocks + len(recorded.raw_blocks)
    if not n_blocks:
        raise SystemExit("no recording came to its end: what a block takes is not known")
    return [recorded_case(cases[key], raws, seconds / n_blocks) for key, raws in by_case.items() if len(raws) >= 20]


def recorded_case(case: BenchCase, raws: list[RawBlock], seconds: float) -> RecordedCase:
    return RecordedCase(
        kind=f"{case.op} {case.runtime} {case.dtype} {case.phase}",
        times=np.array([log_times_in_turns(raw.processes) for raw in raws]),
        means=np.array([[np.mean(loads[0]) for loads in raw.processes] for raw in raws]),
        seconds=seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Blocks of a synthetic check: their rows, and which of each block's processes are the base's and the head's, (blocks, 2)."""

    rows: np.ndarray
    base: np.ndarray
    head: np.ndarray

    def of(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The base's and the head's values, (blocks, 2) each."""
        return values[self.rows[:, None], self.base], values[self.rows[:, None], self.head]

    def blocks(self, case: RecordedCase, slowdown: float = 0.0) -> list[Block]:
        """The blocks, with a head that takes 1 + ``slowdown`` times as long as it was measured."""
        base, head = self.of(case.times)
        sides = zip(base.tolist(), (head + math.log1p(slowdown)).tolist(), strict=True)
        return [Block(base=tuple(b), head=tuple(h)) for b, h in sides]


def draw(case: RecordedCase, n: int, rng: np.random.Generator) -> Drawn:
    """``n`` of the blocks with replacement; a coin says for each which side its outer two processes are."""
    outer, inner = np.array([0, 3]), np.array([1, 2])
    base_outside = rng.random((n, 1)) < 0.5
    return Drawn(
        rows=rng.integers(0, len(case.times), n),
        base=np.where(base_outside, outer, inner),
        head=np.where(base_outside, inner, outer),
    )


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
    seen = []
    for key, case in suite.items():
        n = verdicts[key].n_blocks + (repeated[key].n_blocks if key in repeated else 0)
        seen.append(
            Seen(
                kind=case.kind,
                verdict=verdicts[key],
                first_alarm=key in again,
                slowed=key == "0" and slowdown is not None,
                pytest_benchmark=rule_alarm(case, drawn[key], 1, added[key]),
                mean=rule_alarm(case, drawn[key], verdicts[key].n_blocks, added[key]),
                n_blocks=n,
                seconds=n * case.seconds,
            )
        )
    return seen


def rule_alarm(case: RecordedCase, drawn: Drawn, n_blocks: int, slowdown: float) -> bool:
    """Whether the head's mean lies more than 5 % above the base's: one process of either side, or all of several blocks."""
    base, head = drawn.of(case.means)
    if n_blocks == 1:
        base, head = base[:1, :1], head[:1, :1]
    base_mean, head_mean = base[:n_blocks].mean(), head[:n_blocks].mean() * (1 + slowdown)
    return bool(head_mean > THRESHOLD * base_mean)


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
        print(f"  {kind:32} {outcomes:60} {spent(some)}")


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
    print(f"  {'':38}" + "".join(f"{name:>18}" for name in columns))
    for slowdown, checks in found.items():
        slowed = [s for c in checks for s in c if s.slowed]
        for kind in ("all", *sorted({s.kind for s in slowed})):
            some = [s for s in slowed if kind in ("all", s.kind)]
            caught = [s for s in some if s.verdict.outcome == "regressed"]
            in_time = [s for s in caught if s.seconds <= options.budget_s]
            unchanged = [s for s in some if s.verdict.outcome == "unchanged"]
            by_rules = [s for s in some if s.pytest_benchmark], [s for s in some if s.mean]
            cells = "".join(f"{len(x) / len(some):18.1%}" for x in (caught, in_time, unchanged, *by_rules))
            print(f"  +{slowdown:4.0%} {kind:32}{cells}   {spent(some)}")


def spent(seen: list[Seen]) -> str:
    blocks, seconds = [s.n_blocks for s in seen], [s.seconds for s in seen]
    return (
        f"{np.median(blocks):.0f}, {np.quantile(blocks, 0.95):.0f} blocks; "
        f"{np.median(seconds):.0f}, {np.quantile(seconds, 0.95):.0f} s"
    )


if __name__ == "__main__":
    main()
