import math

import numpy as np
import pytest
from scipy import stats

from edgeprof.core.errors import UsageError
from edgeprof.stats.ratios import Ratio, different, noise_floor, paired_ratio


def noisy_rounds(rng, n_rounds, drift, level, sd=0.002):
    return {r: [level + drift[r] + rng.normal(0, sd) for _ in range(2)] for r in range(n_rounds)}


def test_pairing_cancels_the_drift_of_the_host():
    rng = np.random.default_rng(0)
    drift = rng.normal(0, 0.2, 5)
    a, b = noisy_rounds(rng, 5, drift, math.log(1.1)), noisy_rounds(rng, 5, drift, 0.0)
    paired = paired_ratio(a, b)
    unpaired = paired_ratio(a, {f"other {r}": loads for r, loads in b.items()})
    assert paired.n_pairs == 5
    assert unpaired.n_pairs == 0
    assert paired.bounds[0] > 1.08
    assert paired.bounds[1] < 1.12
    assert unpaired.bounds[0] < 1 < unpaired.bounds[1]
    assert paired.p_value < 0.001 < unpaired.p_value


def test_the_paired_interval_is_scipys():
    a, b = {0: [1.0], 1: [1.2], 2: [1.1]}, {0: [0.9], 1: [1.0], 2: [1.1], 3: [7.0]}
    expected = stats.ttest_rel([1.0, 1.2, 1.1], [0.9, 1.0, 1.1])
    low, high = expected.confidence_interval(0.9)
    found = paired_ratio(a, b, level=0.9)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.bounds == pytest.approx((math.exp(low), math.exp(high)))


def test_the_unpaired_interval_is_welchs():
    a, b = {0: [1.0], 1: [1.2], 2: [1.1]}, {7: [0.9], 8: [0.2]}
    expected = stats.ttest_ind([1.0, 1.2, 1.1], [0.9, 0.2], equal_var=False)
    low, high = expected.confidence_interval(0.95)
    found = paired_ratio(a, b)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.bounds == pytest.approx((math.exp(low), math.exp(high)))


def test_one_common_round_compares_its_loads():
    found = paired_ratio({0: [1.0, 1.1, 1.2]}, {0: [0.0, 0.1, 0.2]})
    assert found.n_pairs == 0
    assert found.bounds is not None
    assert found.estimate == pytest.approx(math.e)


def test_a_single_load_tells_no_interval():
    assert paired_ratio({0: [1.0]}, {0: [0.0]}) == Ratio(
        estimate=pytest.approx(math.e), bounds=None, p_value=None, n_pairs=0
    )


def test_a_cell_equals_itself():
    cell = {0: [1.0, 1.3], 1: [2.0], 2: [0.7]}
    assert paired_ratio(cell, cell) == Ratio(estimate=1.0, bounds=(1.0, 1.0), p_value=1.0, n_pairs=3)


def test_a_constant_ratio_is_certain():
    a = {0: [1.5], 1: [2.5], 2: [0.5]}
    found = paired_ratio(a, {r: [v - 0.25 for v in loads] for r, loads in a.items()})
    assert found.bounds == pytest.approx((math.exp(0.25), math.exp(0.25)))
    assert found.p_value == 0


@pytest.mark.parametrize("n_rounds", [2, 3, 5])
def test_the_interval_of_a_ratio_covers_it(n_rounds):
    rng = np.random.default_rng(n_rounds)
    hits = 0
    for _ in range(600):
        drift = rng.normal(0, 0.05, n_rounds)
        a, b = (noisy_rounds(rng, n_rounds, drift, x, sd=0.01) for x in (math.log(1.2), 0.0))
        low, high = paired_ratio(a, b).bounds
        hits += low <= 1.2 <= high
    assert hits / 600 >= 0.92


def test_a_side_without_loads_is_refused():
    with pytest.raises(ValueError, match="at least one load"):
        paired_ratio({}, {0: [1.0]})


def test_a_level_that_is_no_probability_is_refused():
    with pytest.raises(UsageError, match="level"):
        paired_ratio({0: [1.0]}, {0: [1.0]}, level=95)


def test_the_noise_floor_of_two_rounds_of_one_load_is_their_ratio():
    floor = noise_floor({"a": {0: [0.0], 1: [0.1]}})
    assert floor.pooled == pytest.approx(math.exp(0.1) - 1)
    assert floor.by_cell == {"a": floor.pooled}


def test_the_two_loads_of_a_round_are_the_sides_of_the_noise_floor_and_drift_is_not_in_it():
    drifting = {r: [0.5 * r, 0.5 * r + 0.02] for r in range(4)}
    assert noise_floor({"a": drifting}).pooled == pytest.approx(math.exp(0.02) - 1)


def test_the_noise_floor_looks_at_every_way_to_name_the_sides():
    floor = noise_floor({"a": {0: [0.1, 0.0], 1: [0.0, 0.1]}})  # as measured they cancel, swapped they add
    assert floor.pooled == pytest.approx(math.exp(0.1) - 1)


def test_cells_weigh_the_same_in_the_noise_floor_whatever_their_rounds():
    quiet = {r: [0.0] for r in range(10)}
    floor = noise_floor({"quiet": quiet, "loud": {0: [0.0], 1: [0.1]}})
    assert floor.by_cell["quiet"] == 0
    assert floor.pooled == floor.by_cell["loud"] > 0


def test_the_noise_floor_is_reproducible_and_grows_with_the_noise():
    def cells(sd):
        rng = np.random.default_rng(3)
        return {str(c): {r: [rng.normal(0, sd)] for r in range(12)} for c in range(4)}

    assert noise_floor(cells(0.01)) == noise_floor(cells(0.01))
    assert noise_floor(cells(0.02)).pooled > 1.5 * noise_floor(cells(0.01)).pooled


@pytest.mark.parametrize("cells", [{}, {"a": {0: [1.0]}}, {"a": {0: [1.0], 1: []}}])
def test_there_is_no_noise_floor_without_a_pair(cells):
    assert noise_floor(cells) is None


@pytest.mark.parametrize(
    ("bounds", "is_different"),
    [
        ((1.06, 1.2), True),
        ((1.04, 1.2), False),
        ((0.8, 0.94), True),
        ((0.8, 0.96), False),
        ((0.5, 2.0), False),
        (None, False),
    ],
)
def test_a_difference_lies_beyond_the_noise_floor(bounds, is_different):
    ratio = Ratio(estimate=1.0, bounds=bounds, p_value=None, n_pairs=0)
    assert different(ratio, 0.05) is is_different
