"""Finalists: whole models measured beside what was predicted of them, and who wins."""

import math
from dataclasses import replace
from typing import Any

import pytest

from edgeprof.predict.types import ModelCall
from edgeprof.search.finalists import (
    Finalist,
    choose_winner,
    disagreements,
    measured_budgets,
    measured_side_by_side,
    second_stage,
    why_failed,
)
from edgeprof.search.objective import Score, Stage

MIXED = {f"slot_0{i}": "conv3" for i in range(6)} | {"ffn": "ff128", "slot_02": "gqa2"}
LONG = Stage(name="long", length=3.0)


class Bench:
    """Stands in for measuring: every call of a model takes ``factor`` times a base; remembers what it was asked."""

    def __init__(self, make_row: Any) -> None:
        self.make_row = make_row
        self.base: dict[tuple[str, int], float] = {}
        self.asked: list[tuple[str, tuple[ModelCall, ...]]] = []
        self.lacks: set[tuple[str, int]] = set()

    def __call__(self, device: str, target: Any, calls: Any) -> list[Any]:
        self.asked.append((device, tuple(calls)))
        rows = []
        for call in calls:
            for phase in (call.phase, "memory"):
                for paired in (True, False):
                    if (phase, call.kv_len) not in self.lacks:
                        ns = self.base.get((phase, call.kv_len), 1e6) * (1 if paired else 50)
                        rows.append(
                            self.make_row(
                                phase=phase, context=call.kv_len, q_len=call.q_len, paired=paired, measured_ns=ns
                            )
                        )
        return rows


@pytest.fixture
def bench(make_row) -> Bench:
    return Bench(make_row)


def by_metric(budgets: Any) -> dict[str, Any]:
    return {kept.budget.name: kept for kept in budgets}


def test_a_figure_of_time_is_kept_as_measured_whatever_was_predicted(make_costs, budget_of, bench) -> None:
    costs = make_costs(budget_of("tpot", "10ms@256"))
    bench.base = {("decode", 256): 9e6}
    (kept,) = measured_budgets(costs, MIXED, bench)
    assert kept.kept
    assert kept.measured == 9e6
    assert kept.predicted == costs.figures(MIXED)["tpot@256"].value
    bench.base = {("decode", 256): 11e6}
    (kept,) = measured_budgets(costs, MIXED, bench)
    assert kept.upper < kept.budget.limit
    assert not kept.kept


def test_static_figures_are_exact_and_nothing_is_built_for_them(make_costs, budget_of, bench) -> None:
    costs = make_costs(budget_of("params", "300k"))
    (kept,) = measured_budgets(costs, MIXED, bench)
    assert (kept.measured, kept.only_predicted, kept.disagrees) == (kept.predicted, False, False)
    assert bench.asked == []


def test_one_build_serves_all_budgets_of_a_target(make_costs, budget_of, bench) -> None:
    costs = make_costs(budget_of("tpot", "1s@256"), budget_of("tpot", "1s@512"), budget_of("ttft", "1s@64"))
    found = by_metric(measured_budgets(costs, MIXED, bench))
    ((device, calls),) = bench.asked
    assert device == "lab"
    assert [(call.phase, call.kv_len) for call in calls] == [("decode", 256), ("decode", 512), ("prefill", 64)]
    assert set(found) == {"tpot@256", "tpot@512", "ttft@64"}


def test_layouts_are_measured_side_by_side_by_one_session(make_costs, budget_of, bench) -> None:
    costs = make_costs(budget_of("tpot", "13ms@64"), budget_of("ttft", "90ms@32"), budget_of("params", "330k"))
    other, sessions = MIXED | {"slot_05": "gqa2"}, []

    def verify(device: str, targets: Any, calls: Any) -> Any:
        sessions.append([t.config.pattern for t in targets])
        return [bench(device, target, calls) for target in targets]

    first, second = measured_side_by_side(costs, [MIXED, other], verify)
    assert sessions == [["CCGCCC", "CCGCCG"]]
    assert [kept.measured for kept in second[:2]] == [1e6, 1e6]
    assert [kept.ci95 for kept in first] == [(9.9e5, 1.01e6), (9.9e5, 1.01e6), None]
    assert first[2].measured != second[2].measured
    absent = measured_side_by_side(costs, [MIXED], lambda *_: None)
    assert [kept.only_predicted for kept in absent[0]] == [True, True, False]


def test_a_prompt_in_chunks_takes_the_sum_of_its_calls_and_memory_the_largest_of_its(
    make_costs, budget_of, bench
) -> None:
    costs = make_costs(budget_of("ttft", "1s@64", chunk=32), budget_of("peak_memory", "1GB"))
    bench.base = {("prefill", 32): 2e6, ("prefill", 64): 3e6, ("memory", 32): 5e6, ("memory", 64): 4e6}
    found = by_metric(measured_budgets(costs, MIXED, bench))
    assert found["ttft@64"].measured == 5e6
    assert found["peak_memory"].measured == 5e6


