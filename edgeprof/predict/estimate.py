"""From the curves of cells to the time of a call: looked up, interpolated, summed, with an interval."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprof.core.types import BenchCase
from edgeprof.predict.evidence import Curve, Evidence, Process
from edgeprof.predict.plan import CellCount
from edgeprof.predict.types import Estimate, Term
from edgeprof.stats.intervals import exp_bounds, half_width, trimmed_mean

LEAST_PROCESSES = 3
"""Fewer fresh processes than this say nothing of how much processes differ."""

HALF_CACHED = 0.15
"""A model whose cost changes by more between two rings half lives in the cache."""

DISAGREE = 0.10
"""Processes whose totals scatter by more (standard deviation of the logarithm) disagree."""

BUSY = 1.15
"""Passes that took longer than their calls' medians by more than this were taken on a busy host."""

BETWEEN_CONTEXTS = 0.10
"""Error granted to a cost halfway between two measured contexts, as a share of their difference; less nearer to either.

The cost of attention grows linearly with the context but for the steps of a cache and of a kernel's blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TermCost:
    """One cell's net cost at the model's working set, in each process that tells."""

    cell: CellCount
    costs: dict[Process, float]
    call_ns: dict[Process, float]
    interpolated: bool
    uncertainty_ns: float = 0.0
    change: float = 0.0
    stretch: float = 1.0


def look_up(evidence: Evidence, cell: CellCount, size: int) -> TermCost | None:
    """The cell's cost at a working set of ``size`` bytes, measured or between two measured contexts; None if neither."""
    here = _at_context(evidence, cell, size, cell.case.kv_len)
    if here is not None or cell.case.kv_len == cell.case.q_len:
        return here
    known = [k for k in evidence.contexts(cell.case) if k > cell.case.q_len]
    below = [k for k in reversed(known) if k < cell.case.kv_len]
    above = [k for k in known if k > cell.case.kv_len]
    low, high = (
        next(filter(None, (_at_context(evidence, cell, size, k) for k in side)), None) for side in (below, above)
    )
    return None if low is None or high is None else _between(cell, low, high)


def _at_context(evidence: Evidence, cell: CellCount, size: int, kv_len: int) -> TermCost | None:
    """The cell's cost at a context where enough processes measured it around the working set."""
    case = dataclasses.replace(cell.case, kv_len=kv_len)
    curves = _covering(evidence.curves(case), size, case)
    if len(curves) < LEAST_PROCESSES:
        return None
    return _measured(dataclasses.replace(cell, case=case), curves, size)


def _covering(curves: dict[Process, Curve], size: int, case: BenchCase) -> dict[Process, Curve]:
    """The processes whose rings lie around the working set; a prefill is bound by arithmetic and any ring will do."""
    return {p: c for p, c in curves.items() if case.phase == "prefill" or c.covers(size)}


def _measured(cell: CellCount, curves: dict[Process, Curve], size: int) -> TermCost:
    return TermCost(
        cell=cell,
        costs={p: c.at(size) for p, c in curves.items()},
        call_ns={p: c.call_ns for p, c in curves.items()},
        interpolated=not all(min(abs(b / size - 1) for b in c.points) < 0.02 for c in curves.values()),
        change=statistics.median(c.change(size) for c in curves.values()),
        stretch=statistics.median(c.stretch for c in curves.values()),
    )


