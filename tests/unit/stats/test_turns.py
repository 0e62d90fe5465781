import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprof.stats.turns import log_times_in_turns


def test_processes_differ_by_the_median_of_how_their_loads_differ():
    first, second = log_times_in_turns([[[10], [20], [1000]], [[11], [22], [30]]])
    assert second - first == pytest.approx(math.log(1.1))


def test_a_load_counts_with_its_lower_quartile():
    first, second = log_times_in_turns([[[10, 10, 10, 10]], [[20, 20, 900, 20, 20]]])
    assert second - first == pytest.approx(math.log(2))


def test_what_slows_all_processes_at_once_is_left_out():
    first, second = log_times_in_turns([[[10], [70], [20]], [[12], [84], [24]]])
    assert second - first == pytest.approx(math.log(1.2))


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(st.integers(100, 10_000), min_size=n, max_size=n), min_size=4, max_size=4)
    ),
    st.integers(2, 9),
)
def test_a_process_slowed_by_a_factor_gains_exactly_that(loads, factor):
    before = log_times_in_turns([[[ns] for ns in one] for one in loads])
    after = log_times_in_turns([[[ns] for ns in one] for one in [[factor * ns for ns in loads[0]], *loads[1:]]])
    gained = np.subtract(after, before)
    np.testing.assert_allclose(gained - gained[1], [math.log(factor), 0, 0, 0], atol=1e-9)


def test_the_order_of_processes_decides_nothing():
    loads = [[[10], [70], [20]], [[12], [84], [24]], [[9], [91], [20]], [[31], [3], [5]]]
    assert log_times_in_turns(loads[::-1]) == pytest.approx(log_times_in_turns(loads)[::-1])


@pytest.mark.parametrize("loads", [[], [[], []], [[[1]], [[1], [2]]]])
def test_uneven_or_no_loads_are_refused(loads):
    with pytest.raises(ValueError, match="equally many loads"):
        log_times_in_turns(loads)
