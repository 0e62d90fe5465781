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

The price is paid with two processes (t = 12.7); with four the interval is about half as wide again as one that knows
the variances. A slow load among the others widens the interval as much as it moves the estimate.
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
    """A cell's p50 with its interval: exp of the mean of the logarithms of its load medians.

    ``log_values[i]`` is the logarithm of the median of a load (see ``log_median``), ``processes[i]`` names the process
    that made the load, unique over sessions. ``drift_sd`` is the SD of the logarithm of the host's own speed between
    readings of a sentinel. It is known apart from the loads, so the half-widths add in quadrature, each with its own
    quantile: t of the loads' degrees of freedom, and the normal one for the drift.

    Source: Student's t over cluster means: Donner and Klar, Design and Analysis of Cluster Randomization Trials (2000),
    chapter 7; sum of half-widths in quadrature (MOVER): Zou and Donner, Statistics in Medicine 27 (2008), 1693.

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
    centre = math.fsum(values) / len(values)
    bounds = None
    if len(values) >= 2:
        bounds = exp_bounds(centre, float(half_width(np.array(values), drift_sd, level)))
    return Interval(estimate=math.exp(centre), bounds=bounds, n_loads=len(log_values), n_processes=len(set(processes)))


def half_width(values: np.ndarray, drift_sd: float = 0.0, level: float = 0.95) -> np.ndarray:
    """Half of the width of the interval of the mean of independent ``values`` (last axis, at least two of them).

    ``values`` and the result are logarithms; leading axes are other cells. See ``interval`` for what is in it.
    """
    n_values = values.shape[-1]
    standard_error = values.std(axis=-1, ddof=1) / math.sqrt(n_values)
    of_loads = stats.t.ppf((1 + level) / 2, n_values - 1) * standard_error
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
