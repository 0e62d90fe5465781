import math

import numpy as np
import pytest
from scipy import stats

from edgeprof.core.errors import UsageError
from edgeprof.stats.intervals import half_width, interval, trimmed_mean

SHAPES = [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3), (4, 1), (4, 2), (5, 2), (6, 1), (7, 1), (7, 2), (12, 2)]
"""(processes, loads in each)."""

SPREADS = [(0.0, 0.01), (0.005, 0.01), (0.01, 0.01), (0.03, 0.005)]
"""(SD of the process effects, SD of the load effects), of the logarithm of the time."""

WITHIN_LOAD_SD = 0.003
REPETITIONS = 8000


def log_load_medians(rng, n_processes, n_loads, process_sd, load_sd, slow_share):
    """Logarithms of load medians, (repetitions, processes, loads), whose typical load takes a time of 1."""
    shape = (REPETITIONS, n_processes, n_loads)
    slow = np.log1p(rng.uniform(0.1, 0.3, shape)) * (rng.random(shape) < slow_share)
    process = rng.normal(0, process_sd, (REPETITIONS, n_processes, 1))
    return process + rng.normal(0, load_sd, shape) + rng.normal(0, WITHIN_LOAD_SD, shape) + slow


def typical_load(process_sd, load_sd, slow_share):
    """Logarithm of the true p50: half of all loads are faster."""
    sd = math.hypot(process_sd, load_sd, WITHIN_LOAD_SD)
    grid = np.linspace(-3 * sd, 3 * sd, 4001)
    shifts = np.log1p(np.linspace(0.1, 0.3, 201))
    slow = stats.norm.cdf((grid[:, None] - shifts) / sd).mean(axis=1)
    return float(np.interp(0.5, (1 - slow_share) * stats.norm.cdf(grid / sd) + slow_share * slow, grid))


@pytest.mark.parametrize("slow_share", [0.0, 0.05])
@pytest.mark.parametrize(("process_sd", "load_sd"), SPREADS)
@pytest.mark.parametrize(("n_processes", "n_loads"), SHAPES)
def test_the_95_percent_interval_covers_the_true_time(n_processes, n_loads, process_sd, load_sd, slow_share):
    rng = np.random.default_rng([n_processes, n_loads])
    values = log_load_medians(rng, n_processes, n_loads, process_sd, load_sd, slow_share)
    processes = values.mean(axis=2)
    mean = trimmed_mean(processes)
    half = half_width(mean)
    covered = np.abs(mean.centre - typical_load(process_sd, load_sd, slow_share)) <= half
    assert covered.mean() >= 0.93

    oracle = 1.96 * math.sqrt(process_sd**2 / n_processes + (load_sd**2 + WITHIN_LOAD_SD**2) / (n_processes * n_loads))
    excess = {2: 4.8, 3: 2.0, 4: 1.6, 5: 1.45, 6: 1.35, 7: 1.5, 12: 1.25}[n_processes]
    if slow_share == 0:
        assert 1 < np.median(half) / oracle < excess


def test_the_interval_is_the_one_that_was_simulated():
    values = log_load_medians(np.random.default_rng(0), 3, 2, 0.01, 0.01, 0.05)
    for cell in values[:20]:
        found = interval(cell.ravel(), [p for p in range(3) for _ in range(2)], drift_sd=0.01)
        half = half_width(trimmed_mean(cell.mean(axis=1)), drift_sd=0.01)
        assert found.estimate == pytest.approx(math.exp(cell.mean()))
        assert found.bounds == pytest.approx((math.exp(cell.mean() - half), math.exp(cell.mean() + half)))


def test_drift_between_sessions_is_covered_when_it_is_told():
    rng = np.random.default_rng(5)
    values = log_load_medians(rng, 4, 2, 0.005, 0.01, 0.0).mean(axis=2)
    shift = rng.normal(0, 0.02, REPETITIONS)
    error = np.abs(values.mean(axis=1) + shift)
    mean = trimmed_mean(values)
    assert (error <= half_width(mean, drift_sd=0.02)).mean() >= 0.93
    assert (error <= half_width(mean)).mean() < 0.8


