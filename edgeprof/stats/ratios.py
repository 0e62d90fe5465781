"""Whether two cells differ: the ratio of their times, and what the same cell's ratio to itself looks like."""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

from edgeprof.stats.intervals import check_level, exp_bounds, independent_values

Round = TypeVar("Round", bound=Hashable)
"""Names one turn of fresh processes, unique over sessions."""

Rounds = Mapping[Round, Sequence[float]]
"""Logarithms of the load medians of a cell by round."""

MAX_SPLITS = 50
"""Ways to halve the rounds that are looked at for one cell: all of them up to 8 rounds, a seeded choice from 9 on."""

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

    Student's t over the rounds that both have. Where they share fewer than two rounds the comparison is unpaired
    (Welch, over the means of the rounds, or over the loads where a side has only one round), and drift stays in.

    Raises:
        ValueError: a side has no load.
        UsageError: ``level`` is not between 0 and 1.
    """
    check_level(level)
    pairs = [_mean(a[key]) - _mean(b[key]) for key in a if a[key] and b.get(key)]
    if len(pairs) >= 2:
        return _ratio(_mean(pairs), [pairs], level, n_pairs=len(pairs))
    values_a, values_b = _independent(a), _independent(b)
    return _ratio(_mean(values_a) - _mean(values_b), [values_a, values_b], level, n_pairs=0)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _independent(rounds: Rounds[Round]) -> list[float]:
    loads = [(value, key) for key, values in rounds.items() for value in values]
    if not loads:
        raise ValueError("a ratio needs at least one load of each side")
    return independent_values([value for value, _ in loads], [key for _, key in loads])


def _ratio(difference: float, groups: list[list[float]], level: float, n_pairs: int) -> Ratio:
    """The ratio exp(``difference``), whose variance is the sum of those of the groups' means.

    Source: B. L. Welch, Biometrika 34 (1947), 28; with one group (the pairs) this is Student's paired test.
    """
    estimate = math.exp(difference)
    if any(len(group) < 2 for group in groups):
        return Ratio(estimate=estimate, bounds=None, p_value=None, n_pairs=n_pairs)
    variances = [float(np.var(group, ddof=1)) / len(group) for group in groups]
    standard_error = math.sqrt(sum(variances))
    if standard_error < DEGENERATE_SD:
        p_value = 1.0 if abs(difference) < DEGENERATE_SD else 0.0
        return Ratio(estimate=estimate, bounds=(estimate, estimate), p_value=p_value, n_pairs=n_pairs)
    freedom = sum(variances) ** 2 / sum(v**2 / (len(g) - 1) for v, g in zip(variances, groups, strict=True))
    half_width = float(stats.t.ppf((1 + level) / 2, freedom)) * standard_error
    return Ratio(
        estimate=estimate,
        bounds=exp_bounds(difference, half_width),
        p_value=2 * float(stats.t.sf(abs(difference) / standard_error, freedom)),
        n_pairs=n_pairs,
    )


def noise_floor(cells: Mapping[str, Rounds[Round]]) -> NoiseFloor | None:
    """The device's A/A noise: half of a cell's rounds against its other half, over every cell and way to halve.

    Each cell weighs the same. Halves hold half of the loads, so the floor is a little larger than that of two whole
    measurements. None where no cell has loads in two rounds.
    """
    deviations = {name: found for name, rounds in cells.items() if len(found := _half_deviations(rounds))}
    if not deviations:
        return None
    weights = [np.full(len(found), 1 / len(found)) for found in deviations.values()]
    return NoiseFloor(
        pooled=_p95(np.concatenate(list(deviations.values())), np.concatenate(weights)),
        by_cell={name: _p95(found, np.ones(len(found))) for name, found in deviations.items()},
    )


def _half_deviations(rounds: Rounds[Round]) -> np.ndarray:
    """The slower half of the rounds over the faster one, less 1, for up to MAX_SPLITS ways to halve them."""
    means = np.array([_mean(loads) for loads in rounds.values() if loads])
    n_rounds = len(means)
    if n_rounds < 2:
        return np.empty(0)
    half = n_rounds // 2
    if math.comb(n_rounds, half) <= (2 - n_rounds % 2) * MAX_SPLITS:  # every split of an even number occurs twice
        splits = list(itertools.combinations(range(n_rounds), half))
        if n_rounds % 2 == 0:  # the other half of every split comes later in the list
            splits = splits[: len(splits) // 2]
    else:
        random = np.random.default_rng(0)
        splits = [tuple(random.permutation(n_rounds)[:half]) for _ in range(MAX_SPLITS)]
    chosen = np.array(splits)
    sums = means[chosen].sum(axis=1)
    differences = sums / half - (means.sum() - sums) / (n_rounds - half)
    deviations: np.ndarray = np.expm1(np.abs(differences))
    return deviations


def _p95(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.quantile(values, 0.95, weights=weights, method="inverted_cdf"))


def different(ratio: Ratio, noise_floor: float) -> bool:
    """Whether a ratio's interval lies wholly beyond 1 +- ``noise_floor``: what may be called a difference."""
    if ratio.bounds is None:
        return False
    low, high = ratio.bounds
    return low > 1 + noise_floor or high < 1 - noise_floor
