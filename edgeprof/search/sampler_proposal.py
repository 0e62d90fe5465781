"""Which layout to propose for a worth: the best one within the limits that the exact check lets pass."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeprof.core.errors import EdgeprofError, ExitCode
from edgeprof.search import solver
from edgeprof.search.additive import Additive
from edgeprof.search.linear import Layout, LinearLimit, Parameters

Check = Callable[[Layout], bool | Sequence[float]]
"""An exact check of a layout: whether it may be tried. Or by how much it exceeds the first limits, in their order and units:
it may be tried where nothing is above 0."""

MOST_TRIES = 10
"""Proposals of the solver that the exact check may refuse before layouts near those that passed it are looked at."""

N_STARTS = 6
"""Layouts that passed, from which to climb then."""

MOST_CHECKS = 60
"""Neighbours of one layout that the exact check is asked about."""

RANDOM_TRIES = 2000
"""Random layouts to look at for a start, before the solver is asked for one."""

N_CANDIDATES = 16
"""Random layouts within the limits of which the one farthest from all others is taken."""


class NoFeasibleLayoutError(EdgeprofError):
    """No layout keeps all limits, or the exact check refuses those that do (exit 1: the budgets cannot be met)."""

    exit_code = ExitCode.REGRESSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the check said: whether a layout passes, and by how much it exceeds the first limits if that is known."""

    passes: bool
    excess: tuple[float, ...] = ()