def test_a_call_that_was_not_measured_keeps_no_budget(make_costs, budget_of, bench) -> None:
    costs = make_costs(budget_of("ttft", "1s@64", chunk=32), budget_of("tpot", "1s@256"))
    bench.lacks = {("prefill", 64)}
    found = by_metric(measured_budgets(costs, MIXED, bench))
    assert (found["ttft@64"].measured, found["ttft@64"].kept) == (None, False)
    assert found["tpot@256"].kept
    assert why_failed(tuple(found.values())) == "no measurement of ttft@64"


def test_only_what_lies_outside_the_predictions_interval_disagrees(make_costs, budget_of, bench) -> None:
    costs = make_costs(budget_of("tpot", "1s@256"))
    figure = costs.figures(MIXED)["tpot@256"]
    inside, outside = (figure.value, figure.upper, figure.lower), (1.01 * figure.upper, 0.99 * figure.lower)
    for measured, disagrees in [*((ns, False) for ns in inside), *((ns, True) for ns in outside)]:
        bench.base = {("decode", 256): measured}
        (kept,) = measured_budgets(costs, MIXED, bench)
        assert kept.disagrees is disagrees


def test_without_measuring_the_upper_end_decides(make_costs, budget_of) -> None:
    costs = make_costs(budget_of("tpot", "1s@256"), budget_of("params", "1M"))
    found = by_metric(measured_budgets(costs, MIXED, None))
    assert (found["tpot@256"].only_predicted, found["params"].only_predicted) == (True, False)
    assert found["tpot@256"].kept
    between = replace(found["tpot@256"], budget=replace(found["tpot@256"].budget, limit=found["tpot@256"].predicted))
    assert not between.kept
    assert why_failed(tuple(found.values())) is None


def test_a_device_that_is_not_at_hand_is_only_predicted_and_the_other_is_measured(
    make_costs, budget_of, bench, lab
) -> None:
    here, there = budget_of("tpot", "1s@256"), budget_of("tpot", "1s@256", device="phone", name="tpot@256 on phone")
    costs = make_costs(here)
    costs = replace(costs, budgets=(here, there), knowledge=costs.knowledge | {"phone": costs.knowledge["lab"]})
    found = by_metric(measured_budgets(costs, MIXED, lambda d, *more: bench(d, *more) if d == "lab" else None))
    assert found["tpot@256"].measured == 1e6
    assert (found["tpot@256 on phone"].measured, found["tpot@256 on phone"].only_predicted) == (None, True)
    assert found["tpot@256 on phone"].kept


def test_the_longer_stage_is_trained_once_and_kept_in_the_study(study, tiny, make_objective) -> None:
    objective = make_objective()
    config = tiny.config(MIXED)
    first = second_stage(study, objective, config, LONG, seed=1)
    again = second_stage(study, objective, config, LONG, seed=1)
    assert again == first
    assert len(objective.asked) == 1
    second_stage(study, objective, config, LONG, seed=2)
    second_stage(study, objective, config, replace(LONG, seeds=2), seed=1)
    second_stage(study, objective, tiny.config(MIXED | {"slot_00": "gqa2"}), LONG, seed=1)
    assert len(objective.asked) == 4


def finalist(value: float, kept_budgets: bool, tiny: Any, budget: Any, **changes: Any) -> Finalist:
    from edgeprof.search.finalists import Kept

    measured = budget.limit * (0.9 if kept_budgets else 1.1)
    kept = Kept(budget=budget, predicted=1.0, upper=2.0, measured=measured, disagrees=not kept_budgets)
    score = Score(value=value, se=None, seconds=0.0, parts={})
    return Finalist(layout=MIXED, config=tiny.config(MIXED), score=score, budgets=(kept,), **changes)


def test_the_winner_is_the_best_of_those_that_keep_their_budgets_as_measured(tiny, budget_of) -> None:
    budget = budget_of("tpot", "1s@256")
    best, good, worst = (finalist(v, k, tiny, budget) for v, k in ((0.9, False), (0.5, True), (0.1, True)))
    assert choose_winner([worst, best, good], maximise=True) is good
    assert choose_winner([worst, best, good], maximise=False) is worst
    assert choose_winner([best], maximise=True) is None
    assert choose_winner([], maximise=True) is None


def test_disagreements_name_the_layouts_by_budget(tiny, budget_of) -> None:
    budget = budget_of("tpot", "1s@256")
    found = disagreements([finalist(0.9, False, tiny, budget), finalist(0.5, True, tiny, budget)])
    assert found == {"tpot@256": ["CCGCCC"]}


def test_nothing_that_is_unknown_counts_as_kept(budget_of) -> None:
    from edgeprof.search.finalists import Kept

    budget = budget_of("tpot", "1s@256")
    assert not Kept(budget=budget, predicted=None, upper=None, measured=None).kept
    assert not Kept(budget=budget, predicted=None, upper=None, measured=None, only_predicted=True).kept
    assert not Kept(budget=budget, predicted=1.0, upper=1.0, measured=math.inf).kept
