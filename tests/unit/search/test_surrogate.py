"""The surrogate: what it believes of layouts after some trials."""

from itertools import pairwise

import numpy as np
import pytest

from edgeprof.search.additive import find_chains
from edgeprof.search.surrogate import Posterior
from edgeprof.search.surrogate_features import Features

CHOICES = ("conv", "gqa", "swa")
SLOTS = {f"slot_{i}": CHOICES for i in range(6)}
FEATURES = Features(SLOTS)


def random_layouts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [{name: CHOICES[int(rng.integers(3))] for name in SLOTS} for _ in range(n)]


def recall(layout):
    """Saturates in the number of gqa, and wants conv before it."""
    chosen = [layout[name] for name in SLOTS]
    followed = sum(a == "conv" and b == "gqa" for a, b in pairwise(chosen))
    return 3 * (1 - np.exp(-chosen.count("gqa"))) + 0.5 * followed + (layout["slot_2"] == "swa")


def error(posterior, truth, layouts):
    values = np.array([truth(x) for x in layouts])
    return float(np.mean((np.array([posterior.mean(x) for x in layouts]) - values) ** 2) / values.var())


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_trials_give_finite_beliefs_and_draws(n):
    posterior = Posterior.fit(FEATURES, random_layouts(n), [5.0] * n)
    layout = random_layouts(1, seed=9)[0]
    assert np.isfinite(posterior.mean(layout))
    assert posterior.sd(layout) > 0
    assert np.isfinite(posterior.draw(np.random.default_rng(0)).value(layout))


def test_without_trials_all_layouts_are_believed_equal():
    posterior = Posterior.fit(FEATURES, [], [])
    assert {round(posterior.mean(x), 12) for x in random_layouts(5)} == {0.0}


def test_forty_trials_tell_counts_and_neighbours_of_layouts_never_tried():
    tried = random_layouts(40)
    posterior = Posterior.fit(FEATURES, tried, [recall(x) for x in tried])
    assert error(posterior, recall, random_layouts(100, seed=1)) < 0.1


def test_the_belief_does_not_depend_on_the_values_unit():
    tried, other = random_layouts(20), random_layouts(1, seed=3)[0]
    plain = Posterior.fit(FEATURES, tried, [recall(x) for x in tried], [0.1] * 20)
    scaled = Posterior.fit(FEATURES, tried, [1e6 + 1e3 * recall(x) for x in tried], [100.0] * 20)
    assert scaled.mean(other) == pytest.approx(1e6 + 1e3 * plain.mean(other), rel=1e-6)
    assert scaled.sd(other) == pytest.approx(1e3 * plain.sd(other), rel=1e-3)


def test_a_lucky_score_is_believed_less_than_a_repeated_one():
    lucky, steady = random_layouts(2, seed=4)
    rest = random_layouts(30)
    layouts = [*rest, lucky, *[steady] * 8]
    values = [*[0.0] * 15, *[0.5] * 15, 2.0, *[1.9] * 8]
    posterior = Posterior.fit(FEATURES, layouts, values, [0.7] * len(layouts))
    assert posterior.mean(steady) > posterior.mean(lucky)
    assert posterior.sd(steady) < posterior.sd(lucky)


def test_a_value_with_a_small_standard_error_is_believed():
    layouts = [*random_layouts(20), random_layouts(1, seed=5)[0]]
    values = [*[recall(x) for x in layouts[:-1]], 9.0]
    sure = Posterior.fit(FEATURES, layouts, values, [*[0.5] * 20, 0.01])
    unsure = Posterior.fit(FEATURES, layouts, values, [*[0.5] * 20, 5.0])
    assert abs(sure.mean(layouts[-1]) - 9) < 0.2 < abs(unsure.mean(layouts[-1]) - 9)


def test_draws_scatter_around_the_mean_as_the_sd_says():
    tried, other = random_layouts(15), random_layouts(1, seed=6)[0]
    posterior = Posterior.fit(FEATURES, tried, [recall(x) for x in tried], [0.2] * 15)
    draws = [posterior.draw(np.random.default_rng(i)).value(other) for i in range(1500)]
    assert np.mean(draws) == pytest.approx(posterior.expected().value(other), abs=0.1 * posterior.sd(other))
    assert np.std(draws) < posterior.sd(other)  # a draw leaves interplay and deviation out


def test_the_mean_is_the_expected_worth_and_the_interplay_that_trials_nearby_tell():
    tried, other = random_layouts(15), random_layouts(1, seed=7)[0]
    posterior = Posterior.fit(FEATURES, tried, [recall(x) for x in tried])
    rest = [v - posterior.expected().value(x) for x, v in zip(tried, [recall(x) for x in tried], strict=True)]
    assert posterior.mean(tried[0]) == pytest.approx(recall(tried[0]), abs=0.5 * abs(rest[0]) + 1e-6)
    assert posterior.mean(other) != posterior.expected().value(other)


def test_means_and_sds_are_those_of_a_plain_gaussian_process():
    tried, others = random_layouts(12), random_layouts(5, seed=8)
    values = np.array([recall(x) for x in tried])
    posterior = Posterior.fit(FEATURES, tried, values.tolist(), [0.3] * 12)

    def covariance(one, other):
        x, y = (FEATURES.matrix(FEATURES.codes(some)) for some in (one, other))
        differ = np.array([[sum(a[n] != b[n] for n in SLOTS) for b in other] for a in one])
        groups = sum(
            v * x[:, g.first : g.end] @ y[:, g.first : g.end].T
            for v, g in zip(posterior.variances, FEATURES.groups, strict=False)
        )
        interplay, deviation = posterior.variances[-3], posterior.variances[-2]
        return 4 + groups + interplay * np.exp(-3 / len(SLOTS)) ** differ + deviation * (differ == 0)

    inverse = np.linalg.inv(covariance(tried, tried) + (0.3 / values.std()) ** 2 * np.eye(12))
    shared = covariance(others, tried)
    mean = values.mean() + values.std() * shared @ inverse @ ((values - values.mean()) / values.std())
    variance = np.diag(covariance(others, others) - shared @ inverse @ shared.T)
    found = posterior.moments(FEATURES.codes(others))
    assert found[0] == pytest.approx(mean)
    assert found[1] == pytest.approx(values.std() * np.sqrt(variance))


def test_what_triples_of_slots_do_together_is_told_of_their_neighbours():
    triples = (("slot_0", "slot_2", "slot_5"), ("slot_1", "slot_3", "slot_4"))

    def truth(layout):
        return sum(layout[a] == layout[b] == layout[c] for a, b, c in triples)

    tried = random_layouts(300, seed=2)
    posterior = Posterior.fit(FEATURES, tried, [truth(x) for x in tried])
    alone = Posterior.fit(FEATURES, tried, [sum(x[name] == "gqa" for name in SLOTS) for x in tried])
    assert posterior.interplay_share > 0.2
    assert alone.interplay_share < 0.01
    assert error(posterior, truth, random_layouts(100, seed=1)) < 0.3


def test_slots_with_common_choices_are_one_chain_in_the_order_of_their_numbers():
    parameters = {"l10": ("a", "b"), "l2": ("b", "c"), "ffn": ("x", "y"), "l1": ("c", "d")}
    assert find_chains(parameters) == (("l1", "l2", "l10"),)
