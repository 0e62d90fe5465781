"""A whole search on the tiny space, with a laboratory for a device and functions for objectives."""

from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna
import pytest

from edgeprof.core.errors import UsageError
from edgeprof.search import trials as trials_module
from edgeprof.search.objective import ObjectiveError
from edgeprof.search.run import Plan, best_layouts, quality_posterior, run_all, search, trial_label
from edgeprof.search.sampler_proposal import NoFeasibleLayoutError
from edgeprof.search.study import SCORE_SE, layout_of, n_counted, scored

PLAN = Plan(n_trials=12, n_finalists=3, final_stage=None)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials_module, "POLL_S", 0.01)


class Device:
    """Measures whole models: each is ``slowness(config)`` times its prediction; what it measured it has in its history."""

    def __init__(self, costs: Any, make_row: Any) -> None:
        self.costs, self.make_row = costs, make_row
        self.slowness = lambda config: 1.0
        self.history: list[Any] = []
        self.built: list[str] = []

    def __call__(self, device: str, target: Any, calls: Any) -> list[Any]:
        self.built.append(target.config.pattern)
        rows = []
        for budget in self.costs.budgets:
            figure = self.costs.figure(budget, target.config)
            (call,) = self.costs.calls_of(budget)
            measured = figure.value * self.slowness(target.config)
            rows += [
                self.make_row(
                    phase=call.phase, context=call.kv_len, q_len=call.q_len, paired=paired, measured_ns=measured,
                    predicted_ns=figure.value, uncorrected_ns=figure.value, config_hash=target.config.pattern,
                )
                for paired in (True, False)  # beside its own cells, and from those that the space's rings measured
            ]  # fmt: skip
        self.history += rows
        return rows

    def relearn(self) -> dict[str, Any]:
        return {"lab": replace(self.costs.knowledge["lab"], history=list(self.history))}


@pytest.fixture
def begin(study, reporter, make_problem, make_objective, budget_of, make_row):
    """Runs a search under a budget on TPOT; returns its outcome, device and objective."""

    def run(
        limit: str = "1s@256",
        *,
        measure: bool = True,
        plan: Plan = PLAN,
        objective: Any = None,
        slow: Any = None,
        study: Any = study,
        **more: Any,
    ) -> Any:
        objective = objective or make_objective()
        problem = make_problem(budget_of("tpot", limit), objective=objective)
        device = Device(problem.costs, make_row)
        device.slowness = slow or device.slowness
        plan = replace(plan, final_stage=plan.final_stage or objective.final_stage)
        outcome = search(
            study, problem, plan, verify=device if measure else None, relearn=device.relearn, reporter=reporter, **more
        )
        return outcome, device, problem

    return run


def test_the_best_layout_that_keeps_its_budgets_as_measured_wins(begin, study) -> None:
    outcome, device, _ = begin()
    assert n_counted(study) == 12
    assert outcome.winner is not None
    assert outcome.winner.keeps
    assert outcome.winner.score.value == max(f.score.value for f in outcome.finalists)
    assert sorted(device.built) == sorted(f.config.pattern for f in outcome.finalists)
    assert all(kept.measured is not None for kept in outcome.winner.budgets)


def test_finalists_are_trained_longer_and_come_best_first(begin) -> None:
    outcome, _, problem = begin()
    assert len(problem.objective.of_stage("longer")) == 3
    values = [f.score.value for f in outcome.finalists]
    assert values == sorted(values, reverse=True)


def test_of_an_objective_that_is_minimised_the_least_value_wins(begin, make_objective) -> None:
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=1))
    outcome, _, _ = begin(objective=make_objective(direction="minimize"), study=study)
    values = [f.score.value for f in outcome.finalists]
    assert values == sorted(values)
    assert outcome.winner.score.value == min(values)
    assert min(values) <= min(t.value for t in scored(study)) + 0.2


def test_without_measuring_the_prediction_decides_and_nothing_is_built(begin) -> None:
    outcome, device, _ = begin(measure=False)
    assert device.built == []
    assert outcome.winner is not None
    assert all(kept.only_predicted for kept in outcome.winner.budgets)


def test_the_same_search_again_trains_nothing(begin, study) -> None:
    first, _, problem = begin()
    before = len(study.trials)
    objective = problem.objective
    asked = len(objective.asked)
    again, _, _ = begin(objective=objective)
    assert len(study.trials) == before
    assert len(objective.asked) == asked
    assert again.winner.config == first.winner.config


def test_where_measurement_and_prediction_disagree_the_search_corrects_itself_and_goes_on(
    begin, make_objective, study
) -> None:
    """Everything is slower than predicted: what is best in quality, being wide, breaks its budget as measured."""
    objective = make_objective(
        lambda config: sum(b.ffn.dims()["d_ff"] > 128 for b in config.layers) + attention(config)
    )
    plan = replace(PLAN, n_trials=40, n_finalists=8)
    outcome, device, problem = begin("3.3ms@256", slow=lambda _: 1.22, objective=objective, plan=plan)
    first = outcome.finalists[0]
    assert any(kept.disagrees for f in outcome.finalists for kept in f.budgets)
    assert not first.keeps
    assert n_counted(study) > plan.n_trials
    assert len(device.built) > plan.n_finalists
    corrected = problem.costs.figures(first.layout)["tpot@256"].value
    assert corrected > 1.1 * first.budgets[0].predicted
    assert outcome.winner is not None
    assert outcome.winner.budgets[0].measured <= 3.3e6