def test_trimming_is_yuens_as_scipy_has_it():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 11), rng.normal(0.5, 3, 9)
    means = [trimmed_mean(x) for x in (a, b)]
    error = math.hypot(*(float(m.standard_error) for m in means))
    expected = stats.ttest_ind(a, b, equal_var=False, trim=0.2)
    assert float(means[0].centre - means[1].centre) / error == pytest.approx(expected.statistic)
    assert float(means[0].centre) == pytest.approx(stats.trim_mean(a, 0.2))


def test_one_disturbed_process_of_seven_moves_the_estimate_little():
    quiet = [0.0, 0.01, -0.01, 0.02, 0.0, -0.02, 0.005]
    disturbed = [*quiet[:-1], 1.0]
    processes = range(7)
    assert interval(disturbed, processes).estimate == pytest.approx(interval(quiet, processes).estimate, rel=0.01)
    assert interval(disturbed[:6], processes[:6]).n_processes == 6


def test_two_loads_give_students_interval():
    found = interval([math.log(100), math.log(102)], ["a", "b"])
    half = stats.t.ppf(0.975, 1) * math.log(1.02) / 2
    assert found.estimate == pytest.approx(math.sqrt(100 * 102))
    assert found.bounds == pytest.approx((found.estimate * math.exp(-half), found.estimate * math.exp(half)))
    assert (found.n_loads, found.n_processes) == (2, 2)


def test_one_load_has_an_estimate_and_no_bounds():
    found = interval([math.log(7)], [0], drift_sd=0.1)
    assert found.estimate == pytest.approx(7)
    assert found.bounds is None
    assert found.relative_width is None


def test_one_process_is_judged_by_its_loads_and_says_so():
    found = interval([1.0, 1.1, 1.3], [0, 0, 0])
    assert found.bounds is not None
    assert found.n_processes == 1
    assert found.bounds == interval([1.0, 1.1, 1.3], [0, 1, 2]).bounds


def test_loads_of_one_process_do_not_pass_for_independent_ones():
    values = [0.0, 0.001, 0.1, 0.101]
    clustered, naive = interval(values, [0, 0, 1, 1]), interval(values, [0, 1, 2, 3])
    assert clustered.relative_width > 3 * naive.relative_width


def test_a_process_that_lost_a_load_counts_like_the_others():
    found = interval([0.0, 0.0, 0.0, 0.3], [0, 0, 0, 1])
    assert found.estimate == pytest.approx(math.exp(0.15))


def test_equal_loads_give_an_interval_without_width():
    assert interval([2.0, 2.0, 2.0], [0, 1, 2]).relative_width == 0


def test_a_hopeless_spread_still_has_finite_bounds():
    low, high = interval([0.0, 30.0], [0, 1], level=0.999).bounds
    assert 0 <= low < high < math.inf


def test_drift_only_ever_widens():
    widths = [interval([0.0, 0.01], [0, 1], drift_sd=sd).relative_width for sd in (0, 0.01, 0.05, 0.2)]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


@pytest.mark.parametrize("level", [0, 1, -1, 95, float("nan")])
def test_a_level_that_is_no_probability_is_refused(level):
    with pytest.raises(UsageError, match="level"):
        interval([1.0, 2.0], [0, 1], level=level)


@pytest.mark.parametrize(
    ("values", "drift_sd"),
    [([], 0), ([math.nan, 1.0], 0), ([math.inf, 1.0], 0), ([1.0, 1.0], -1), ([1.0, 1.0], math.nan)],
)
def test_values_that_are_no_times_are_refused(values, drift_sd):
    with pytest.raises(ValueError, match=r"load|deviation"):
        interval(values, range(len(values)), drift_sd=drift_sd)