def _between(cell: CellCount, low: TermCost, high: TermCost) -> TermCost | None:
    """Linear between the costs at two contexts, process by process; None where too few processes measured both."""
    begin, end = low.cell.case.kv_len, high.cell.case.kv_len
    share = (cell.case.kv_len - begin) / (end - begin)
    shared = low.costs.keys() & high.costs.keys()
    if len(shared) < LEAST_PROCESSES:
        return None
    difference = abs(statistics.median(high.costs[p] - low.costs[p] for p in shared))
    return TermCost(
        cell=cell,
        costs={p: (1 - share) * low.costs[p] + share * high.costs[p] for p in shared},
        call_ns={p: low.call_ns[p] for p in shared},
        interpolated=True,
        uncertainty_ns=BETWEEN_CONTEXTS * difference * 4 * share * (1 - share),
        change=max(low.change, high.change),
        stretch=max(low.stretch, high.stretch),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The sum of terms: its logarithm, that logarithm's half-width at 95 % from the measuring alone, and what is odd about it."""

    log_ns: float
    half: float
    terms: tuple[Term, ...]
    warnings: tuple[str, ...]

    @property
    def ns(self) -> float:
        """The sum."""
        return math.exp(self.log_ns)

    def widened(self, more: float, shift: float = 0.0) -> Estimate:
        """The estimate whose logarithm is shifted, and its half-width added to ``more`` in quadrature."""
        centre = self.log_ns + shift
        lo, hi = exp_bounds(centre, math.hypot(self.half, more))
        return Estimate(value=math.exp(centre), lo=lo, hi=hi)


def add_up(costs: Sequence[TermCost], calls: int = 1) -> Total:
    """The time of ``calls`` calls of the model: every cell's net cost as often as it runs, and a call boundary for each.

    Where enough processes measured every cell, each process gives a total, and these are averaged: what a process does to
    all its cells cancels in nothing but counts once. Otherwise each cell is averaged alone and the standard errors add up,
    as if all were off in the same direction.
    """
    shared = set.intersection(*(set(c.costs) for c in costs))
    if len(shared) >= LEAST_PROCESSES:
        order = sorted(shared)
        totals = np.array([_total(costs, p, calls) for p in order])
        mean = trimmed_mean(np.log(totals))
        log_ns, half, scatter = float(mean.centre), float(half_width(mean)), float(np.log(totals).std(ddof=1))
    else:
        log_ns, half, scatter = _separately(costs, calls)
    extra = sum(c.cell.count * c.uncertainty_ns for c in costs) / math.exp(log_ns)
    return Total(
        log_ns=log_ns,
        half=math.hypot(half, extra),
        terms=_terms(costs),
        warnings=_warnings(costs, scatter, math.exp(log_ns)),
    )


def _total(costs: Sequence[TermCost], process: Process, calls: int) -> float:
    boundary = statistics.median(c.call_ns[process] for c in costs)
    return math.fsum(c.cell.count * c.costs[process] for c in costs) + calls * boundary


def _separately(costs: Sequence[TermCost], calls: int) -> tuple[float, float, float]:
    """Sum of the cells' own means, the half-width of its logarithm, and the largest scatter of a cell."""
    total = calls * statistics.median(v for c in costs for v in c.call_ns.values())
    half_ns, scatter = 0.0, 0.0
    for cost in costs:
        logs = np.log(np.array(list(cost.costs.values())))
        mean = trimmed_mean(logs)
        ns = cost.cell.count * math.exp(float(mean.centre))
        total += ns
        half_ns += ns * float(half_width(mean))
        scatter = max(scatter, float(logs.std(ddof=1)))
    return math.log(total), half_ns / total, scatter


def _terms(costs: Sequence[TermCost]) -> tuple[Term, ...]:
    terms = []
    for cost in costs:
        ns = math.exp(float(trimmed_mean(np.log(np.array(list(cost.costs.values())))).centre))
        how = "interpolated" if cost.interpolated else "measured"
        cell = cost.cell
        terms.append(
            Term(
                label=cell.label,
                call=cell.call,
                case=cell.case,
                count=cell.count,
                ns=ns,
                total_ns=cell.count * ns,
                how=how,  # type: ignore[arg-type]
            )
        )
    return tuple(terms)


def _warnings(costs: Sequence[TermCost], scatter: float, total_ns: float) -> tuple[str, ...]:
    found = []
    change = sum(c.change * c.cell.count * statistics.median(c.costs.values()) for c in costs) / total_ns
    if change > HALF_CACHED:
        found.append(
            f"half lives in the cache: its cost changes by {change:.0%} between the rings around its working set"
        )
    stretch = statistics.median(c.stretch for c in costs)
    if stretch > BUSY:
        found.append(
            f"the host was busy: passes took {stretch - 1:.0%} longer than the medians of their calls; measure when it is idle"
        )
    if scatter > DISAGREE:
        found.append(f"processes disagree: their totals scatter by {scatter:.0%}")
    return tuple(found)