def test_where_no_layout_tried_keeps_the_budgets_any_more_others_are_tried(begin, study, caplog) -> None:
    _, _, problem = begin(measure=False)
    uppers = [problem.costs.figures(layout_of(t))["tpot@256"].upper for t in scored(study)]
    outcome, device, _ = begin(f"{int(0.999 * min(uppers))}ns@256", plan=replace(PLAN, n_finalists=1))
    assert "none of the layouts tried so far is left to measure" in caplog.text
    assert n_counted(study) > 12
    assert outcome.winner is not None
    assert device.built == [outcome.winner.config.pattern]


def test_a_layout_that_was_measured_counts_when_the_search_goes_on_whatever_is_predicted_of_it_now(
    begin, study
) -> None:
    first, _, problem = begin(plan=replace(PLAN, n_finalists=1))
    figure = problem.costs.figures(first.winner.layout)["tpot@256"]
    limit = (figure.value + figure.upper) / 2  # it keeps that as measured, and not by its upper end
    again, device, _ = begin(f"{int(limit)}ns@256", plan=replace(PLAN, n_finalists=1))
    assert again.winner.config == first.winner.config
    assert device.built == [first.winner.config.pattern]
    assert n_counted(study) == 12


def attention(config: Any) -> float:
    return sum(block.mixer.name != "short_conv" for block in config.layers) / 10


def test_if_none_keeps_its_budgets_as_measured_there_is_no_winner(begin) -> None:
    outcome, device, _ = begin(slow=lambda _: 1e6, plan=replace(PLAN, n_trials=6, n_finalists=2))
    assert outcome.winner is None
    assert outcome.finalists
    assert all(not f.keeps for f in outcome.finalists)
    assert len(set(device.built)) == len(device.built)  # nobody is measured twice


def test_when_corrected_predictions_rule_out_everything_the_finalists_are_still_told(begin, study, caplog) -> None:
    usual = study.ask

    def ask() -> Any:
        if n_counted(study) >= 6:
            raise NoFeasibleLayoutError("no layout is left")
        return usual()

    study.ask = ask
    outcome, _, _ = begin(slow=lambda _: 1e6, plan=replace(PLAN, n_trials=6, n_finalists=2))
    assert len(outcome.finalists) >= 2
    assert outcome.winner is None
    assert "nothing is left to try" in caplog.text


def test_a_sampler_that_finds_nothing_from_the_start_ends_the_search(begin, monkeypatch) -> None:
    monkeypatch.setattr(trials_module, "REJECTIONS_IN_A_ROW", 5)
    with pytest.raises(UsageError, match="--sampler"):
        begin("1us@256")


def test_helpers_are_gone_when_finalists_are_measured(begin) -> None:
    log: list[Any] = []

    @contextmanager
    def helpers(n_trials: int):
        log.append(("begin", n_trials))
        yield
        log.append("end")

    def slow(_: Any) -> float:
        log.append("measured")
        return 1.0

    begin(helpers=helpers, slow=slow)
    assert log == [("begin", 12), "end", "measured", "measured", "measured"]


def test_where_an_objective_has_no_longer_stage_all_trials_together_decide_and_none_is_asked_again(
    begin, make_objective, study
) -> None:
    """A lucky score of a bad layout does not win: the features of all trials know better."""
    objective = make_objective()
    objective.final_stage = objective.stage("")
    outcome, _, problem = begin(objective=objective)
    assert len(objective.asked) == 12
    posterior = quality_posterior(study, problem.costs.space.parameters)
    for finalist in outcome.finalists:
        assert finalist.score.value == posterior.mean(finalist.layout)
        assert finalist.score.se == posterior.sd(finalist.layout)
    assert outcome.winner.score.value == max(f.score.value for f in outcome.finalists)


def test_finalists_are_chosen_by_posterior_mean_and_not_by_the_luckiest_score(begin, make_objective, study) -> None:
    def function(config: Any) -> float:
        return sum(block.mixer.name != "short_conv" for block in config.layers) / 6

    _, _, problem = begin(measure=False, objective=make_objective(function), plan=replace(PLAN, n_trials=30))
    worst = min(scored(study), key=lambda t: t.value)
    study.add_trial(
        optuna.trial.create_trial(
            value=1.01, params=worst.params, distributions=worst.distributions, user_attrs={SCORE_SE: 1.0}
        )
    )
    assert layout_of(worst) not in best_layouts(study, problem.costs, 3)


