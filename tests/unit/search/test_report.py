"""What a study's trials say together: counts, the best layout and the luckiest, fronts, importances and baselines."""

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from edgeprof.models.accounting import parameters
from edgeprof.search.baselines import BASELINE
from edgeprof.search.budgets import Budget, parse_budget
from edgeprof.search.costs import Costs
from edgeprof.search.linear import Layout
from edgeprof.search.report import Report, ahead, build_report, front, proposals
from edgeprof.search.space import load_space
from edgeprof.search.study import PREDICTED, REJECTED, SCORE_SE

optuna.logging.set_verbosity(optuna.logging.ERROR)

TINY = load_space("tiny")
PARAMS = parse_budget("params", "330k")
TPOT = parse_budget("tpot", "13ms@64").filled(runtime="onnxruntime", dtype="fp32", n_threads=1)
BUDGETS = (TPOT, PARAMS)
ALL_CONV = dict.fromkeys(TINY.parameters, "conv3") | {"ffn": "ff128"}


def static_costs(budgets: Sequence[Budget] = BUDGETS) -> Costs:
    """What is known of a space where no device's records are at hand."""

    def make_target(*_: Any) -> Any:
        raise AssertionError("nothing is predicted without a device")

    return Costs(space=TINY, budgets=[b for b in budgets if b.is_static], knowledge={}, make_target=make_target)


def layout(letters: str, ffn: str = "ff128") -> dict[str, str]:
    """CCGSCG as a layout of the tiny space."""
    labels = {"C": "conv3", "S": "swa16", "G": "gqa2"}
    return {f"slot_{i:02d}": labels[letter] for i, letter in enumerate(letters)} | {"ffn": ffn}


def add(
    study: optuna.Study,
    chosen: Layout,
    values: Sequence[float] | None = None,
    *,
    state: TrialState = TrialState.COMPLETE,
    tpot: tuple[float | None, float | None] | None = None,
    **attrs: Any,
) -> None:
    """A hand-made trial of a layout; a convolution takes 1 ms a token, anything else 2 ms."""
    ns = 1e6 * sum(1 if choice == "conv3" else 2 for name, choice in chosen.items() if name != "ffn")
    n = float(parameters(TINY.config(chosen)))
    predicted = {TPOT.name: tpot or (ns, 1.05 * ns), PARAMS.name: (n, n)}
    study.add_trial(
        create_trial(
            params=dict(chosen),
            distributions={name: CategoricalDistribution(choices) for name, choices in TINY.parameters.items()},
            values=values,
            state=state,
            user_attrs={PREDICTED: predicted} | attrs,
        )
    )


def reject(study: optuna.Study, chosen: Layout, **changes: Any) -> None:
    add(study, chosen, state=TrialState.PRUNED, **({REJECTED: True} | changes))


def quality(chosen: Layout) -> float:
    """The law of these tests: attention in slot_02 is worth much, each further one a little, the rest nothing."""
    attention = [name for name, choice in chosen.items() if choice in ("gqa2", "swa16")]
    return 0.5 * ("slot_02" in attention) + 0.05 * len(attention)


@pytest.fixture
def make_study() -> Callable[..., optuna.Study]:
    def make(n: int = 0, directions: Sequence[str] = ("maximize",)) -> optuna.Study:
        study = optuna.create_study(study_name="small", directions=list(directions))
        rng = random.Random(1)
        for _ in range(n):
            chosen = TINY.random(rng)
            score = quality(chosen) if directions[0] == "maximize" else -quality(chosen)
            add(study, chosen, [score, *[1.0] * (len(directions) - 1)], **{SCORE_SE: 0.01})
        return study

    return make


def test_an_empty_study_is_a_report_of_nothing(make_study) -> None:
    report = build_report(make_study(), static_costs(), BUDGETS)
    assert set(report.counts.values()) == {0}
    assert report.best is report.luckiest is None
    assert report.tried == report.importances == report.neighbours == ()
    assert report.fronts == {TPOT.name: (), PARAMS.name: ()}
    assert proposals(make_study()).proposed == 0


