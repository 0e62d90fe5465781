"""Limits that are linear in the choices of a space: what an exact solver can be told of rules, sizes and times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Layout = Mapping[str, str]
"""A choice for each parameter of a space."""

Parameters = Mapping[str, Sequence[str]]
"""The choices of each parameter."""

Weights = Mapping[str, Mapping[str, float]]
"""A weight for each choice of a parameter; a parameter that is left out weighs nothing."""

TOLERANCE = 1e-9
"""Relative slack of a limit: sums of floats in another order differ by less, and a byte of a gigabyte is not missed."""

SOLVER_SECONDS = 60
"""Limits that a solver of integer programs ponders for longer are beyond use."""

SOLVER_TOLERANCE = 1e-7
"""What HiGHS may call equal; a layout that it so takes over a limit is found out afterwards, and forbidden."""

MOST_NEAR_MISSES = 100
"""Layouts that may lie over a limit by less than the solver sees, before it is given up."""

OPTIMAL, INFEASIBLE = 0, 2
"""What ``scipy.optimize.milp`` calls these outcomes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLimit:
    """The sum of ``weights[parameter][choice]`` over the chosen choices, plus ``constant``, is at most ``limit``.

    A parameter that is left out of ``weights`` weighs nothing.
    """

    name: str
    weights: Weights
    constant: float
    limit: float

    def value(self, layout: Layout) -> float:
        """What is limited, for this layout."""
        return self.constant + sum(choices[layout[name]] for name, choices in self.weights.items())

    def keeps(self, layout: Layout) -> bool:
        """Whether the layout is within the limit, but for rounding."""
        return self.allows(self.value(layout))

    def allows(self, value: float) -> bool:
        """Whether a value is within the limit, but for rounding."""
        return value <= self.highest

    @property
    def highest(self) -> float:
        """The limit, with what rounding may add."""
        return self.limit + TOLERANCE * abs(self.limit)

    def least(self) -> float:
        """The least value that any layout has."""
        return self.constant + sum(min(choices.values()) for choices in self.weights.values())

    def most(self) -> float:
        """The largest value that any layout has."""
        return self.constant + sum(max(choices.values()) for choices in self.weights.values())


def lightest(parameters: Parameters, weights: Weights, limits: Sequence[LinearLimit]) -> dict[str, str] | None:
    """A layout of the least total weight among those that keep all limits; None where there is none.

    Raises:
        UsageError: the solver finds no answer in time.
    """
    columns = [(name, choice) for name, choices in parameters.items() for choice in choices]
    if not columns:
        return {} if all(limit.keeps({}) for limit in limits) else None
    place = {column: i for i, column in enumerate(columns)}
    rows = [_row(limit, place) for limit in limits]
    cost = [weights.get(name, {}).get(choice, 0.0) for name, choice in columns]
    one_of = [{place[name, choice]: 1.0 for choice in choices} for name, choices in parameters.items()]
    for _ in range(MOST_NEAR_MISSES):
        taken = _solve(cost, one_of, rows)
        if taken is None:
            return None
        layout = dict(columns[i] for i in taken)
        if all(limit.keeps(layout) for limit in limits):
            return layout
        rows.append((dict.fromkeys(taken, 1.0), len(taken) - 0.5))  # anything but this layout
    raise UsageError("limits: the solver cannot tell so many layouts from the limit; move a limit a little")


Row = tuple[Mapping[int, float], float]
"""Weights of columns, and the most that their sum may be."""


def _row(limit: LinearLimit, place: Mapping[tuple[str, str], int]) -> Row:
    """A limit in units of its own largest weight, so that the solver's tolerance is as small as its weights."""
    weights = {place[name, choice]: w for name, choices in limit.weights.items() for choice, w in choices.items()}
    unit = max(map(abs, weights.values()), default=0.0) or 1.0
    return {column: w / unit for column, w in weights.items()}, (limit.limit - limit.constant) / unit


def _solve(cost: Sequence[float], one_of: Sequence[Mapping[int, float]], rows: Sequence[Row]) -> list[int] | None:
    """The columns to take, one of each row of ``one_of``, so that they cost least; None where nothing keeps ``rows``.

    Raises:
        UsageError: there is no answer in time.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    unit = max(map(abs, cost)) or 1.0
    constraints = [LinearConstraint(_matrix(one_of, len(cost)), 1, 1)]
    if rows:
        matrix = _matrix([row for row, _ in rows], len(cost))
        constraints.append(LinearConstraint(matrix, -np.inf, [most + SOLVER_TOLERANCE for _, most in rows]))
    found = milp(
        [c / unit for c in cost],
        integrality=[1] * len(cost),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"time_limit": SOLVER_SECONDS, "mip_rel_gap": 0},
    )
    if found.status == INFEASIBLE:
        return None
    if found.status != OPTIMAL or found.x is None:
        raise UsageError(f"limits: the solver has no answer within {SOLVER_SECONDS} s; use fewer or simpler ones")
    return [i for i, taken in enumerate(found.x) if taken > 0.5]


def _matrix(rows: Sequence[Mapping[int, float]], n_columns: int) -> "csr_array":
    """A sparse matrix of rows that are given by their columns' values."""
    from scipy.sparse import csr_array

    flat = [(value, i, column) for i, row in enumerate(rows) for column, value in row.items() if value]
    values, row_numbers, column_numbers = zip(*flat, strict=True) if flat else ((), (), ())
    return csr_array((values, (row_numbers, column_numbers)), shape=(len(rows), n_columns))
