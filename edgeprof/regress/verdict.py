"""What a check says of each case, and of the suite: an alarm needs three witnesses, and so does silence need evidence.

``regressed`` needs all of: a corrected p below alpha, an interval wholly beyond the floor, and fresh blocks that say the same.
``unchanged`` is no default: the interval has to lie inside the floor. What is neither is ``inconclusive``.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgeprof.core.errors import ExitCode
from edgeprof.regress.correction import corrected
from edgeprof.regress.sequential import MIN_BLOCKS, Block, Decision, Plan, conclude

Outcome = Literal["improved", "unchanged", "regressed", "inconclusive", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What may be said of one case. ``ratio`` is head over base; ``reason`` says in words why the outcome is what it is.

    ``floor`` is the change that the interval was held against, as a share. ``p`` and ``p_corrected`` are None for sizes, which
    have no sampling error to speak of, and where nothing was measured.
    """

    case_key: str
    ratio: float | None
    ratio_ci95: tuple[float, float] | None
    p: float | None
    p_corrected: float | None
    outcome: Outcome
    n_blocks: int
    floor: float
    reason: str


def judge(
    cases: Mapping[str, Sequence[Block]], plan: Plan, rerun: Mapping[str, Sequence[Block]] | None = None
) -> dict[str, Verdict]:
    """The verdict of every case from its blocks, and from the fresh blocks of those that were run again.

    A case without a block (one side does not have it, or none was measured) is ``missing``. Call it once with the first run's
    blocks, run the ``suspects`` again under ``rerun_plan``, and call it with both.
    """
    again = rerun_plan(plan)
    return judge_decisions(
        {key: conclude(blocks, plan) for key, blocks in cases.items()},
        plan,
        {key: conclude(blocks, again) for key, blocks in (rerun or {}).items()},
    )


def judge_decisions(decisions: Mapping[str, Decision], plan: Plan, fresh: Mapping[str, Decision]) -> dict[str, Verdict]:
    """The same from decisions, wherever they come from; ``fresh`` are those of a second run."""
    p_corrected = corrected({key: decision.p for key, decision in decisions.items()})
    return {key: _verdict(key, found, p_corrected[key], plan, fresh.get(key)) for key, found in decisions.items()}


def suspects(cases: Mapping[str, Sequence[Block]], plan: Plan) -> list[str]:
    """The cases that only a run of fresh blocks can tell from a false alarm."""
    verdicts = judge(cases, plan)
    return [key for key, verdict in verdicts.items() if verdict.reason == NOT_RERUN]


RERUN_FLOOR_SHARE = 0.5
"""Of the first run's floor. Drawn from the recordings of docs/check.md (500 checks), 80 % of slowdowns by 5 % are caught within
60 s a case; 72 % with all of it."""


def rerun_plan(plan: Plan) -> Plan:
    """The plan of a second run: each case answers for itself, singled out before its blocks were seen, to half of the floor.

    The first run has said how large the change is; the second one says that it was no chance, and takes fewer blocks for it.
    """
    return replace(plan, n_cases=1, floor=plan.floor * RERUN_FLOOR_SHARE)


NOT_RERUN = "looks slower, but was not run again to see whether that holds"


def _verdict(key: str, found: Decision, p_corrected: float, plan: Plan, fresh: Decision | None) -> Verdict:
    outcome, reason = _outcome(found, p_corrected, plan, fresh)
    measured = found.n_blocks > 0
    return Verdict(
        case_key=key,
        ratio=found.ratio,
        ratio_ci95=found.ratio_ci95,
        p=found.p if measured else None,
        p_corrected=p_corrected if measured else None,
        outcome=outcome,
        n_blocks=found.n_blocks,
        floor=found.floor,
        reason=reason,
    )


def _outcome(found: Decision, p_corrected: float, plan: Plan, fresh: Decision | None) -> tuple[Outcome, str]:
    if found.n_blocks == 0:
        return "missing", "no block has both sides"
    if found.ratio_ci95 is None:
        return (
            "inconclusive",
            f"{found.n_blocks} blocks bound no ratio at alpha {plan.alpha}; at least {MIN_BLOCKS} are needed",
        )
    if found.state == "equivalence":
        return "unchanged", f"the interval lies inside ±{plan.floor:.1%}"
    if found.state == "go_on":
        return "inconclusive", _why_open(found, plan)
    if p_corrected > plan.alpha:
        return "inconclusive", f"corrected over the suite, p is {p_corrected:.2g}, not below {plan.alpha}"
    beyond = f"the interval lies beyond {found.floor:.1%}"
    if found.state == "improvement":
        return "improved", beyond
    if fresh is None:
        return "inconclusive", NOT_RERUN
    if fresh.state != "regression":
        return "inconclusive", f"{beyond}, but a second run's not beyond {fresh.floor:.1%} ({_interval_text(fresh)})"
    return "regressed", f"{beyond}, and a second run's beyond {fresh.floor:.1%} ({_interval_text(fresh)})"


def _why_open(found: Decision, plan: Plan) -> str:
    why = f"the interval {_interval_text(found)} lies neither inside nor beyond ±{plan.floor:.1%}"
    if found.floor > plan.floor:
        why += f"; the noise of this case asks for {found.floor:.1%} before an alarm"
    return why


