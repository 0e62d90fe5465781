"""What a check came to, row by row, and the exit code that follows: verdicts, what is accepted of them, and budgets."""

import datetime
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from edgeprof.core.errors import ExitCode
from edgeprof.core.types import BenchCase
from edgeprof.regress.project_file import Acceptance, Quantity
from edgeprof.regress.sequential import Plan
from edgeprof.regress.sides import SideName
from edgeprof.regress.verdict import Verdict, exit_code, judge_file_size, judge_peak_memory

BudgetOutcome = Literal["kept", "over", "inconclusive", "not_measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One quantity of one case. ``base`` and ``head`` are medians in ns or bytes, None where a side has none.

    ``accepted`` lets a regression pass; ``note`` says why an acceptance that is there does not.
    """

    case: BenchCase
    quantity: Quantity
    verdict: Verdict
    base: float | None = None
    head: float | None = None
    accepted: Acceptance | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetResult:
    """A limit of a whole model and what was measured, both in ns or bytes."""

    name: str
    limit: float
    measured: float | None
    ci95: tuple[float, float] | None
    outcome: BudgetOutcome
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one part of a case took under the runtime's tracer on both sides, in ns."""

    name: str
    base_ns: float
    head_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """All of a check. ``changes`` are differences between the environments, ``parts`` where the time of a regressed case went."""

    base: str
    head: str
    device_id: str
    rows: tuple[Row, ...]
    plan: Plan
    seconds: float
    n_blocks: int = 0
    needed_s: float | None = None
    budgets: tuple[BudgetResult, ...] = ()
    recording: Path | None = None
    changes: tuple[str, ...] = ()
    parts: Mapping[str, tuple[Part, ...] | str] = field(default_factory=dict)

    def exit_code(self, *, pass_inconclusive: bool) -> ExitCode:
        """The worst of rows and budgets; what is accepted counts as passed."""
        counted = [row.verdict for row in self.rows if row.accepted is None]
        outcomes = {budget.outcome for budget in self.budgets}
        code = exit_code(counted, pass_inconclusive=pass_inconclusive) if counted or not self.rows else ExitCode.OK
        if code == ExitCode.REGRESSION or "over" in outcomes or "not_measured" in outcomes:
            return ExitCode.REGRESSION
        if code == ExitCode.OK and "inconclusive" in outcomes and not pass_inconclusive:
            return ExitCode.INCONCLUSIVE
        return code

    @property
    def outcome(self) -> str:
        """The check in one word, whatever is let pass by option: a verdict's outcome, or ``over_budget``."""
        found = {row.verdict.outcome for row in self.rows if row.accepted is None}
        if "regressed" in found:
            return "regressed"
        if any(budget.outcome in ("over", "not_measured") for budget in self.budgets):
            return "over_budget"
        if any(budget.outcome == "inconclusive" for budget in self.budgets):
            found.add("inconclusive")
        if not self.rows:
            return "missing"
        return next((o for o in ("missing", "inconclusive", "improved") if o in found), "unchanged")


def time_rows(
    cases: Sequence[BenchCase],
    verdicts: Mapping[str, Verdict],
    failures: Mapping[str, str],
    p50_ns: Mapping[str, Mapping[SideName, Sequence[int]]],
) -> list[Row]:
    """A row of time for each case; one that failed is missing, whatever was measured of it before."""
    rows = []
    for case in cases:
        verdict = verdicts[case.key]
        if case.key in failures:
            verdict = replace(verdict, outcome="missing", reason=failures[case.key])
        sides = p50_ns.get(case.key, {})
        rows.append(
            Row(
                case=case,
                quantity="time",
                verdict=verdict,
                base=median(sides.get("base", ())),
                head=median(sides.get("head", ())),
            )
        )
    return rows


def size_rows(
    cases: Sequence[BenchCase],
    identical: frozenset[str],
    peak_bytes: Mapping[str, Mapping[SideName, Sequence[int]]],
    file_bytes: Mapping[str, Mapping[SideName, int]],
) -> list[Row]:
    """Rows of peak memory and file size, for cases that are not the same artifact on both sides; those have no other answer."""
    rows = []
    for case in cases:
        if case.key in identical:
            continue
        peaks = peak_bytes.get(case.key)
        if peaks is not None:
            base, head = peaks["base"], peaks["head"]
            verdict = judge_peak_memory(case.key, base, head)
            rows.append(Row(case=case, quantity="peak_memory", verdict=verdict, base=median(base), head=median(head)))
        files = file_bytes.get(case.key)
        if files is not None:
            verdict = judge_file_size(case.key, files["base"], files["head"])
            rows.append(Row(case=case, quantity="file_size", verdict=verdict, base=files["base"], head=files["head"]))
    return rows


def median(values: Sequence[float]) -> float | None:
    """The median, None of nothing."""
    return statistics.median(values) if values else None


def accept(rows: Sequence[Row], accepted: Sequence[Acceptance], today: datetime.date) -> list[Row]:
    """The rows, with the regressions that are accepted marked, and those whose acceptance no longer holds noted."""
    by_question = {(entry.case_key, entry.quantity): entry for entry in accepted}
    marked = []
    for row in rows:
        entry = by_question.get((row.case.key, row.quantity))
        if entry is None or row.verdict.outcome != "regressed":
            marked.append(row)
            continue
        note = _why_not(entry, row.verdict.ratio, today)
        marked.append(replace(row, note=note) if note is not None else replace(row, accepted=entry))
    return marked


def _why_not(entry: Acceptance, ratio: float | None, today: datetime.date) -> str | None:
    if today > entry.expires:
        return f"its acceptance ({entry.reason}) expired on {entry.expires}: mend it, or accept it anew"
    if ratio is None or ratio > entry.max_ratio:
        return f"accepted up to {entry.max_ratio:.2f}x only ({entry.reason})"
    return None


def judge_budget(
    name: str, limit: float, measured: float | None, ci95: tuple[float, float] | None, reason: str = ""
) -> BudgetResult:
    """Whether a limit is kept: told only where the whole interval lies on one side of it; a figure without one is exact."""
    outcome: BudgetOutcome
    if measured is None:
        outcome = "not_measured"
    else:
        low, high = ci95 or (measured, measured)
        outcome = "kept" if high <= limit else "over" if low > limit else "inconclusive"
        change = measured / limit - 1
        reason = reason or f"{abs(change):.1%} {'over' if change > 0 else 'below'} the limit"
    assert limit > 0
    assert measured is None or math.isfinite(measured)
    return BudgetResult(name=name, limit=limit, measured=measured, ci95=ci95, outcome=outcome, reason=reason)
