"""The best layout under linear limits, exactly: what a sampler's draw asks for, and how far a budget must be relaxed.

HiGHS solves the same problem (choices, neighbours as a flow, counts as indicators). For 16 slots of 4 or 7 choices under one or
two limits it took 60 to 160 ms at the median and up to 1.4 s, this search 17 to 29 ms and seldom more than 0.2 s, on the same
core (``benchmarks/samplers.py --solver``).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edgeprof.core.errors import EdgeprofError
from edgeprof.search.additive import Additive
from edgeprof.search.linear import Layout, LinearLimit, Parameters

BEAMS = (50, 500)
"""Labels of the searches before the last one; each begins from the best layout of the one before. Small problems end with the
second, which then drops none; with the first alone before it, the third takes seconds for some problems of 24 slots."""

MOST_LABELS = 100_000
"""Labels after any slot beyond which the search goes on with the most promising ones and no longer claims the optimum."""


class SolverLimitError(EdgeprofError):
    """Too many partial layouts to look at, and none of those looked at can be completed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A layout that keeps all limits, and its worth; ``is_optimal``: no other one is worth more, but for rounding."""

    layout: dict[str, str]
    value: float
    is_optimal: bool


def solve(
    objective: Additive,
    parameters: Parameters,
    limits: Sequence[LinearLimit] = (),
    forbidden: Iterable[Layout] = (),
    most_labels: int = MOST_LABELS,
) -> Solution | None:
    """The layout that is worth most among those that keep all limits and are not forbidden; None where there is none.

    For the least value of a limit under the others, give ``Additive(choices=limit.weights).scaled(-1)``. A parameter that a
    limit names and the problem does not have counts at its heaviest choice.

    Raises:
        SolverLimitError: nothing was found, and ``most_labels`` were too few to say that there is nothing.
    """
    from edgeprof.search.solver_bound import make_bound
    from edgeprof.search.solver_labels import LabelSearch
    from edgeprof.search.solver_problem import make_problem

    limits = [grounded(limit, parameters) for limit in limits]
    if not parameters:
        return _without_parameters(objective, limits, forbidden)
    if any(not limit.allows(limit.least()) for limit in limits):
        return None
    problem = make_problem(objective, parameters, limits, forbidden)
    best, bound = None, None
    for labels in (*BEAMS, most_labels):
        known = -float("inf") if best is None else best.value - objective.constant
        bound = make_bound(problem, known, bound)
        found = LabelSearch(problem, bound).run(known, labels)
        for chosen in found.chosen:
            layout = problem.layout(chosen)
            if all(limit.keeps(layout) for limit in limits):
                layout = {name: layout[name] for name in parameters}
                best = Solution(layout=layout, value=objective.value(layout), is_optimal=False)
                break
        if found.is_complete:
            return None if best is None else replace(best, is_optimal=True)
    if best is None:
        raise SolverLimitError(
            f"solver: no layout found among {most_labels} partial ones; relax a limit or remove choices"
        )
    return best


def grounded(limit: LinearLimit, parameters: Parameters) -> LinearLimit:
    """The limit as one of these parameters only: what it says of others is added at their heaviest choice."""
    absent = [choices for name, choices in limit.weights.items() if name not in parameters]
    if not absent:
        return limit
    weights = {name: choices for name, choices in limit.weights.items() if name in parameters}
    return replace(limit, weights=weights, constant=limit.constant + sum(max(c.values()) for c in absent))


def _without_parameters(
    objective: Additive, limits: Sequence[LinearLimit], forbidden: Iterable[Layout]
) -> Solution | None:
    """The empty layout, if it may be."""
    if any(True for _ in forbidden) or not all(limit.keeps({}) for limit in limits):
        return None
    return Solution(layout={}, value=objective.constant, is_optimal=True)