def _interval_text(decision: Decision) -> str:
    if decision.ratio_ci95 is None:
        return f"{decision.n_blocks} blocks only"
    low, high = decision.ratio_ci95
    return f"{low:.3f} to {high:.3f}"


FILE_SIZE_FLOOR = 0.01
"""Growth of a file that is told by default: an artifact of unchanged code has the same size to the byte."""

PEAK_MEMORY_FLOOR = 0.02
"""Growth of peak memory that is told by default."""

MEMORY_STEP_BYTES = 2**20 // 10
"""Smaller changes of a peak are none: twenty-five pages of 4 KiB, which an allocator or the loader may or may not touch."""

MIN_MEMORY_READINGS = 6
"""Fewest fresh processes a side whose peaks are compared.

Peaks of unchanged code come in steps: two probes of one torch prefill read 217 and 225 MiB on the recordings in the repository.
Where a reading is one of two values at the toss of a coin, all low against all high has a probability of 2 ** -12 with six a
side, and of one in 64 with three.
"""


def judge_file_size(case_key: str, base_bytes: int, head_bytes: int, floor: float = FILE_SIZE_FLOOR) -> Verdict:
    """Whether a file grew or shrank by more than ``floor``: a size is exact, so there is nothing to repeat.

    Raises:
        ValueError: a side has no bytes.
    """
    if min(base_bytes, head_bytes) <= 0:
        raise ValueError(f"{case_key}: a file of {min(base_bytes, head_bytes)} bytes cannot be compared")
    grown, allowed = head_bytes - base_bytes, floor * base_bytes
    outcome: Outcome = "regressed" if grown > allowed else "improved" if -grown > allowed else "unchanged"
    ratio, change = head_bytes / base_bytes, grown / base_bytes
    reason = f"{base_bytes} to {head_bytes} bytes ({change:+.2%}); sizes are exact, told beyond {floor:.1%}"
    return _size_verdict(case_key, ratio, (ratio, ratio), outcome, 1, floor, reason)


def judge_peak_memory(
    case_key: str, base_bytes: Sequence[int], head_bytes: Sequence[int], floor: float = PEAK_MEMORY_FLOOR
) -> Verdict:
    """Whether peak memory changed, from the peaks of fresh processes of either side: all of one side beyond all of the other.

    The floor is the largest of ``floor``, MEMORY_STEP_BYTES, and how far the readings of one side lie apart. The reported
    interval spans what any reading of the head over any of the base gives.

    Raises:
        ValueError: a reading is not positive.
    """
    n = min(len(base_bytes), len(head_bytes))
    if n == 0:
        return _size_verdict(case_key, None, None, "missing", 0, floor, "a side has no reading")
    if (least_read := min(*base_bytes, *head_bytes)) <= 0:
        raise ValueError(f"{case_key}: a peak of {least_read} bytes cannot be compared")
    base = statistics.median(base_bytes)
    ratio = statistics.median(head_bytes) / base
    least = max(floor, MEMORY_STEP_BYTES / base)
    noise = max(max(side) - min(side) for side in (base_bytes, head_bytes)) / base
    bounds = min(head_bytes) / max(base_bytes), max(head_bytes) / min(base_bytes)
    outcome, reason = _memory_outcome(ratio, bounds, least, noise, n)
    return _size_verdict(case_key, ratio, bounds, outcome, n, max(least, noise), reason)


def _memory_outcome(
    ratio: float, bounds: tuple[float, float], least: float, noise: float, n: int
) -> tuple[Outcome, str]:
    if n < MIN_MEMORY_READINGS:
        return "inconclusive", f"{n} readings a side; fewer than {MIN_MEMORY_READINGS} say nothing"
    change = abs(ratio - 1)
    told = f"{ratio - 1:+.2%}"
    if change > max(least, noise) and (bounds[0] > 1 or bounds[1] < 1):
        outcome: Outcome = "regressed" if ratio > 1 else "improved"
        return outcome, f"{told}, all readings of a side beyond all of the other, floor {max(least, noise):.1%}"
    if change <= least and noise <= least:
        return "unchanged", f"{told}, within {least:.1%}"
    return "inconclusive", f"{told}, but readings of one side lie {noise:.1%} apart"


def _size_verdict(
    case_key: str,
    ratio: float | None,
    bounds: tuple[float, float] | None,
    outcome: Outcome,
    n: int,
    floor: float,
    reason: str,
) -> Verdict:
    return Verdict(
        case_key=case_key,
        ratio=ratio,
        ratio_ci95=bounds,
        p=None,
        p_corrected=None,
        outcome=outcome,
        n_blocks=n,
        floor=floor,
        reason=reason,
    )


def exit_code(verdicts: Iterable[Verdict], *, pass_inconclusive: bool = False) -> ExitCode:
    """What the check ends with: the worst that was found, a regression before a missing base before an open case.

    No verdict at all is a missing base: a gate that looked at nothing has not passed.
    """
    found = {verdict.outcome for verdict in verdicts}
    if "regressed" in found:
        return ExitCode.REGRESSION
    if "missing" in found or not found:
        return ExitCode.BASELINE
    if "inconclusive" in found and not pass_inconclusive:
        return ExitCode.INCONCLUSIVE
    return ExitCode.OK
