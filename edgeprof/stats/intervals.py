"""The interval of a cell's time over fresh loads, which are nested in fresh processes.

Samples of one load repeat each other: what differs between two runs of a benchmark is where a load's memory lies and
what its process inherited. So a load counts as one value, the logarithm of its median, and the loads of a process as
one cluster. With y_ij = mu + process_i + load_ij, the means of the processes are independent whatever the two variances
are, and Student's t over these means, with one degree of freedom less than there are processes, covers mu at its
nominal level for any ratio of the variances. That holds from two processes on, hence one way for every number of loads:

* A bootstrap over fewer than about ten values under-covers: it resamples the spread it has seen, which a small sample
  understates by (n - 1) / n, and has no t quantile to make up for it. Over loads it also misses the process effect.
* Pooling the two variances when they look alike (a preliminary test) under-covers as well: with few processes the
  spread between them looks small by chance too often.

Disturbances of a host (other tenants, a daemon) only ever slow a process down, and sometimes a lot. From seven processes
on, the mean is therefore trimmed: a fifth of the processes is cut off at either end, and the interval is Yuen's. On three
recordings of the same 90 rows on a shared host this brought the spread between the recordings from 4.0 % to 2.7 % and the
width from 9.5 % to 8.1 %, at equal coverage. Below seven a trimmed t interval pays more in degrees of freedom than it gains.
"""

import math
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from edgeprof.core.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and the bounds that hold its true value at the asked level; no ``bounds`` from fewer than two loads.

    With ``n_processes`` = 1 the bounds speak of that process alone: they cannot know how much processes differ.
    """

    estimate: float
    bounds: tuple[float, float] | None
    n_loads: int
    n_processes: int

    @property
    def relative_width(self) -> float | None:
        """Width of the bounds in units of the estimate."""
        return None if self.bounds is None else (self.bounds[1] - self.bounds[0]) / self.estimate


TRIMMED_SHARE = 0.2
"""Share of the values that is cut off at either end."""

TRIMMED_FROM = 7
"""Fewest values that are trimmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A trimmed mean over the last axis of an array, with its standard error and degrees of freedom."""

    centre: np.ndarray
    standard_error: np.ndarray
    freedom: int


def trimmed_mean(values: np.ndarray) -> Mean:
    """The mean of independent ``values`` (last axis, at least two), trimmed from ``TRIMMED_FROM`` values on.

    Source: K. K. Yuen, Biometrika 61 (1974), 165: with h of n values left, the squared standard error is
    (n - 1) s_w^2 / (h (h - 1)), s_w the SD of the winsorised values, and h - 1 the degrees of freedom. Untrimmed, this is
    the ordinary mean.
    """
    n = values.shape[-1]
    cut = _cut(n)
    left = n - 2 * cut
    ordered = np.sort(values, axis=-1)
    winsorised = ordered.clip(ordered[..., cut, None], ordered[..., n - cut - 1, None])
    scale = math.sqrt((n - 1) / (left * (left - 1)))
    return Mean(
        centre=trimmed_centre(values),
        standard_error=scale * winsorised.std(axis=-1, ddof=1),
        freedom=left - 1,
    )


def trimmed_centre(values: np.ndarray) -> np.ndarray:
    """The trimmed mean alone, of one value (last axis) or more."""
    n = values.shape[-1]
    centre: np.ndarray = np.sort(values, axis=-1)[..., _cut(n) : n - _cut(n)].mean(axis=-1)
    return centre


def _cut(n: int) -> int:
    return int(TRIMMED_SHARE * n) if n >= TRIMMED_FROM else 0


def independent_values(log_values: Sequence[float], processes: Sequence[Hashable]) -> list[float]:
    """What may be treated as independent: the mean of each process, or the loads where there is only one process.

    A process counts once however many of its loads were completed, so an interrupted one does not tilt the estimate.
    """
    groups: dict[Hashable, list[float]] = {}
    for value, process in zip(log_values, processes, strict=True):
        groups.setdefault(process, []).append(value)
    if len(groups) == 1:
        return list(log_values)
    return [math.fsum(group) / len(group) for group in groups.values()]


def interval(
    log_values: Sequence[float], processes: Sequence[Hashable], drift_sd: float = 0.0, level: float = 0.95
) -> Interval:
    """A cell's p50 with its interval: exp of the (trimmed) mean over processes of the logarithms of its load medians.

    ``log_values[i]`` is the logarithm of the median of a load (see ``log_median``), ``processes[i]`` names the process
    that made the load, unique over sessions. ``drift_sd`` is the SD of the logarithm of the host's own speed between
    readings of a sentinel. It is known apart from the loads, so the half-widths add in quadrature, each with its own
    quantile: t of the loads' degrees of freedom, and the normal one for the drift.

    Source: Student's t over cluster means: Donner and Klar, Design and Analysis of Cluster Randomization Trials (2000),
    chapter 7; trimming: Yuen, see ``trimmed_mean``; sum of half-widths in quadrature (MOVER): Zou and Donner, Statistics in
    Medicine 27 (2008), 1693.

    Raises:
        ValueError: there is no load, a value is not finite, or the lengths differ.
        UsageError: ``level`` is not between 0 and 1.
    """
    check_level(level)
    if not len(log_values):
        raise ValueError("an interval needs at least one load")
    if not all(math.isfinite(value) for value in log_values):
        raise ValueError("every load needs a finite logarithm of its median")
    if not (math.isfinite(drift_sd) and drift_sd >= 0):
        raise ValueError(f"drift_sd {drift_sd} is not a standard deviation")
    values = independent_values(log_values, processes)
    centre, bounds = values[0], None
    if len(values) >= 2:
        mean = trimmed_mean(np.array(values))
        centre = float(mean.centre)
        bounds = exp_bounds(centre, float(half_width(mean, drift_sd, level)))
    return Interval(estimate=math.exp(centre), bounds=bounds, n_loads=len(log_values), n_processes=len(set(processes)))


def half_width(mean: Mean, drift_sd: float = 0.0, level: float = 0.95) -> np.ndarray:
    """Half of the width of the interval of a mean. See ``interval`` for what is in it."""
    of_loads = stats.t.ppf((1 + level) / 2, mean.freedom) * mean.standard_error
    of_drift = stats.norm.ppf((1 + level) / 2) * drift_sd
    width: np.ndarray = np.hypot(of_loads, of_drift)
    return width


def exp_bounds(centre: float, half: float) -> tuple[float, float]:
    """Bounds of exp(``centre``) from those of its logarithm, kept finite."""
    return math.exp(centre - half), math.exp(min(centre + half, math.log(sys.float_info.max)))


def check_level(level: float) -> None:
    """Refuses a confidence level that is no probability.

    Raises:
        UsageError: ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise UsageError(f"level: {level} is not a confidence level; use a number between 0 and 1, such as 0.95")
