"""Whether two cells differ: the ratio of their times, and what the same cell's ratio to itself looks like."""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

from edgeprof.stats.intervals import Mean, check_level, exp_bounds, independent_values, trimmed_centre, trimmed_mean

Round = TypeVar("Round", bound=Hashable)
"""Names one turn of fresh processes, unique over sessions."""

Rounds = Mapping[Round, Sequence[float]]
"""Logarithms of the load medians of a cell by round."""

MAX_SWAPS = 64
"""Ways to name the two sides of a cell's A/A pairs that are looked at: all of them up to 7 pairs, a seeded choice above."""

DEGENERATE_SD = 1e-12
"""Spread of logarithms below which values count as equal: a thousandth of a nanosecond in a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A time over another one; ``bounds`` and ``p_value`` are None where there are too few rounds to tell.

    ``n_pairs`` counts the rounds in which both were measured; 0 says that the comparison is unpaired.
    """

    estimate: float
    bounds: tuple[float, float] | None
    p_value: float | None
    n_pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseFloor:
    """How far from 1 the ratio of a cell to itself comes: the 95th percentile of |ratio - 1|, in all and by cell."""

    pooled: float
    by_cell: dict[str, float]


def paired_ratio(a: Rounds[Round], b: Rounds[Round], level: float = 0.95) -> Ratio:
    """The time of ``a`` over the time of ``b``, paired round by round so that the host's drift cancels.

    Student's t over the (trimmed) rounds that both have. Where they share fewer than two rounds the comparison is unpaired
    (Welch, over the means of the rounds, or over the loads where a side has only one round), and drift stays in.

    Raises:
        ValueError: a side has no load.
        UsageError: ``level`` is not between 0 and 1.
    """
    check_level(level)
    pairs = [_mean(a[key]) - _mean(b[key]) for key in a if a[key] and b.get(key)]
    if len(pairs) >= 2:
        return _ratio([(1, pairs)], level, n_pairs=len(pairs))
    return _ratio([(1, _independent(a)), (-1, _independent(b))], level, n_pairs=0)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _independent(rounds: Rounds[Round]) -> list[float]:
    loads = [(value, key) for key, values in rounds.items() for value in values]
    if not loads:
        raise ValueError("a ratio needs at least one load of each side")
    return independent_values([value for value, _ in loads], [key for _, key in loads])


def _ratio(groups: list[tuple[int, list[float]]], level: float, n_pairs: int) -> Ratio:
    """The ratio exp(sum of the groups' signed means), whose variance is the sum of those of the means.

    Source: K. K. Yuen, Biometrika 61 (1974), 165, which is Welch's test on trimmed means; with one group (the pairs) it is
    the paired test.
    """
    if any(len(values) < 2 for _, values in groups):
        estimate = math.exp(sum(sign * _mean(values) for sign, values in groups))
        return Ratio(estimate=estimate, bounds=None, p_value=None, n_pairs=n_pairs)
    means: list[tuple[int, Mean]] = [(sign, trimmed_mean(np.array(values))) for sign, values in groups]
    difference = float(sum(sign * mean.centre for sign, mean in means))
    estimate = math.exp(difference)
    variances = [float(mean.standard_error) ** 2 for _, mean in means]
    standard_error = math.sqrt(sum(variances))
    if standard_error < DEGENERATE_SD:
        p_value = 1.0 if abs(difference) < DEGENERATE_SD else 0.0
        return Ratio(estimate=estimate, bounds=(estimate, estimate), p_value=p_value, n_pairs=n_pairs)
    freedom = sum(variances) ** 2 / sum(v**2 / mean.freedom for v, (_, mean) in zip(variances, means, strict=True))
    half_width = float(stats.t.ppf((1 + level) / 2, freedom)) * standard_error
    return Ratio(
        estimate=estimate,
        bounds=exp_bounds(difference, half_width),
        p_value=2 * float(stats.t.sf(abs(difference) / standard_error, freedom)),
        n_pairs=n_pairs,
    )


def noise_floor(cells: Mapping[str, Rounds[Round]]) -> NoiseFloor | None:
    """The device's A/A noise: every cell measured against itself, paired as ratios of different cells are.

    The two sides are the two loads that a cell has in each round; a cell with one load a round is paired with itself in the
    round after, so its floor holds some drift. Which load is which side is arbitrary, so all ways to name them count.
    Each cell weighs the same. None where no cell has a pair.
    """
    deviations = {name: found for name, rounds in cells.items() if len(found := _aa_deviations(rounds))}
    if not deviations:
        return None
    weights = [np.full(len(found), 1 / len(found)) for found in deviations.values()]
    return NoiseFloor(
        pooled=_p95(np.concatenate(list(deviations.values())), np.concatenate(weights)),
        by_cell={name: _p95(found, np.ones(len(found))) for name, found in deviations.items()},
    )


def _aa_deviations(rounds: Rounds[Round]) -> np.ndarray:
    """The slower side over the faster one, less 1, for up to MAX_SWAPS ways to name the sides of a cell's pairs."""
    loads = [list(values) for values in rounds.values() if values]
    pairs = [(_mean(v[: len(v) // 2]), _mean(v[len(v) // 2 :])) for v in loads if len(v) >= 2]
    if not pairs:
        pairs = [(_mean(x), _mean(y)) for x, y in zip(loads[::2], loads[1::2], strict=False)]
    if not pairs:
        return np.empty(0)
    differences = np.array([a - b for a, b in pairs])
    if 2 ** (len(pairs) - 1) <= MAX_SWAPS:
        signs = np.array([(1, *rest) for rest in itertools.product((1, -1), repeat=len(pairs) - 1)])
    else:
        signs = np.random.default_rng(0).choice((1, -1), (MAX_SWAPS, len(pairs)))
    deviations: np.ndarray = np.expm1(np.abs(trimmed_centre(signs * differences)))
    return deviations


def _p95(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.quantile(values, 0.95, weights=weights, method="inverted_cdf"))


def different(ratio: Ratio, noise_floor: float) -> bool:
    """Whether a ratio's interval lies wholly beyond 1 +- ``noise_floor``: what may be called a difference."""
    if ratio.bounds is None:
        return False
    low, high = ratio.bounds
    return low > 1 + noise_floor or high < 1 - noise_floor
