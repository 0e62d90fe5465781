import math

import numpy as np
import pytest
from scipy import stats

from edgeprof.stats.signed_rank import signed_rank_centre


@pytest.mark.parametrize("n", [6, 9, 20])
def test_p_is_scipys_exact_one(n):
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert signed_rank_centre(differences, 0.05).p_value == pytest.approx(expected)


@pytest.mark.parametrize("n", [6, 12, 40])
def test_the_interval_excludes_zero_exactly_where_p_is_at_most_alpha(n):
    rng = np.random.default_rng(n)
    for _ in range(200):
        found = signed_rank_centre(rng.normal(0.5, 1, n), 0.05)
        low, high = found.bounds
        assert (low > 0 or high < 0) == (found.p_value <= 0.05)


def test_the_interval_of_few_differences_is_their_range():
    values = np.array([0.3, -0.1, 0.2, 0.7, 0.4, 0.1])
    assert signed_rank_centre(values, 2 / 2**6).bounds == (-0.1, 0.7)
    assert signed_rank_centre(values, 1.9 / 2**6).bounds == (-math.inf, math.inf)


def test_the_centre_resists_a_wild_difference():
    quiet = np.linspace(-0.01, 0.01, 21)
    wild = quiet.copy()
    wild[-1] = 5.0
    assert signed_rank_centre(wild, 0.05).estimate == pytest.approx(0, abs=0.002)
    assert signed_rank_centre(wild, 0.05).bounds[1] < 0.01


@pytest.mark.parametrize("tails", ["normal", "cauchy", "uneven"])
def test_the_interval_covers_the_centre_of_any_symmetric_noise(tails):
    rng = np.random.default_rng(3)
    missed = 0
    for _ in range(1500):
        noise = rng.standard_cauchy(14) if tails == "cauchy" else rng.normal(0, 1, 14)
        if tails == "uneven":
            noise = noise * np.geomspace(0.01, 10, 14)
        low, high = signed_rank_centre(noise + 3, 0.05).bounds
        missed += not low <= 3 <= high
    assert missed / 1500 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


def test_zeros_and_ties_count_against_a_difference():
    assert signed_rank_centre(np.zeros(12), 0.05).p_value == 1
    tied, untied = np.ones(8), np.linspace(0.9, 1.1, 8)
    assert (
        signed_rank_centre(np.array([*tied, -1.0]), 0.05).p_value
        >= signed_rank_centre(np.array([*untied, -1.0]), 0.05).p_value
    )


@pytest.mark.parametrize(
    ("values", "alpha"), [([], 0.05), ([math.nan], 0.05), ([math.inf], 0.05), ([1.0], 0), ([1.0], 1)]
)
def test_what_is_no_difference_and_no_probability_is_refused(values, alpha):
    with pytest.raises(ValueError, match=r"difference|alpha"):
        signed_rank_centre(np.array(values), alpha)
