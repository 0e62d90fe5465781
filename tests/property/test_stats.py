import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprof.stats.intervals import interval
from edgeprof.stats.quantiles import quantiles
from edgeprof.stats.ratios import noise_floor, paired_ratio

LOG_TIMES = st.floats(min_value=0, max_value=30)
LOADS = st.lists(st.tuples(LOG_TIMES, st.integers(0, 4)), min_size=1, max_size=12)
ROUNDS = st.dictionaries(st.integers(0, 5), st.lists(LOG_TIMES, min_size=1, max_size=3), min_size=1, max_size=6)


@given(st.lists(st.integers(1, 10**15), min_size=1, max_size=700))
def test_quantiles_rise_and_stay_among_the_samples(samples):
    found = quantiles(samples)
    known = [min(samples), *(q for q in (found.p10, found.p50, found.p90, found.p99) if q is not None), max(samples)]
    assert known == sorted(known)


@given(LOADS, st.floats(0, 0.5), st.floats(0.5, 0.99))
def test_an_interval_contains_its_estimate_and_grows_with_its_level(loads, drift_sd, level):
    values, processes = zip(*loads, strict=True)
    narrow = interval(values, processes, drift_sd, level)
    wide = interval(values, processes, drift_sd, level + 0.009)
    assert (narrow.bounds is None) == (len(values) < 2)
    if narrow.bounds is not None:
        assert wide.bounds[0] <= narrow.bounds[0] <= narrow.estimate <= narrow.bounds[1] <= wide.bounds[1]


@given(LOADS, st.floats(0.001, 1000))
def test_scaling_every_time_scales_the_estimate_and_the_bounds(loads, factor):
    values, processes = zip(*loads, strict=True)
    before = interval(values, processes)
    after = interval([value + math.log(factor) for value in values], processes)
    assert after.estimate == pytest.approx(before.estimate * factor)
    if before.bounds is not None and before.bounds[1] < 1e300:
        assert after.relative_width == pytest.approx(before.relative_width, rel=1e-6, abs=1e-9)


@given(ROUNDS, ROUNDS)
def test_the_ratio_of_b_to_a_is_the_inverse(a, b):
    there, back = paired_ratio(a, b), paired_ratio(b, a)
    assert there.estimate * back.estimate == pytest.approx(1)
    assert there.n_pairs == back.n_pairs
    if there.bounds is not None:
        assert there.p_value == pytest.approx(back.p_value)
        assert there.bounds[0] <= there.estimate <= there.bounds[1]


@given(st.dictionaries(st.text(max_size=3), ROUNDS, max_size=4))
def test_the_pooled_noise_floor_lies_between_those_of_the_cells(cells):
    floor = noise_floor(cells)
    assert (floor is None) == all(sum(map(len, rounds.values())) < 2 for rounds in cells.values())
    if floor is not None:
        assert 0 <= floor.pooled <= max(floor.by_cell.values())
