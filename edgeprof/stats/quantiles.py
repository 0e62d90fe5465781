"""Quantiles of the samples of one load, printed only where there are enough samples to know them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

P90_MIN_SAMPLES = 64
"""Samples below which a 90th percentile is not printed.

Source: MLPerf Inference rules, early stopping: the fewest queries that show a percentile with confidence 0.99.
"""

P99_MIN_SAMPLES = 662
"""Samples below which a 99th percentile is not printed. Source: as for P90_MIN_SAMPLES."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Quantiles in the unit of the samples; ``p90`` and ``p99`` are None where there are too few samples."""

    p10: float
    p50: float
    p90: float | None
    p99: float | None
    n_samples: int


def quantiles(samples: Sequence[int] | Sequence[float]) -> Quantiles:
    """The quantiles that ``samples`` are numerous enough for, interpolated linearly between neighbours.

    Raises:
        ValueError: there is no sample.
    """
    if not len(samples):
        raise ValueError("quantiles need at least one sample")
    p10, p50, p90, p99 = (float(q) for q in np.quantile(np.asarray(samples, dtype=float), (0.1, 0.5, 0.9, 0.99)))
    return Quantiles(
        p10=p10,
        p50=p50,
        p90=p90 if len(samples) >= P90_MIN_SAMPLES else None,
        p99=p99 if len(samples) >= P99_MIN_SAMPLES else None,
        n_samples=len(samples),
    )


def log_median(samples: Sequence[int] | Sequence[float]) -> float:
    """Natural logarithm of the median of a load's samples: the one number by which a load enters every interval.

    Raises:
        ValueError: there is no sample, or the median is not positive.
    """
    median = quantiles(samples).p50
    if median <= 0:
        raise ValueError(f"a median of {median} has no logarithm: times are positive")
    return math.log(median)