def test_trials_are_counted_by_what_became_of_them(make_study) -> None:
    study = make_study(2)
    add(study, layout("CCGCCG"), state=TrialState.PRUNED)
    reject(study, layout("GGGGGG"))
    add(study, layout("CCGCCC"), state=TrialState.FAIL)
    add(study, layout("CCGCCS"), state=TrialState.RUNNING)
    report = build_report(study, static_costs(), BUDGETS)
    assert report.counts == {"scored": 2, "pruned": 1, "ruled_out": 1, "failed": 1, "running": 1, "waiting": 0}
    assert (proposals(study).proposed, proposals(study).feasible) == (6, 5)


def test_a_study_with_rejected_trials_only_says_what_ruled_them_out(make_study) -> None:
    study = make_study()
    reject(study, layout("GGGGGG"), tpot=(12e6, 14e6))
    reject(study, layout("GGGGGG", "ff192"), tpot=(14e6, 15e6))
    reject(study, layout("CCCCCC", "ff192"))
    reject(study, layout("CCCCCG"), tpot=(None, None))
    report = build_report(study, static_costs(), BUDGETS)
    assert report.best is None
    assert report.ruled_out_by == {
        TPOT.name: 2,
        PARAMS.name: 1,
        "at least 1 attention": 1,
        f"no {TPOT.name} known": 1,
    }
    assert [one.expected for one in report.tried] == [None] * 4
    assert all(not ones for ones in report.fronts.values())


def test_the_best_layout_is_not_the_luckiest_one(make_study) -> None:
    study = make_study(60)
    add(study, layout("GCCCCC"), [0.9], **{SCORE_SE: 0.5})  # the law says 0.05; a noisy trial says 0.9
    report = build_report(study, static_costs(), BUDGETS)
    assert report.luckiest.layout == layout("GCCCCC")
    assert quality(report.best.layout) > 0.7
    assert report.best.expected > report.luckiest.expected
    assert report.luckiest.score == 0.9


def test_less_can_be_better(make_study) -> None:
    study = make_study(40, directions=["minimize"])
    report = build_report(study, static_costs(), BUDGETS)
    assert not report.maximise
    assert report.luckiest.score == min(t.value for t in study.trials)
    assert report.best.expected == min(one.expected for one in report.tried)


def test_a_layout_comes_once_and_a_score_outlives_a_later_rejection(make_study) -> None:
    study = make_study()
    add(study, layout("CCGCCG"), [0.6])
    add(study, layout("CCGCCG"), [0.7])
    reject(study, layout("CCGCCG"))
    report = build_report(study, static_costs(), BUDGETS)
    assert [(one.number, one.score) for one in report.tried] == [(1, 0.7)]


def test_no_layout_of_the_front_is_beaten_in_quality_and_figure(make_study) -> None:
    report = build_report(make_study(40), static_costs(), BUDGETS)
    for name in (TPOT.name, PARAMS.name):
        scored = [(one.figures[name][0], one.expected) for one in report.tried]
        chosen = [(one.figures[name][0], one.expected) for one in report.fronts[name]]
        assert chosen == sorted(p for p in scored if not any(beats(other, p) for other in scored))
    assert len(report.fronts[TPOT.name]) > 1


def beats(other: tuple[float, float], one: tuple[float, float]) -> bool:
    return other != one and other[0] <= one[0] and other[1] >= one[1]


def test_layouts_without_a_figure_are_not_on_its_front(make_study) -> None:
    study = make_study(20)
    add(study, layout("GGGGGG"), [2.0], tpot=(None, None), **{SCORE_SE: 0.01})
    report = build_report(study, static_costs(), BUDGETS)
    unmeasured = report.find(layout("GGGGGG"))
    assert unmeasured.unknown == (TPOT.name,)
    assert not unmeasured.keeps
    assert unmeasured not in report.fronts[TPOT.name]
    assert unmeasured in report.fronts[PARAMS.name]


def test_a_front_of_qualities_to_minimise_goes_down(make_study) -> None:
    report = build_report(make_study(40, directions=["minimize"]), static_costs(), BUDGETS)
    found = front([one for one in report.tried if one.kind == "scored"], TPOT.name, maximise=False)
    assert [one.expected for one in found] == sorted((one.expected for one in found), reverse=True)


def test_the_slot_that_decides_is_the_most_important_one(make_study) -> None:
    report = build_report(make_study(80), static_costs(), BUDGETS)
    first, second, *_ = report.importances
    assert first.parameter == "slot_02"
    assert first.span > 3 * second.span
    assert first.effects[first.chosen] == 0
    assert first.effects["conv3"] < -0.3
    assert first.optuna_share == max(one.optuna_share for one in report.importances)


