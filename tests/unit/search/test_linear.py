"""Linear limits, and the lightest layout that keeps them."""

import itertools
import random

from edgeprof.search.linear import LinearLimit, lightest

PARAMETERS = {"a": ("x", "y"), "b": ("x", "y", "z")}
LIMIT = LinearLimit(
    name="n", weights={"a": {"x": 1, "y": 2}, "b": {"x": 10, "y": 20, "z": 30}}, constant=100, limit=122
)


def test_a_limits_value_is_the_constant_and_what_is_chosen() -> None:
    assert LIMIT.value({"a": "y", "b": "y"}) == 122
    assert (LIMIT.least(), LIMIT.most()) == (111, 132)


def test_a_parameter_left_out_weighs_nothing() -> None:
    limit = LinearLimit(name="n", weights={"a": {"x": 1, "y": 2}}, constant=0, limit=1)
    assert limit.value({"a": "x", "b": "z"}) == 1


def test_a_limit_is_kept_up_to_itself() -> None:
    assert LIMIT.keeps({"a": "y", "b": "y"})
    assert not LIMIT.keeps({"a": "x", "b": "z"})
    assert LIMIT.allows(122 * (1 + 1e-10))
    assert not LIMIT.allows(122 * (1 + 1e-8))


def test_the_lightest_layout_is_the_best_of_all_that_keep_the_limits() -> None:
    rng = random.Random(5)
    parameters = {f"p{i}": ("x", "y", "z") for i in range(5)}
    layouts = [dict(zip(parameters, chosen, strict=True)) for chosen in itertools.product("xyz", repeat=5)]
    for _ in range(20):
        cost, *weights = [
            {name: {c: float(rng.randrange(100)) for c in choices} for name, choices in parameters.items()}
            for _ in range(3)
        ]
        limits = [LinearLimit(name="n", weights=w, constant=7, limit=rng.randrange(100, 260)) for w in weights]
        price = LinearLimit(name="cost", weights=cost, constant=0, limit=0)
        kept = [price.value(layout) for layout in layouts if all(limit.keeps(layout) for limit in limits)]
        found = lightest(parameters, cost, limits)
        assert (None if found is None else price.value(found)) == min(kept, default=None)
        assert found is None or all(limit.keeps(found) for limit in limits)


def test_what_a_solver_of_floats_cannot_tell_from_the_limit_is_over_it() -> None:
    parameters = dict.fromkeys("abc", ("small", "large"))
    weights = {name: {"small": 1e9, "large": 1e9 + 100} for name in "abc"}
    limit = LinearLimit(name="bytes", weights=weights, constant=0, limit=3e9)
    cost = {name: {"small": 1.0, "large": 0.0} for name in "abc"}
    assert lightest(parameters, cost, [limit]) == dict.fromkeys("abc", "small")


def test_without_parameters_the_only_layout_is_empty() -> None:
    assert lightest({}, {}, []) == {}
    assert lightest({}, {}, [LinearLimit(name="n", weights={}, constant=2, limit=1)]) is None
