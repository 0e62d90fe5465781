"""How samples are taken: counts by effort, warm-up until stable, and the timed loop."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.core.types import MeasureProtocol

MS = 1_000_000

EFFORTS: dict[str, MeasureProtocol] = {
    p.effort: p
    for p in (
        MeasureProtocol(
            effort="quick",
            rounds=7,
            loads=2,
            min_samples=3,
            max_samples=40,
            time_budget_ns=80 * MS,
            warmup_budget_ns=120 * MS,
        ),
        MeasureProtocol(
            effort="normal",
            rounds=12,
            loads=2,
            min_samples=5,
            max_samples=60,
            time_budget_ns=150 * MS,
            warmup_budget_ns=250 * MS,
        ),
        MeasureProtocol(
            effort="thorough",
            rounds=24,
            loads=3,
            min_samples=9,
            max_samples=100,
            time_budget_ns=300 * MS,
            warmup_budget_ns=500 * MS,
        ),
    )
}

WINDOW = 5
"""Calls whose median is compared with that of the window before, to see whether warm-up has ended."""

SETTLED_WITHIN = 0.03
"""Two windows' medians that differ by less have settled."""

SETTLED_WITHIN_SLOW = 0.10
"""The same for calls so slow that a window is a single one."""

UNTIMED_PASSES, TIMED_PASSES = 2, 3
"""Passes of a decode burst in a ring: generation runs back to back, so the cache is in its steady state."""

Clock = Callable[[], int]


def protocol_for(effort: str) -> MeasureProtocol:
    """The protocol with the counts of ``effort``.

    Raises:
        UsageError: the effort is unknown.
    """
    if effort not in EFFORTS:
        raise UsageError(f"unknown effort {effort!r}: {did_you_mean(effort, list(EFFORTS))}")
    return EFFORTS[effort]


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """How many calls warm-up took and whether the times had settled when it ended."""

    calls: int
    settled: bool


def warm_up(call: Callable[[], None], budget_ns: int, clock: Clock = time.perf_counter_ns) -> WarmUp:
    """Calls until two windows in a row agree, or the budget is spent.

    Calls slower than a twentieth of the budget are compared one by one, with a wider tolerance.
    """
    times: list[int] = []
    begin = clock()
    while True:
        before = clock()
        call()
        after = clock()
        times.append(after - before)
        slow = statistics.median(times) * 4 * WINDOW > budget_ns
        window, tolerance = (1, SETTLED_WITHIN_SLOW) if slow else (WINDOW, SETTLED_WITHIN)
        if len(times) > 2 * window:  # the first call alone never counts: it packs weights and faults pages in
            earlier, later = statistics.median(times[-2 * window : -window]), statistics.median(times[-window:])
            if abs(later - earlier) <= tolerance * earlier:
                return WarmUp(calls=len(times), settled=True)
        if after - begin > budget_ns and len(times) >= 3:
            return WarmUp(calls=len(times), settled=False)


def sample(call: Callable[[], None], protocol: MeasureProtocol, clock: Clock = time.perf_counter_ns) -> list[int]:
    """Times single calls in ns until the budget is spent or there are enough; never fewer than the minimum."""
    times: list[int] = []
    begin = clock()
    while len(times) < protocol.max_samples:
        before = clock()
        call()
        after = clock()
        times.append(after - before)
        if after - begin > protocol.time_budget_ns and len(times) >= protocol.min_samples:
            break
    return times


def spare_imports() -> None:
    """Has the garbage collector pass over all objects there are now: importing torch leaves some hundred thousand that stay.

    Collecting among them before each load took 110 ms with ExecuTorch and 45 ms with ONNX Runtime, more than the load itself.
    """
    gc.collect()
    gc.freeze()


class quiet_gc:  # noqa: N801 - used as a context, like contextlib's own
    """Keeps Python's garbage collector out of the timed loop."""

    def __enter__(self) -> None:
        gc.collect()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.enable()
