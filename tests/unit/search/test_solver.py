"""The exact solver: the best layout under limits, by comparison with looking at every layout."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprof.search.additive import Additive, Chain
from edgeprof.search.linear import LinearLimit
from edgeprof.search.solver import SolverLimitError, solve

SLOTS = {f"slot_{i}": ("conv", "gqa", "swa") for i in range(4)}


def layouts(parameters):
    return [dict(zip(parameters, chosen, strict=True)) for chosen in product(*parameters.values())]


def weights(draw, parameters):
    # Halves: many ties, and sums without rounding.
    numbers = st.integers(-6, 6).map(lambda n: n / 2)
    return {name: {choice: draw(numbers) for choice in own} for name, own in parameters.items()}


@st.composite
def problems(draw):
    own = ("a", "b", "c")
    chained = {f"s{i}": own[: draw(st.integers(1, 3))] for i in range(draw(st.integers(2, 4)))}
    parameters = {**chained, "ffn": ("small", "large")}
    numbers = st.integers(-6, 6).map(lambda n: n / 2)
    chain = Chain(
        parameters=tuple(chained),
        neighbours={pair: draw(numbers) for pair in product(own, own)},
        counts={c: [draw(numbers) for _ in range(len(chained) + 1)] for c in draw(st.sets(st.sampled_from(own)))},
    )
    worth = Additive(choices=weights(draw, parameters), chains=(chain,), constant=draw(numbers))
    limits = [
        LinearLimit(name=str(i), weights=weights(draw, parameters), constant=draw(numbers), limit=draw(numbers))
        for i in range(draw(st.integers(0, 2)))
    ]
    every = layouts(parameters)
    forbidden = draw(st.lists(st.sampled_from(every), max_size=4))
    return worth, parameters, limits, forbidden


@settings(deadline=None, max_examples=150)
@given(problems())
def test_the_solution_is_the_best_of_all_layouts_that_keep_the_limits(problem):
    worth, parameters, limits, forbidden = problem
    allowed = [x for x in layouts(parameters) if x not in forbidden and all(limit.keeps(x) for limit in limits)]
    found = solve(worth, parameters, limits, forbidden)
    if not allowed:
        assert found is None
    else:
        assert found is not None
        assert found.layout in allowed
        assert found.is_optimal
        assert found.value == pytest.approx(max(worth.value(x) for x in allowed))


def test_forbidding_one_layout_after_another_lists_all_in_falling_order():
    worth = Additive(choices={name: {"gqa": 1.0, "swa": 0.5} for name in SLOTS})
    order = []
    while (found := solve(worth, SLOTS, (), [x for x, _ in order])) is not None:
        order.append((found.layout, found.value))
    assert len(order) == 3**4
    assert [value for _, value in order] == sorted((worth.value(x) for x in layouts(SLOTS)), reverse=True)


def test_the_least_value_of_a_limit_under_another_is_found():
    size = {name: {"conv": 1.0, "gqa": 3.0, "swa": 2.0} for name in SLOTS}
    at_least_two = LinearLimit(
        name="at least 2 gqa",
        weights={name: {"conv": 0.0, "gqa": -1.0, "swa": 0.0} for name in SLOTS},
        constant=0.0,
        limit=-2.0,
    )
    found = solve(Additive(choices=size).scaled(-1), SLOTS, [at_least_two])
    assert found is not None
    assert found.value == -8.0


def test_a_limit_on_a_foreign_parameter_counts_it_at_its_heaviest():
    cheap_elsewhere = LinearLimit(
        name="time",
        weights={"slot_0": {"conv": 0.0, "gqa": 1.0, "swa": 1.0}, "foreign": {"x": 0.0, "y": 5.0}},
        constant=0.0,
        limit=5.5,
    )
    found = solve(Additive(choices={"slot_0": {"gqa": 1.0}}), SLOTS, [cheap_elsewhere])
    assert found is not None
    assert found.layout["slot_0"] != "gqa"


def test_equal_slots_do_not_multiply_the_work():
    many = {f"slot_{i:02d}": ("conv", "gqa", "swa", "linear") for i in range(32)}
    time = {name: {"conv": 1.0, "gqa": 3.1, "swa": 2.3, "linear": 1.7} for name in many}
    limit = LinearLimit(name="time", weights=time, constant=0.0, limit=60.0)
    worth = Additive(choices={name: {"gqa": 1.0, "swa": 0.71, "linear": 0.37} for name in many})
    found = solve(worth, many, [limit], most_labels=2000)
    assert found is not None
    assert found.is_optimal


def random_problem(seed, n_limits=1):
    rng = np.random.default_rng(seed)
    slots = {f"slot_{i}": ("conv", "gqa", "swa") for i in range(7)}

    def table():
        return {name: dict(zip(own, rng.uniform(0, 1, 3).tolist(), strict=True)) for name, own in slots.items()}

    counted = ("conv", "gqa", "swa")[: seed % 4]
    chain = Chain(
        parameters=tuple(slots),
        neighbours={("conv", "gqa"): float(rng.normal())},
        counts={choice: rng.normal(0, 1, 8).tolist() for choice in counted},
    )
    limits = [
        LinearLimit(name=str(i), weights=table(), constant=0.0, limit=2.1 + 0.6 * n_limits) for i in range(n_limits)
    ]
    return Additive(choices=table(), chains=(chain,)), slots, limits


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("beam", [2, 200])
def test_many_partial_layouts_lose_none_that_leads_to_the_best(monkeypatch, seed, beam):
    # After a narrow first search the bound has to tell a poor layout from the best.
    monkeypatch.setattr("edgeprof.search.solver.BEAMS", (beam,))
    worth, slots, limits = random_problem(seed, n_limits=1 + seed // 4)
    found = solve(worth, slots, limits)
    allowed = [x for x in layouts(slots) if all(limit.keeps(x) for limit in limits)]
    assert found is not None
    assert found.value == pytest.approx(max(worth.value(x) for x in allowed))


def test_a_search_cut_short_claims_the_optimum_only_where_it_has_it(monkeypatch):
    monkeypatch.setattr("edgeprof.search.solver.BEAMS", (3,))
    claims = []
    for seed in range(20):
        problem = random_problem(seed)
        best, cut_short = solve(*problem), solve(*problem, most_labels=3)
        assert best is not None
        assert cut_short is not None
        assert cut_short.is_optimal <= (cut_short.value == pytest.approx(best.value))
        claims.append(cut_short.is_optimal)
    assert set(claims) == {True, False}


def between(low, high):
    even = {name: {"conv": 0.0, "gqa": 2.0, "swa": 4.0} for name in SLOTS}
    negative = {name: {choice: -weight for choice, weight in own.items()} for name, own in even.items()}
    return [
        LinearLimit(name="at most", weights=even, constant=0.0, limit=high),
        LinearLimit(name="at least", weights=negative, constant=0.0, limit=-low),
    ]


def test_limits_that_no_layout_keeps_together_have_no_solution():
    assert solve(Additive(choices={}), SLOTS, between(4.0, 6.0)) is not None
    assert solve(Additive(choices={}), SLOTS, between(5.0, 5.0)) is None


def test_a_search_cut_short_without_a_layout_does_not_say_that_there_is_none(monkeypatch):
    monkeypatch.setattr("edgeprof.search.solver.BEAMS", (1,))
    with pytest.raises(SolverLimitError, match="relax a limit"):
        solve(Additive(choices={}), SLOTS, between(5.0, 5.0), most_labels=1)


def test_without_parameters_the_only_layout_is_the_empty_one():
    assert solve(Additive(choices={}, constant=2.0), {}) is not None
    too_much = LinearLimit(name="size", weights={}, constant=2.0, limit=1.0)
    assert solve(Additive(choices={}), {}, [too_much]) is None
