"""Climbs by the expected improvement, held against looking at every layout."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from edgeprof.search.linear import LinearLimit
from edgeprof.search.sampler_climb import Climber, log_improvement, mixed_moments
from edgeprof.search.surrogate import Posterior
from edgeprof.search.surrogate_features import Features

CHOICES = ("conv", "gqa", "swa")
SLOTS = {f"slot_{i}": CHOICES for i in range(5)}
FEATURES = Features(SLOTS)
EVERY = np.array(list(itertools.product(range(3), repeat=5)))
GQA_COSTS = {"conv": 1.0, "gqa": 3.0, "swa": 2.0}
LIMIT = LinearLimit(name="time", weights=dict.fromkeys(SLOTS, GQA_COSTS), constant=0.5, limit=9.5)


def belief(seed=0, n=25):
    rng = np.random.default_rng(seed)
    codes = EVERY[rng.choice(len(EVERY), n, replace=False)]
    values = rng.standard_normal(n)
    return codes, Posterior.fit(FEATURES, [FEATURES.layout(x) for x in codes.tolist()], values.tolist())


def climber(posterior, allowed=SLOTS, limits=(LIMIT,)):
    moments = mixed_moments([posterior], np.ones(1))
    return Climber(parameters=SLOTS, allowed=allowed, limits=limits, moments=moments)


@pytest.mark.parametrize(("mean", "sd", "best"), [(1.0, 0.5, 0.7), (0.0, 1.0, 2.0), (-3.0, 2.0, 1.0)])
def test_the_improvement_is_the_integral_that_it_stands_for(mean, sd, best) -> None:
    expected, _ = quad(lambda y: (y - best) * norm.pdf(y, mean, sd), best, mean + 12 * sd)
    assert np.exp(log_improvement(np.array([mean]), np.array([sd]), best))[0] == pytest.approx(expected, rel=1e-6)


def test_far_below_the_best_more_is_still_more() -> None:
    worth = log_improvement(np.linspace(-60, 0, 400), np.full(400, 0.5), 1.0)
    assert np.isfinite(worth).all()
    assert (np.diff(worth) > 0).all()
    both = log_improvement(np.array([-6.0 - 1e-9, -6.0 + 1e-9]), np.ones(2), 0.0)
    assert both[0] == pytest.approx(both[1], abs=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_from_many_starts_the_best_new_layout_of_all_is_found(seed) -> None:
    taken, posterior = belief(seed)
    found = climber(posterior)
    starts = EVERY[found.within(EVERY)][::6]
    near = found.climb(starts, 0.5, taken, np.random.default_rng(0))
    new = [x for x in EVERY[found.within(EVERY)] if not (taken == x).all(axis=1).any()]
    worth = log_improvement(*found.moments(np.array(new)), 0.5)
    assert near[0].tolist() == new[int(worth.argmax())].tolist()
    ordered = log_improvement(*found.moments(near), 0.5)
    assert (np.diff(ordered) <= 1e-12).all()


def test_what_is_found_is_new_keeps_the_limits_and_the_fixed_choices() -> None:
    taken, posterior = belief()
    found = climber(posterior, allowed={**SLOTS, "slot_2": ("swa",)})
    starts = np.array([[0, 0, 2, 0, 0], [1, 0, 2, 0, 0]])
    near = found.climb(starts, 0.0, taken, np.random.default_rng(0))
    assert len(near) > 5
    assert (near[:, 2] == 2).all()
    assert not {tuple(x) for x in near.tolist()} & {tuple(x) for x in taken.tolist()}
    assert all(LIMIT.keeps(FEATURES.layout(x)) for x in near.tolist())


def test_where_nothing_near_keeps_the_limits_the_start_is_all_there_is() -> None:
    _, posterior = belief()
    found = climber(
        posterior, limits=[LinearLimit(name="time", weights=dict.fromkeys(SLOTS, GQA_COSTS), constant=0.0, limit=5.0)]
    )
    near = found.climb(np.zeros((1, 5), dtype=int), 0.0, np.empty((0, 5), dtype=int), np.random.default_rng(0))
    assert near.tolist() == [[0] * 5]


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.lists(st.floats(-3, 3), min_size=3, max_size=3), min_size=5, max_size=5),
    limit=st.floats(-5, 5),
)
def test_limits_mean_the_same_in_codes(weights, limit) -> None:
    tables = {name: dict(zip(CHOICES, row, strict=True)) for name, row in zip(SLOTS, weights, strict=True)}
    one = LinearLimit(name="x", weights={n: tables[n] for n in list(SLOTS)[1:]}, constant=0.25, limit=limit)
    _, posterior = POSTERIOR
    sample = EVERY[::7]
    expected = np.array([one.value(FEATURES.layout(x)) for x in sample.tolist()])
    sure = np.abs(expected - limit) > 1e-6
    assert (climber(posterior, limits=[one]).within(sample)[sure] == (expected <= limit)[sure]).all()


POSTERIOR = belief()


def test_several_objectives_are_mixed_in_units_of_their_spread() -> None:
    codes, one = belief(0)
    _, other = belief(1)
    mean, sd = mixed_moments([one, other], np.array([0.25, 0.75]))(codes)
    parts = [p.moments(codes) for p in (one, other)]
    assert mean == pytest.approx(0.25 * parts[0][0] / one.scale + 0.75 * parts[1][0] / other.scale)
    assert sd == pytest.approx(np.hypot(0.25 * parts[0][1] / one.scale, 0.75 * parts[1][1] / other.scale))
