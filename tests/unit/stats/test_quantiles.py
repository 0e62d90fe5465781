import math

import pytest

from edgeprof.stats.quantiles import P90_MIN_SAMPLES, P99_MIN_SAMPLES, log_median, quantiles


def test_quantiles_interpolate_between_neighbours():
    found = quantiles(range(0, 101, 10))
    assert (found.p10, found.p50, found.n_samples) == (10, 50, 11)
    assert quantiles([1, 2]).p50 == 1.5


@pytest.mark.parametrize(
    ("n_samples", "has_p90", "has_p99"),
    [
        (1, False, False),
        (P90_MIN_SAMPLES - 1, False, False),
        (P90_MIN_SAMPLES, True, False),
        (P99_MIN_SAMPLES - 1, True, False),
        (P99_MIN_SAMPLES, True, True),
    ],
)
def test_high_quantiles_need_enough_samples(n_samples, has_p90, has_p99):
    found = quantiles(list(range(n_samples)))
    assert ((found.p90 is not None), (found.p99 is not None)) == (has_p90, has_p99)


def test_thresholds_are_those_of_mlperf():
    assert (P90_MIN_SAMPLES, P99_MIN_SAMPLES) == (64, 662)


def test_a_load_enters_by_the_logarithm_of_its_median():
    assert log_median([1, 8, 1000]) == math.log(8)


def test_no_samples_have_no_quantiles():
    with pytest.raises(ValueError, match="at least one sample"):
        quantiles([])


def test_a_median_of_zero_is_refused():
    with pytest.raises(ValueError, match="times are positive"):
        log_median([0, 0])