@dataclass(slots=True, kw_only=True)
class Proposer:
    """Proposes layouts of ``parameters`` within ``limits`` that pass ``check``."""

    parameters: Parameters
    limits: Sequence[LinearLimit] = ()
    check: Check | None = None

    def with_fixed(self, fixed: Mapping[str, str]) -> "Proposer":
        """This proposer with the choices of some parameters given."""
        parameters = {name: (fixed[name],) if name in fixed else own for name, own in self.parameters.items()}
        return replace(self, parameters=parameters)

    def best(self, objective: Additive, taken: Sequence[Layout]) -> dict[str, str] | None:
        """The layout that is worth most and not taken; None where all that may be tried are taken.

        A proposal that the check refuses is cut off, and the limits are drawn in by how much more than its linear value it has
        taken, as that of the next best is likely to be too small as well. Where nothing is left within limits drawn in, they
        are let out again.

        Raises:
            NoFeasibleLayoutError: the check refused ``MOST_TRIES`` layouts.
        """
        refused: list[Layout] = []
        limits, may_draw_in = list(self.limits), True
        while len(refused) < MOST_TRIES:
            solution = solver.solve(objective, self.parameters, limits, [*taken, *refused])
            if solution is None and limits == list(self.limits):
                return None
            if solution is None:
                limits, may_draw_in = list(self.limits), False
                continue
            verdict = self._verdict(solution.layout)
            if verdict.passes:
                return solution.layout
            refused.append(solution.layout)
            limits = self._drawn_in(limits, solution.layout, verdict.excess) if may_draw_in else limits
        layout = self._climbed(objective, taken)
        if layout is None:
            names = ", ".join(limit.name for limit in self.limits)
            raise NoFeasibleLayoutError(
                f"search: no layout within the linear limits ({names}) was found that passes the exact check; relax a budget"
            )
        return layout

    def _climbed(self, objective: Additive, taken: Sequence[Layout]) -> dict[str, str] | None:
        """The best new layout on climbs, one choice at a time, from the best of those taken that pass, or from random ones."""
        known = {self._key(layout) for layout in taken}
        starts = [layout for layout in taken if self.allows(layout)]
        if not starts:
            rng = np.random.default_rng(len(known))
            starts = [layout for layout in self.random_layouts(rng) if self._verdict(layout).passes]
        found: list[dict[str, str]] = []
        for start in sorted(starts, key=objective.value, reverse=True)[:N_STARTS]:
            at: Layout | None = start
            found += [] if self._key(start) in known else [dict(start)]
            while at is not None:
                at, new = self._step(objective, at, known)
                found += [] if new is None else [new]
        return max(found, key=objective.value, default=None)

    def _step(
        self, objective: Additive, at: Layout, known: set[tuple[tuple[str, str], ...]]
    ) -> tuple[dict[str, str] | None, dict[str, str] | None]:
        """The best neighbour that passes if it is worth more, and the best one that passes and is new."""
        neighbours = [{**at, name: c} for name, own in self.parameters.items() for c in own if c != at[name]]
        limits = self.grounded()
        able = [layout for layout in neighbours if all(limit.keeps(layout) for limit in limits)]
        passing = (
            layout
            for layout in sorted(able, key=objective.value, reverse=True)[:MOST_CHECKS]
            if self._verdict(layout).passes
        )
        first = next(passing, None)
        if first is None:
            return None, None
        new = next((layout for layout in (first, *passing) if self._key(layout) not in known), None)
        return (first if objective.value(first) > objective.value(at) else None), new

    def spread(self, rng: np.random.Generator, taken: Sequence[Layout]) -> dict[str, str] | None:
        """A random layout far from those taken; None where all that may be tried are taken.

        Raises:
            NoFeasibleLayoutError: the check refused all of them.
        """
        known = {self._key(layout) for layout in taken}
        candidates = {self._key(layout): layout for layout in self.random_layouts(rng)}
        for layout in sorted(
            (layout for key, layout in candidates.items() if key not in known),
            key=lambda layout: -_distance(layout, taken),
        ):
            if self._verdict(layout).passes:
                return layout
        at_random = {n: {c: float(rng.standard_normal()) for c in own} for n, own in self.parameters.items()}
        return self.best(Additive(choices=at_random), taken)

    def allows(self, layout: Layout) -> bool:
        """Whether a layout has the given choices, keeps the limits and passes the check."""
        return self.has(layout) and self._verdict(layout).passes

    def has(self, layout: Layout) -> bool:
        """Whether a layout has the given choices and keeps the limits."""
        given = all(layout[name] in own for name, own in self.parameters.items())
        return given and all(limit.keeps(layout) for limit in self.grounded())

    def random_layouts(self, rng: np.random.Generator) -> Iterable[dict[str, str]]:
        """Up to ``N_CANDIDATES`` layouts within the limits."""
        limits = self.grounded()
        found = 0
        for _ in range(RANDOM_TRIES):
            layout = {name: own[int(rng.integers(len(own)))] for name, own in self.parameters.items()}
            if all(limit.keeps(layout) for limit in limits):
                yield layout
                found += 1
                if found == N_CANDIDATES:
                    return

    def grounded(self) -> list[LinearLimit]:
        """The limits as ones of the given parameters only."""
        return [solver.grounded(limit, self.parameters) for limit in self.limits]

    def _verdict(self, layout: Layout) -> Verdict:
        if self.check is None:
            return Verdict(passes=True)
        said = self.check(layout)
        if isinstance(said, bool):
            return Verdict(passes=said)
        return Verdict(passes=all(by <= 0 for by in said), excess=tuple(said))

    def _drawn_in(self, limits: Sequence[LinearLimit], layout: Layout, excess: Sequence[float]) -> list[LinearLimit]:
        """The limits less what they underrate this layout by, where it exceeds one and by how much is said and finite."""
        by = [*excess, *[0.0] * len(limits)][: len(limits)]
        return [
            replace(limit, limit=min(limit.limit, given.value(layout) - over)) if 0 < over < math.inf else limit
            for limit, given, over in zip(limits, self.grounded(), by, strict=True)
        ]

    def _key(self, layout: Layout) -> tuple[tuple[str, str], ...]:
        return tuple((name, layout[name]) for name in self.parameters)


def _distance(layout: Layout, others: Sequence[Layout]) -> int:
    """The least number of choices in which a layout differs from another one."""
    return min((sum(layout[n] != other.get(n) for n in layout) for other in others), default=len(layout))