def test_only_layouts_that_keep_their_budgets_by_what_is_known_now_are_finalists(begin, study, budget_of) -> None:
    _, _, problem = begin(measure=False)
    uppers = sorted(problem.costs.figures(layout_of(t))["tpot@256"].upper for t in scored(study))
    tighter = replace(
        problem.costs, budgets=(replace(budget_of("tpot", "1s@256"), limit=uppers[4]),), _known={}, _evidence={}
    )
    found = best_layouts(study, tighter, 12)
    assert 0 < len(found) <= 5
    assert all(tighter.keeps(layout) for layout in found)


def test_a_layout_that_was_pruned_a_little_behind_the_best_is_a_finalist_and_one_far_behind_is_not(
    begin, study
) -> None:
    _, _, problem = begin(measure=False)
    best = max(scored(study), key=lambda t: t.value)
    tried = [layout_of(t) for t in study.trials]
    near, far = (x for x in _others(problem.costs.space, best.params) if x not in tried and problem.costs.keeps(x))
    study.add_trial(best_with(best, best.params, optuna.trial.TrialState.COMPLETE, {0: 1.0, 1: 1.0}))
    for layout, behind in ((near, 0.01), (far, 50.0)):
        reported = {0: 1.0 - behind}
        study.add_trial(best_with(best, layout, optuna.trial.TrialState.PRUNED, reported))
    found = best_layouts(study, problem.costs, 5)
    assert near in found
    assert far not in found


def best_with(best: Any, params: Any, state: Any, reported: dict[int, float]) -> Any:
    return optuna.trial.create_trial(
        value=best.value if state.name == "COMPLETE" else None, params=params, distributions=best.distributions,
        state=state, intermediate_values=reported,
    )  # fmt: skip


def _others(space: Any, layout: dict[str, str]) -> list[dict[str, str]]:
    """Two layouts that differ from one in a single choice."""
    changed = ({**layout, name: c} for name, own in space.parameters.items() for c in own if c != layout[name])
    return [x for x in changed if not space.broken_rules(x)][:2]


def test_a_study_without_a_score_has_no_finalists(study, make_costs, budget_of) -> None:
    assert best_layouts(study, make_costs(budget_of("params", "1M")), 3) == []


def test_a_layout_that_was_scored_twice_is_one_finalist(begin, study) -> None:
    _, _, problem = begin(measure=False)
    first = scored(study)[0]
    study.add_trial(
        optuna.trial.create_trial(value=first.value, params=first.params, distributions=first.distributions)
    )
    assert best_layouts(study, problem.costs, 99).count(layout_of(first)) == 1


def test_a_finalist_that_the_longer_training_fails_on_is_left_out(begin, make_objective, caplog) -> None:
    objective = make_objective()
    usual = objective.score
    failed: list[str] = []

    def score(config: Any, *, budget: Any, **more: Any) -> Any:
        if budget.name == "longer" and not failed:
            failed.append(config.pattern)
            raise ObjectiveError("out of memory")
        return usual(config, budget=budget, **more)

    objective.score = score
    outcome, _, _ = begin(objective=objective)
    assert len(outcome.finalists) == 2
    assert outcome.winner is not None
    assert "a finalist has no score: out of memory" in caplog.text


def test_if_it_fails_on_all_of_them_the_reason_is_told(begin, make_objective) -> None:
    objective = make_objective()
    usual = objective.score

    def score(config: Any, *, budget: Any, **more: Any) -> Any:
        if budget.name == "longer":
            raise ObjectiveError("out of memory")
        return usual(config, budget=budget, **more)

    objective.score = score
    with pytest.raises(ObjectiveError, match="out of memory"):
        begin(objective=objective)


def test_a_finalist_that_does_not_fit_the_device_fails_alone(begin) -> None:
    built: list[str] = []

    def slow(config: Any) -> float:
        built.append(config.pattern)
        if len(built) == 1:
            raise UsageError("the ring does not fit the memory")
        return 1.0

    outcome, _, _ = begin(slow=slow)
    failed = [f for f in outcome.finalists if f.failed]
    assert [f.failed for f in failed] == ["the ring does not fit the memory"]
    assert not failed[0].keeps
    assert outcome.winner is not None


def test_progress_counts_trials_that_count(study, make_problem, budget_of, reporter) -> None:
    problem = make_problem(budget_of("params", "290k"))
    run_all(study, problem, 5, reporter)
    assert len(study.trials) > 5  # some were ruled out
    assert reporter.stages == [("search", 5)]
    assert len(reporter.steps) == 5
    run_all(study, problem, 7, reporter)
    assert reporter.stages[1] == ("search", 2)
    run_all(study, problem, 7, reporter)
    assert len(reporter.stages) == 2


def test_the_label_of_a_trial_is_the_best_so_far(study, make_problem, make_objective, budget_of) -> None:
    problem = make_problem(budget_of("params", "1M"))
    assert trial_label(study, problem) == "no score yet"
    run_all(study, problem, 4, NoReporter())
    best = max(scored(study), key=lambda t: t.value)
    pattern = problem.costs.space.config(layout_of(best)).pattern
    assert trial_label(study, problem) == f"best {best.value:.3f} {pattern}, 4 scored"


class NoReporter:
    def stage(self, name: str, total: int) -> None: ...

    def step(self, label: str) -> None: ...