def test_optunas_shares_wait_for_enough_scores(make_study) -> None:
    few = build_report(make_study(49), static_costs(), BUDGETS)
    assert {one.optuna_share for one in few.importances} == {None}
    enough = build_report(make_study(50), static_costs(), BUDGETS)
    assert sum(one.optuna_share for one in enough.importances) == pytest.approx(1)


def test_a_neighbour_effect_is_told_where_there_is_one_only(make_study) -> None:
    assert build_report(make_study(80), static_costs(), BUDGETS).neighbours == ()
    study = make_study()
    rng = random.Random(2)
    for _ in range(80):
        chosen = TINY.random(rng)
        row = [chosen[f"slot_{i:02d}"] for i in range(6)]
        pairs = list(pairwise(row)).count(("gqa2", "conv3"))
        add(study, chosen, [0.5 * pairs + rng.gauss(0, 0.01)])
    first, *_ = build_report(study, static_costs(), BUDGETS).neighbours
    assert (first.first, first.then) == ("gqa2", "conv3")
    assert first.effect > 0


def test_a_study_of_several_objectives_tells_the_trials_that_none_beats(make_study) -> None:
    study = make_study(directions=["maximize", "minimize"])
    for letters, score, figure in (("CCGCCG", 0.7, 9.0), ("CCGCCC", 0.6, 7.0), ("CGCCCC", 0.5, 8.0)):
        add(study, layout(letters), [score, figure])
    report = build_report(study, static_costs(), BUDGETS)
    assert sorted(report.pareto) == [0, 1]
    assert report.luckiest.score == 0.7
    assert report.fronts[TPOT.name]


def test_a_baseline_is_told_as_it_was_tried(make_study) -> None:
    study = make_study(20)
    add(study, layout("SSSSSG"), [0.4], **{BASELINE: "gemma 5:1"})
    found = {one.baseline: one for one in build_report(study, static_costs(), BUDGETS).baselines}
    assert found["gemma 5:1"].score == 0.4
    assert found["gemma 5:1"].number == 20
    assert found["gemma 5:1"].keeps


def test_the_variant_of_a_baseline_that_was_tried_is_told(make_study) -> None:
    study = make_study(20)
    add(study, layout("GGGGGG"), [0.8])
    add(study, layout("GGGGGG", "ff192"), [0.4], **{BASELINE: "all gqa"})
    found = {one.baseline: one for one in build_report(study, static_costs(), BUDGETS).baselines}
    assert (found["all gqa"].layout["ffn"], found["all gqa"].score) == ("ff192", 0.4)


def test_a_baseline_that_another_trial_proposed_needs_no_trial_of_its_own(make_study) -> None:
    study = make_study(20)
    add(study, layout("GGGGGG"), [0.8])
    found = {one.baseline: one for one in build_report(study, static_costs(), BUDGETS).baselines}
    assert found["all gqa"].score == 0.8


def test_a_baseline_without_a_trial_says_what_it_breaks_and_what_nobody_knows(make_study) -> None:
    report = build_report(make_study(20), static_costs(), BUDGETS)
    found = {one.baseline: one for one in report.baselines}
    assert found["all conv"].kind == "untried"
    assert found["all conv"].breaks == ("at least 1 attention",)
    assert found["all gqa"].unknown == (TPOT.name,)
    assert found["all gqa"].figures[PARAMS.name][0] == parameters(TINY.config(found["all gqa"].layout))
    assert found["all gqa"].expected is not None


def test_how_far_one_layout_is_ahead_is_positive_in_either_direction(make_study) -> None:
    for direction in ("maximize", "minimize"):
        report: Report = build_report(make_study(40, directions=[direction]), static_costs(), BUDGETS)
        worst = min(report.tried, key=lambda one: quality(one.layout))
        difference, sd = ahead(report.best, worst, maximise=report.maximise)
        assert difference > 0.5
        assert 0 < sd < 0.2


def test_what_is_not_expected_is_not_compared(make_study) -> None:
    study = make_study()
    reject(study, layout("GGGGGG"))
    (one,) = build_report(study, static_costs(), BUDGETS).tried
    assert ahead(one, one, maximise=True) is None
