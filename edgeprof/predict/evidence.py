"""What the store knows of a cell: its cost in each ring, process by process, and its memory."""

import copy
import dataclasses
import math
import statistics
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from edgeprof.core.types import PROTOCOL_VERSION, BenchCase, InstanceRecord
from edgeprof.store.pooling import build_of

Process = tuple[str, int]
"""Session and round: one fresh process of a runtime."""

Ring = tuple[str, int, int, tuple[str, ...]]
"""Session, round, working set and places: one ring in one process."""

Sample = tuple[float, float, float]
"""A place's net cost, its null call, and the stretch that both contain."""

BELOW, ABOVE = 0.8, 1.25
"""A working set may lie this far outside the measured rings: the cost of the nearest ring is taken.

Source: the assembled-ring experiments, where errors grew beyond these factors."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A cell's net cost (the null call subtracted) by the ring's working set, in one process; ``call_ns`` is the null call.

    ``stretch`` is how much longer than its calls' medians a pass over the ring took; the costs contain it.
    """

    points: dict[int, float] = field(default_factory=dict)
    call_ns: float = 0.0
    stretch: float = 1.0

    def covers(self, size: int) -> bool:
        """Whether ``size`` lies within the rings, or near enough."""
        return BELOW * min(self.points) <= size <= ABOVE * max(self.points)

    def at(self, size: int) -> float:
        """The cost at a working set, linear between rings, constant beyond them."""
        below, above = self.around(size)
        if above == below:
            return self.points[above]
        share = (size - below) / (above - below)
        return self.points[below] + share * (self.points[above] - self.points[below])

    def change(self, size: int) -> float:
        """Relative difference between the costs in the two rings around a working set."""
        ends = [self.points[ring] for ring in self.around(size)]
        return max(ends) / min(ends) - 1

    def around(self, size: int) -> tuple[int, int]:
        """The rings next below and above a working set; the same one twice where it is hit, or where there is none beyond."""
        known = sorted(self.points)
        below, above = bisect_right(known, size) - 1, bisect_left(known, size)
        return known[max(below, 0)], known[min(above, len(known) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Which records count: those of this environment, and of one session only, or of the sessions before one."""

    fingerprint: str
    only_session: str | None = None
    before_session: str | None = None


class Evidence:
    """The stored streaming records of one device, looked up by cell; which of them count is the ``conditions``' matter."""

    def __init__(self, records: Iterable[InstanceRecord], conditions: Conditions) -> None:
        self.conditions = conditions
        self._loads: dict[str, list[InstanceRecord]] = defaultdict(list)
        self._probes: dict[str, list[InstanceRecord]] = defaultdict(list)
        self._contexts: dict[str, set[int]] = defaultdict(set)
        self._rings: dict[Ring, list[InstanceRecord]] = defaultdict(list)
        self._stretches: dict[Ring, float] = {}
        self._curves: dict[str, dict[Process, Curve]] = {}
        self._order: dict[str, int] = {}
        keys: dict[str, str] = {}
        for record in records:
            self._order.setdefault(record.session_id, len(self._order))
            if record.case is None or record.status != "ok" or record.kind not in ("latency", "probe"):
                continue
            if record.case_key not in keys:  # hashing a case takes longer than all else here
                keys[record.case_key] = open_ring(record.case).key
                self._contexts[_without_context(record.case)].add(record.case.kv_len)
            if record.kind == "probe":
                self._probes[keys[record.case_key]].append(record)
            elif record.ring_bytes:
                self._loads[keys[record.case_key]].append(record)
                self._rings[_ring(record)].append(record)

    def under(self, conditions: Conditions) -> "Evidence":
        """The same records, others of which count."""
        other = copy.copy(self)
        other.conditions = conditions
        other._curves = {}
        return other

    def loads(self, cell: BenchCase) -> Iterator[InstanceRecord]:
        """The timed records of the cell in rings of any size, under equal conditions."""
        build = build_of(cell, PROTOCOL_VERSION, self.conditions.fingerprint)
        found = self._loads.get(cell.key, [])
        return (record for record in found if self._counts(record.session_id) and build.made(record))

    def _counts(self, session_id: str) -> bool:
        """Whether a session is wanted; the store holds sessions in the order in which they began."""
        only, before = self.conditions.only_session, self.conditions.before_session
        last = self._order.get(before, len(self._order)) if before is not None else len(self._order)
        return only in (None, session_id) and self._order[session_id] < last

    def probes(self, cell: BenchCase) -> list[InstanceRecord]:
        """The cell's memory and numerics in fresh processes of their own, whichever session they are from."""
        build = build_of(cell, PROTOCOL_VERSION, self.conditions.fingerprint)
        return [record for record in self._probes.get(cell.key, ()) if build.made(record)]

    def curves(self, cell: BenchCase) -> dict[Process, Curve]:
        """The cell's curve in every process that measured it, under equal conditions; made once."""
        if cell.key not in self._curves:
            self._curves[cell.key] = self._made_curves(cell)
        return self._curves[cell.key]

    def _made_curves(self, cell: BenchCase) -> dict[Process, Curve]:
        raw: dict[Process, dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
        for record in self.loads(cell):
            assert record.ring_bytes is not None
            stretch = self._stretch(_ring(record))
            call = float(record.call_overhead_ns or 0)
            net = statistics.median(record.samples_ns) - call
            raw[record.session_id, record.round][record.ring_bytes].append((stretch * net, stretch * call, stretch))
        return {process: _curve(rings) for process, rings in raw.items()}

    def _stretch(self, ring: Ring) -> float:
        """The median pass over a ring, in units of the sum of its calls' medians.

        A busy host takes the CPU away for slices of milliseconds. Most short calls escape, so their medians do not show it;
        a pass over the ring does not escape, nor does a call of the whole model, which takes about as long.
        """
        if ring not in self._stretches:
            places = [record.samples_ns for record in self._rings[ring]]
            passes = [math.fsum(calls) for calls in zip(*places, strict=False)]
            apart = math.fsum(statistics.median(samples) for samples in places)
            self._stretches[ring] = statistics.median(passes) / apart
        return self._stretches[ring]

    def contexts(self, cell: BenchCase) -> list[int]:
        """The contexts at which the cell, but for its context, was ever measured."""
        return sorted(self._contexts.get(_without_context(cell), ()))


def _ring(record: InstanceRecord) -> Ring:
    return record.session_id, record.round, record.ring_bytes or 0, tuple(record.ring)


def _curve(rings: dict[int, list[Sample]]) -> Curve:
    points = {size: max(1.0, statistics.fmean(net for net, _, _ in found)) for size, found in rings.items()}
    calls, stretches = zip(*((call, stretch) for found in rings.values() for _, call, stretch in found), strict=True)
    return Curve(points, statistics.fmean(calls), statistics.fmean(stretches))


def open_ring(case: BenchCase) -> BenchCase:
    """The case without its ring: the cell."""
    return dataclasses.replace(case, ring_bytes=None)


def _without_context(case: BenchCase) -> str:
    """Names the cell at whatever context."""
    return dataclasses.replace(open_ring(case), kv_len=case.q_len).key
