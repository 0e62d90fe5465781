"""The assembled ring: separately loaded cells called in model order, each call timed inside the pass."""

import itertools
import time
from collections.abc import Sequence

from edgeprof.bench.protocol import SETTLED_WITHIN, TIMED_PASSES, UNTIMED_PASSES, Clock
from edgeprof.core.types import MeasureProtocol
from edgeprof.runtimes.base import Call

BUDGET_FACTOR = 6
"""A ring measures many cells at once, so it may take this many times a single cell's time budget."""

MIN_BURSTS = 3
MAX_SAMPLES = 60


class Ring:
    """A list of bound calls and the samples of each, in ns, pass by pass.

    A decode burst is a few untimed passes and then timed ones back to back, as generation runs; a prefill burst is one timed
    pass. ``settled`` compares each cell's first half of samples with its second.
    """

    def __init__(self, calls: Sequence[Call], *, decode: bool, clock: Clock = time.perf_counter_ns) -> None:
        self.calls = list(calls)
        self.untimed, self.timed = (UNTIMED_PASSES, TIMED_PASSES) if decode else (0, 1)
        self.clock = clock
        self.samples: list[list[int]] = [[] for _ in self.calls]

    def run(self, protocol: MeasureProtocol) -> None:
        """Runs bursts until the time budget is spent, at least ``MIN_BURSTS`` of them after one that warms up."""
        self._pass()
        begin = self.clock()
        bursts = 0
        while bursts < MIN_BURSTS or self.clock() - begin < BUDGET_FACTOR * protocol.time_budget_ns:
            self._burst()
            bursts += 1
            if len(self.samples[0]) >= MAX_SAMPLES:
                return

    def _burst(self) -> None:
        for _ in range(self.untimed):
            self._pass()
        for _ in range(self.timed):
            for samples, ns in zip(self.samples, self._pass(), strict=True):
                samples.append(ns)

    def _pass(self) -> list[int]:
        clock = self.clock
        marks = [clock()]
        for call in self.calls:
            call()
            marks.append(clock())
        return [b - a for a, b in itertools.pairwise(marks)]

    @property
    def settled(self) -> list[bool]:
        """Whether each cell's later samples agree with its earlier ones, within three times the settling tolerance."""
        return [_agree(s) for s in self.samples]


def _agree(samples: list[int]) -> bool:
    half = len(samples) // 2
    if half == 0:
        return False
    early, late = sorted(samples[:half])[half // 2], sorted(samples[half:])[(len(samples) - half) // 2]
    return abs(late - early) <= 3 * SETTLED_WITHIN * early
