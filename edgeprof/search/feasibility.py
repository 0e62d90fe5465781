"""Whether any layout keeps all budgets, before a single one is trained; and if none does, what each budget would have to be."""

import random
from collections.abc import Container, Sequence
from dataclasses import dataclass

from edgeprof.core.errors import BaselineError
from edgeprof.core.types import BenchCase
from edgeprof.models.block import BlockSpec
from edgeprof.operators.registry import make_spec
from edgeprof.predict.plan import cell_label
from edgeprof.search.budgets import Budget
from edgeprof.search.costs import Costs
from edgeprof.search.linear import Layout, LinearLimit, Weights, lightest
from edgeprof.search.space import FFN, Space

KNOWN_TRIES = 50
"""Random layouts to look through for one whose every cell was measured."""

TANGENTS = 8
"""Linear approximations of the figures, each at the layout that the last one led to, before the search for one is given up."""


COMMON_STEPS = 7
"""Halvings of the range of the common factor: it is found to less than a hundredth of what it is more than 1."""

MOST_DOUBLINGS = 12
"""Doublings of all budgets in search of one that leaves a layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """The least limit that one budget would have to have, all others as they are; None where no limit of it would help.

    ``together`` is what it would have to be if all budgets were relaxed by one factor, the smallest that leaves a layout: that
    layout's own figure, or the limit as it is where the figure keeps it. None where no factor was found.
    """

    budget: Budget
    needed: float | None
    together: float | None = None


def known_layout(costs: Costs, seed: int) -> Layout:
    """A layout that keeps the rules and whose figures are all known. Blocks that have none are left out once they were met.

    Raises:
        BaselineError: there is none, or none was found: names a cell that is missing.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    unknown: frozenset[BlockSpec] = frozenset()
    lacking: BenchCase | None = None
    for _ in range(KNOWN_TRIES):
        layout = _random_without(costs.space, unknown, rng)
        if layout is None:
            break
        missing = [case for figure in costs.figures(layout).values() for case in figure.missing]
        if all(figure.upper is not None for figure in costs.figures(layout).values()):
            return layout
        lacking = next(iter(missing), lacking)
        specs = [make_spec(case.op, case.dims) for case in missing]
        blocks = frozenset(spec for spec in specs if isinstance(spec, BlockSpec))
        if len(blocks) == len(
            set(specs)
        ):  # where embedding or head lack too, it is the whole model that no ring covers
            unknown |= blocks
    told = "" if lacking is None else f": {_told(costs, lacking)}"
    raise BaselineError(f"no layout of {costs.space.name} has all its cells measured{told}")


def _random_without(space: Space, blocks: Container[BlockSpec], rng: random.Random) -> Layout | None:
    """A random layout with none of these blocks that keeps the rules; None where there is none."""
    if not blocks:
        return space.random(rng)
    spaces: list[tuple[Space, Layout]] = [(space.fixed_ffn(ffn), {FFN: ffn}) for ffn in space.parameters.get(FFN, ())]
    rng.shuffle(spaces)
    for fixed, shared in spaces or [(space, {})]:
        weights, constant = fixed.block_sum(lambda block: float(block in blocks))
        none_of_them = LinearLimit(name="measured", weights=weights, constant=constant, limit=0)
        at_random = {name: {c: rng.random() for c in choices} for name, choices in fixed.parameters.items()}
        found = lightest(fixed.parameters, at_random, [*fixed.limits, none_of_them])
        if found is not None:
            return {**found, **shared}
    return None


def _told(costs: Costs, lacking: BenchCase) -> str:
    """A missing cell, and why it is."""
    if reason := costs.impossible.get(lacking.key):
        return reason
    what = cell_label(make_spec(lacking.op, lacking.dims))
    where = f"{lacking.runtime} {lacking.dtype}, {lacking.phase} at {lacking.kv_len}"
    return f"{what} in {where}, is missing; edgeprof search measures cells on the device itself"


def feasible_layout(costs: Costs, seed: int) -> Layout | None:
    """A layout that keeps the rules and all budgets, or None where none was found.

    The figures' tangents are solved exactly; where the layout found does not keep a budget itself, they are taken again there.
    """
    around = known_layout(costs, seed)
    rules = list(costs.space.limits)
    frugal = lightest(costs.space.parameters, _relative(costs.limits(around)), rules)
    around = around if frugal is None or not _is_known(costs, frugal) else frugal
    for _ in range(TANGENTS):
        if costs.keeps(around):
            return around
        limits = costs.limits(around)
        found = lightest(costs.space.parameters, _relative(limits), [*limits, *rules])
        if found is None or not _is_known(costs, found) or found == around:
            return None
        around = found
    return around if costs.keeps(around) else None


def relaxations(costs: Costs, seed: int) -> list[Relaxation]:
    """For each budget the least figure that a layout has which keeps all others and the rules, and what all need together."""
    nearest = _nearest(costs, seed)
    limits = {limit.name: limit for limit in costs.limits(nearest or known_layout(costs, seed))}
    figures = {} if nearest is None else costs.figures(nearest)
    together = {name: max(f.budget.limit, f.upper or 0.0) for name, f in figures.items()}
    beyond = [name for name, figure in figures.items() if figure.excess > 0]
    return [
        Relaxation(
            budget=b,
            needed=_least(costs, b, limits, together[b.name] if beyond == [b.name] else None),
            together=together.get(b.name),
        )
        for b in costs.budgets
    ]


def _nearest(costs: Costs, seed: int) -> Layout | None:
    """The layout that the smallest common factor on all budgets leaves; None if no factor does."""

    def relaxed(factor: float) -> Layout | None:
        return feasible_layout(costs.with_limits(lambda budget: budget.limit * factor), seed)

    low, high = 1.0, 2.0
    best = relaxed(high)
    for _ in range(MOST_DOUBLINGS):
        if best is not None:
            break
        low, high = high, 2 * high
        best = relaxed(high)
    for _ in range(COMMON_STEPS if best is not None else 0):
        middle = (low + high) / 2
        found = relaxed(middle)
        low, high, best = (middle, high, best) if found is None else (low, middle, found)
    return best


def _least(costs: Costs, budget: Budget, limits: dict[str, LinearLimit], known: float | None) -> float | None:
    """The least figure with the other budgets kept; ``known`` is that of a layout which is known to keep them."""
    others = [limit for name, limit in limits.items() if name != budget.name]
    found = lightest(costs.space.parameters, limits[budget.name].weights, [*others, *costs.space.limits])
    least = None if found is None else costs.figure(budget, costs.space.config(found)).upper
    return known if least is None or (known is not None and known < least) else least


def _is_known(costs: Costs, layout: Layout) -> bool:
    return all(figure.upper is not None for figure in costs.figures(layout).values())


def _relative(limits: Sequence[LinearLimit]) -> Weights:
    """The sum of all budgets' weights, each in units of its limit: what a frugal layout has little of."""
    total: dict[str, dict[str, float]] = {}
    for limit in limits:
        for name, choices in limit.weights.items():
            own = total.setdefault(name, dict.fromkeys(choices, 0.0))
            for choice, weight in choices.items():
                own[choice] += weight / limit.limit
    return total
