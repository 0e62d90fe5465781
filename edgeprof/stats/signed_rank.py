"""Where the centre of paired differences lies, by ranks: exact for any symmetric distribution, however heavy its tails.

A paired difference whose two sides were measured in an order that a coin decided has, where the sides do not differ, a sign that
is a fair coin whatever its size: the test needs no assumption about the noise, nor that pairs are alike or independent in size.
A t test needs near-normal means, and at levels of a thousandth its tail is its weakest part.

Source: F. Wilcoxon, Biometrics Bulletin 1 (1945), 80; the interval: J. L. Hodges and E. L. Lehmann, Annals of Mathematical
Statistics 34 (1963), 598; both as in Hollander, Wolfe, Chicken: Nonparametric Statistical Methods (2014), sections 3.1 to 3.3.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Centre:
    """The centre of differences (Hodges-Lehmann), the bounds at the asked level, and the two-sided p of a centre of 0.

    The bounds are infinite where there are too few differences for the level: n of them tell nothing below 2 ** (1 - n).
    """

    estimate: float
    bounds: tuple[float, float]
    p_value: float


def signed_rank_centre(differences: np.ndarray, alpha: float) -> Centre:
    """The centre of at least one difference with the interval that misses it with a probability of at most ``alpha``.

    The interval excludes 0 exactly where the p value is at most ``alpha``. Ties and zeros count against a difference.

    Raises:
        ValueError: there is no difference, one is not finite, or ``alpha`` is no probability.
    """
    n = len(differences)
    if n == 0 or not np.isfinite(differences).all():
        raise ValueError("a centre needs at least one difference, and finite ones")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha} is not a probability")
    averages = _walsh_averages(np.asarray(differences, dtype=float))
    below = _at_most(n)
    cut = int(np.searchsorted(2 * below, alpha, side="right"))  # averages that may be left out at either end
    bounds = (-math.inf, math.inf) if cut == 0 else (float(averages[cut - 1]), float(averages[-cut]))
    against = min(int((averages <= 0).sum()), int((averages >= 0).sum()))
    return Centre(
        estimate=float(np.median(averages)),
        bounds=bounds,
        p_value=min(1.0, 2 * float(below[min(against, len(below) - 1)])),
    )


def _walsh_averages(values: np.ndarray) -> np.ndarray:
    """The sorted means of all pairs, each value with itself included; how many are positive is Wilcoxon's statistic."""
    first, second = np.triu_indices(len(values))
    averages: np.ndarray = np.sort((values[first] + values[second]) / 2)
    return averages


@functools.cache
def _at_most(n: int) -> np.ndarray:
    """``[k]``: probability that the ranks of the positive ones of n fair signs sum to at most k."""
    density = np.ones(1)
    for rank in range(1, n + 1):
        heads = np.concatenate([np.zeros(rank), density])
        density = (heads + np.pad(density, (0, rank))) / 2
    return density.cumsum()
