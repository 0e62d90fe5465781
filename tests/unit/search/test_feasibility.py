"""Whether a layout keeps all budgets, held against looking at every layout of the tiny space."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgeprof.core.errors import BaselineError
from edgeprof.search.feasibility import feasible_layout, known_layout, relaxations
from edgeprof.search.space import load_space, parse_space

SMALL = """
schema_version = 1
description = "Four layers, three mixers, two feed-forwards for all of them: 162 layouts."
d_model = 64
vocab = 64
tied = true
max_context = 2048
layers = 4
[mixers]
conv3 = { op = "short_conv", kernel_size = 3 }
gqa4 = { op = "gqa", n_heads = 4, n_kv_heads = 4, head_dim = 16 }
gqa2 = { op = "gqa", n_heads = 4, n_kv_heads = 2, head_dim = 16 }
[ffns]
ff64 = { op = "swiglu", d_ff = 64 }
ff96 = { op = "swiglu", d_ff = 96 }
[groups]
attention = ["gqa"]
[[rules]]
of = "attention"
at_least = 1
"""


@pytest.fixture
def small() -> Any:
    return parse_space(SMALL, "small")


def every_layout(space: Any) -> list[dict[str, str]]:
    names, choices = list(space.parameters), list(space.parameters.values())
    layouts = (dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*choices))
    return [layout for layout in layouts if not space.broken_rules(layout)]


LOOKED_AT: list[Any] = []


@pytest.fixture
def figures_of(make_costs: Callable[..., Any], budget_of: Callable[..., Any], small: Any) -> Any:
    """Costs of the small space under a time and a size, and the upper ends of both for every layout; looked at once."""
    if not LOOKED_AT:
        costs = make_costs(budget_of("tpot", "1s@512"), budget_of("params", "1B"), space=small)
        LOOKED_AT[:] = costs, [tuple(f.upper for f in costs.figures(layout).values()) for layout in every_layout(small)]
    return LOOKED_AT


def with_limits(costs: Any, *limits: float) -> Any:
    of = dict(zip(costs.budgets, limits, strict=True))
    return costs.with_limits(of.__getitem__)


def test_a_layout_is_found_exactly_where_there_is_one(figures_of) -> None:
    """Limits from the impossible to the easy, in both budgets at once."""
    costs, uppers = figures_of
    times, sizes = (sorted({u[i] for u in uppers}) for i in range(2))
    found = 0
    for share_of_times, share_of_sizes in itertools.product((0, 0.02, 0.5), repeat=2):
        limits = times[int(share_of_times * (len(times) - 1))], sizes[int(share_of_sizes * (len(sizes) - 1))]
        exists = any(u[0] <= limits[0] and u[1] <= limits[1] for u in uppers)
        limited = with_limits(costs, *limits)
        layout = feasible_layout(limited, seed=0)
        assert (layout is not None) == exists, limits
        if layout is not None:
            assert limited.keeps(layout)
            found += 1
    assert 0 < found < 9


def test_below_the_fastest_layout_nothing_is_feasible_and_its_time_is_what_is_needed(figures_of) -> None:
    costs, uppers = figures_of
    fastest = min(u[0] for u in uppers)
    limited = with_limits(costs, 0.9 * fastest, 1e9)
    assert feasible_layout(limited, seed=0) is None
    needed = {r.budget.metric: r.needed for r in relaxations(limited, seed=0)}
    assert needed["tpot"] == pytest.approx(fastest, rel=0.01)


def test_what_each_budget_needs_is_the_least_that_keeps_the_others(figures_of) -> None:
    costs, uppers = figures_of
    times, sizes = (sorted({u[i] for u in uppers}) for i in range(2))
    by_size = {size: min(u[0] for u in uppers if u[1] <= size) for size in sizes}
    by_time = {t: min(u[1] for u in uppers if u[0] <= t) for t in times}
    smallest, fastest = sizes[0], times[0]
    assert by_size[smallest] > fastest, "the two must contradict each other for the test to say something"
    limited = with_limits(costs, fastest, smallest)
    assert feasible_layout(limited, seed=0) is None
    needed = {r.budget.metric: r.needed for r in relaxations(limited, seed=0)}
    assert needed["tpot"] == pytest.approx(by_size[smallest], rel=0.02)
    assert needed["params"] == pytest.approx(by_time[fastest], rel=0.02)


def test_a_relaxation_that_is_told_leaves_a_layout(figures_of) -> None:
    costs, uppers = figures_of
    limited = with_limits(costs, min(u[0] for u in uppers), min(u[1] for u in uppers))
    found = relaxations(limited, seed=0)
    assert feasible_layout(with_limits(costs, *(r.together for r in found)), seed=0) is not None
    for r in found:
        limits = [r.needed if b.metric == r.budget.metric else b.limit for b in limited.budgets]
        assert feasible_layout(with_limits(costs, *limits), seed=0) is not None, r


def test_where_none_helps_alone_all_are_relaxed_by_the_smallest_common_factor(figures_of) -> None:
    costs, uppers = figures_of
    limits = 0.4 * min(u[0] for u in uppers), 0.7 * min(u[1] for u in uppers)
    found = relaxations(with_limits(costs, *limits), seed=0)
    assert [r.needed for r in found] == [None, None]
    least = min(max(u[0] / limits[0], u[1] / limits[1]) for u in uppers)
    together = [r.together for r in found]
    assert max(x / limit for x, limit in zip(together, limits, strict=True)) == pytest.approx(least, rel=0.02)
    assert feasible_layout(with_limits(costs, *together), seed=0) is not None


def test_where_one_budget_alone_is_impossible_relaxing_another_does_not_help(make_costs, budget_of, small) -> None:
    costs = make_costs(budget_of("params", "10k"), budget_of("state", "100B@64"), space=small)
    needed = {r.budget.metric: r.needed for r in relaxations(costs, seed=0)}
    assert needed == {"params": None, "state": None}


def test_static_budgets_are_decided_without_a_device(make_costs, budget_of, small) -> None:
    smallest = min(
        figure.value
        for layout in every_layout(small)
        for figure in make_costs(budget_of("params", "1M"), space=small, records=[]).figures(layout).values()
    )
    exactly = make_costs(replace(budget_of("params", "1M"), limit=smallest), space=small, records=[])
    assert exactly.keeps(feasible_layout(exactly, seed=0))
    below = make_costs(replace(budget_of("params", "1M"), limit=smallest - 1), space=small, records=[])
    assert feasible_layout(below, seed=0) is None
    assert [r.needed for r in relaxations(below, seed=0)] == [smallest]


def test_a_layout_is_known_even_where_hardly_any_random_one_is(make_costs, budget_of, monkeypatch) -> None:
    """Sixteen layers of which none may be attention: one random layout in ten thousand millions."""
    from edgeprof.runtimes.torch_eager import RUNTIME

    usual = RUNTIME.unsupported
    monkeypatch.setattr(
        type(RUNTIME), "unsupported", lambda _, case: "no" if '"gqa"' in str(case.dims) else usual(case)
    )
    space = load_space("lfm2")
    costs = make_costs(budget_of("tpot", "100s@256"), space=space)
    layout = known_layout(costs, seed=0)
    assert all(figure.upper is not None for figure in costs.figures(layout).values())
    assert not space.broken_rules(layout)
    assert all(block.mixer.name != "gqa" for block in space.config(layout).layers)


def test_where_nothing_is_measured_a_missing_cell_is_named(make_costs, budget_of) -> None:
    costs = make_costs(budget_of("tpot", "1s@256"), records=[])
    with pytest.raises(
        BaselineError, match=r"no layout of tiny .*: embedding in torch_eager fp32, decode at 1, is missing"
    ):
        known_layout(costs, seed=0)


def test_where_nothing_can_be_measured_the_reason_is_told(make_costs, budget_of, lab, monkeypatch) -> None:
    from edgeprof.runtimes.torch_eager import RUNTIME

    monkeypatch.setattr(type(RUNTIME), "unsupported", lambda _, case: "out of order" if case.op == "block" else None)
    costs = make_costs(budget_of("tpot", "1s@256"), records=[])
    assert costs.rings() == {}
    costs.learn({"lab": lab.knowledge([])})
    with pytest.raises(BaselineError, match="no layout of tiny"):
        known_layout(costs, seed=0)
