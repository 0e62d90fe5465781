"""A trial: proposed, held against the budgets, and only then trained; what fails is stored and costs itself."""

import threading
from typing import Any

import optuna
import pytest

from edgeprof.search import trials as module
from edgeprof.search.liveness import at_work, this_worker
from edgeprof.search.objective import ObjectiveError
from edgeprof.search.study import (
    CELLS,
    FAILED,
    PARTS,
    PREDICTED,
    PRUNE_FROM,
    REJECTED,
    SEEN,
    WORKER,
    layout_of,
    make_pruner,
    n_counted,
    scored,
)
from edgeprof.search.trials import FAILURES_AT_FIRST, FAILURES_IN_A_ROW, NothingProposedError, run_trials


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)


def states(study: optuna.Study) -> list[str]:
    return [t.state.name for t in study.trials]


def test_a_layout_beyond_a_budget_is_never_trained(study, make_problem, make_objective, budget_of, tiny) -> None:
    objective = make_objective()
    problem = make_problem(budget_of("tpot", "2.8ms@256"), budget_of("params", "300k"), objective=objective)
    run_trials(study, problem, 6)
    rejected = [t for t in study.trials if REJECTED in t.user_attrs]
    assert rejected
    assert len(objective.asked) == len(scored(study)) == 6
    for trial in study.trials:
        within = problem.costs.keeps(layout_of(trial))
        assert trial.state.name == ("COMPLETE" if within else "PRUNED")


def test_the_upper_end_of_the_prediction_rules_a_layout_out(study, make_problem, budget_of) -> None:
    from dataclasses import replace

    loose = make_problem(budget_of("tpot", "1s@256"))
    run_trials(study, loose, 1)
    layout = layout_of(study.trials[0])
    figure = loose.costs.figures(layout)["tpot@256"]
    tight = replace(budget_of("tpot", "1s@256"), limit=(figure.value + figure.upper) / 2)
    study.enqueue_trial(layout)
    done = module.one_trial(study, make_problem(tight))
    assert done.user_attrs[REJECTED]


def test_a_trial_tells_what_was_predicted_and_what_that_rests_on(study, make_problem, budget_of) -> None:
    problem = make_problem(budget_of("tpot", "1s@256"), budget_of("params", "1M"))
    run_trials(study, problem, 1)
    (trial,) = study.trials
    figure = problem.costs.figures(layout_of(trial))["tpot@256"]
    assert trial.user_attrs[PREDICTED]["tpot@256"] == [figure.value, figure.upper]
    assert trial.user_attrs[CELLS] == sorted(figure.cells)
    assert trial.user_attrs[PARTS] == {"part": trial.value}
    assert trial.user_attrs[WORKER] == this_worker()
    assert {c: v for c, v in trial.constraints.items() if v > 0} == {}
    assert set(trial.constraints) == {"rules", "tpot@256", "params"}


def test_other_figures_are_minimised_beside_the_quality(make_problem, budget_of) -> None:
    problem = make_problem(budget_of("tpot", "1s@256"), budget_of("params", "1M"), also=("tpot@256",))
    assert problem.directions == ["maximize", "minimize"]
    study = optuna.create_study(directions=problem.directions, sampler=optuna.samplers.RandomSampler(seed=1))
    run_trials(study, problem, 2)
    for trial in study.trials:
        assert trial.values[1] == problem.costs.figures(layout_of(trial))["tpot@256"].value


def test_what_is_asked_for_is_the_number_of_trials_of_the_study(study, make_problem, budget_of) -> None:
    problem = make_problem(budget_of("params", "1M"))
    run_trials(study, problem, 3)
    run_trials(study, problem, 3)
    assert n_counted(study) == 3
    run_trials(study, problem, 5)
    assert n_counted(study) == 5


# Failures


def failing_on(pattern: str) -> Any:
    def function(config: Any) -> float:
        if config.pattern == pattern:
            raise ValueError("cannot be trained")
        return 0.5

    return function


def test_a_layout_that_the_objective_fails_on_is_stored_with_the_reason_and_the_search_goes_on(
    study, make_problem, make_objective, budget_of
) -> None:
    problem = make_problem(budget_of("params", "1M"), objective=make_objective(failing_on("GGGGGG")))
    study.enqueue_trial({f"slot_0{i}": "gqa2" for i in range(6)} | {"ffn": "ff128"})
    run_trials(study, problem, 3)
    first, *others = study.trials
    assert first.state.name == "FAIL"
    assert first.user_attrs[FAILED] == "objective function: GGGGGG: cannot be trained"
    assert [t.state.name for t in others if REJECTED not in t.user_attrs] == ["COMPLETE"] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_fails_its_trial(
    value: float, study, make_problem, make_objective, budget_of
) -> None:
    scores = [value, 0.5, 0.5]
    problem = make_problem(budget_of("params", "1M"), objective=make_objective(lambda _: scores.pop(0)))
    run_trials(study, problem, 2)
    failed = [t for t in study.trials if t.state.name == "FAIL"]
    assert len(failed) == 1
    assert "its score is" in failed[0].user_attrs[FAILED]


def test_an_objective_that_always_fails_ends_the_search_soon(study, make_problem, make_objective, budget_of) -> None:
    def broken(_: Any) -> float:
        raise ValueError("no data")

    objective = make_objective(broken)
    with pytest.raises(ObjectiveError, match=r"no data \(3 trials in a row failed; mend it") as error:
        run_trials(study, make_problem(budget_of("params", "1M"), objective=objective), 50)
    assert len(objective.asked) == FAILURES_AT_FIRST
    assert error.value.exit_code == 2
    assert n_counted(study) == 0


def test_an_objective_that_stops_working_ends_the_search_later(study, make_problem, make_objective, budget_of) -> None:
    count = iter(range(1000))

    def breaking(_: Any) -> float:
        if next(count) >= 2:
            raise ValueError("no data")
        return 0.5

    with pytest.raises(ObjectiveError):
        run_trials(study, make_problem(budget_of("params", "1M"), objective=make_objective(breaking)), 50)
    assert states(study).count("FAIL") == FAILURES_IN_A_ROW
    assert n_counted(study) == 2


def test_what_is_no_failure_of_the_objective_is_a_bug_and_is_raised(
    study, make_problem, make_objective, budget_of
) -> None:
    def bug(_: Any) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_trials(study, make_problem(budget_of("params", "1M"), objective=make_objective(bug)), 5)
    assert [t.state.name for t in study.trials if REJECTED not in t.user_attrs] == ["FAIL"]


def test_an_interruption_costs_the_trial_in_flight(study, make_problem, make_objective, budget_of) -> None:
    count = iter(range(1000))

    def interrupted(_: Any) -> float:
        if next(count) == 2:
            raise KeyboardInterrupt
        return 0.5

    problem = make_problem(budget_of("params", "1M"), objective=make_objective(interrupted))
    with pytest.raises(KeyboardInterrupt):
        run_trials(study, problem, 5)
    assert n_counted(study) == 2
    run_trials(study, problem, 5)
    assert n_counted(study) == 5


def test_a_sampler_that_finds_nothing_is_told(study, make_problem, budget_of, make_costs, monkeypatch) -> None:
    monkeypatch.setattr(module, "REJECTIONS_IN_A_ROW", 5)
    problem = make_problem(budget_of("params", "10k"))
    with pytest.raises(NothingProposedError, match="--sampler: proposed 5 layouts beyond the budgets"):
        run_trials(study, problem, 5)
    assert n_counted(study) == 0


def test_a_sampler_that_raises_leaves_no_trial_running(study, make_problem, budget_of) -> None:
    class Broken(optuna.samplers.RandomSampler):
        def sample_independent(self, *_: Any) -> Any:
            raise RuntimeError("cannot propose")

    study.sampler = Broken()
    with pytest.raises(RuntimeError):
        run_trials(study, make_problem(budget_of("params", "1M")), 5)
    assert states(study) == ["FAIL"]


def test_pruned_trials_count_and_have_no_score(make_problem, make_objective, budget_of) -> None:
    """The first trials are good; those that are worse at every step end early."""
    values = iter([0.9, 0.9, 0.1, 0.1])
    current: list[float] = []

    def function(_: Any) -> float:
        return current[-1]

    objective = make_objective(function)
    objective.reports = [0.001 * i for i in range(12)]
    usual = objective.score

    def score(config: Any, **more: Any) -> Any:
        current.append(next(values))
        return usual(config, **more)

    objective.score = score
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=2))
    study.pruner = make_pruner(study)
    run_trials(study, make_problem(budget_of("params", "1M"), objective=objective), 4)
    counted = [t.state.name for t in study.trials if REJECTED not in t.user_attrs]
    assert counted == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert [t.last_step for t in study.trials if t.state.name == "PRUNED"] == [PRUNE_FROM - 1] * 2


# Other workers


def test_a_dead_workers_trial_does_not_count(study, make_problem, budget_of) -> None:
    dead = study.ask()
    dead.set_user_attr(WORKER, "elsewhere:1:1.0")
    dead.set_user_attr(SEEN, 0.0)
    run_trials(study, make_problem(budget_of("params", "1M")), 3)
    assert study.trials[0].state.name == "FAIL"
    assert len(scored(study)) == 3


def test_a_living_workers_trial_is_waited_for_and_counts(study, make_problem, budget_of) -> None:
    other = study.ask()
    with at_work(other):
        timer = threading.Timer(0.1, lambda: study.tell(other, 0.5))
        timer.start()
        run_trials(study, make_problem(budget_of("params", "1M")), 3)
    timer.join()
    assert len(scored(study)) == 3
    assert study.trials[0].value == 0.5


def test_if_it_dies_meanwhile_there_is_one_more_to_do(study, make_problem, budget_of, monkeypatch) -> None:
    other = study.ask()
    other.set_user_attr(WORKER, this_worker())
    looks = iter(range(100))
    usual = module.release_lost

    def release(s: Any) -> int:
        if next(looks) == 6:
            other.set_user_attr(WORKER, "elsewhere:1:1.0")
            other.set_user_attr(SEEN, 0.0)
        return usual(s)

    monkeypatch.setattr(module, "release_lost", release)
    run_trials(study, make_problem(budget_of("params", "1M")), 2)
    assert len(scored(study)) == 2


def test_workers_together_do_no_trial_too_many(make_problem, make_objective, budget_of, tmp_path) -> None:
    from edgeprof.search.study import open_storage

    url = str(tmp_path / "x.journal")
    optuna.create_study(storage=open_storage(url, tmp_path), study_name="s", direction="maximize")
    problem = make_problem(budget_of("params", "1M"))
    gate = threading.Barrier(3)

    def work(seed: int) -> None:
        study = optuna.load_study(
            study_name="s", storage=open_storage(url, tmp_path), sampler=optuna.samplers.RandomSampler(seed=seed)
        )
        gate.wait()
        run_trials(study, problem, 7)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    study = optuna.load_study(study_name="s", storage=open_storage(url, tmp_path))
    assert len(scored(study)) == 7
    assert "RUNNING" not in states(study)


def test_a_worker_that_others_took_for_dead_goes_on_with_the_next_trial(
    study, make_problem, make_objective, budget_of
) -> None:
    count = iter(range(1000))

    def function(_: Any) -> float:
        if next(count) == 0:
            study.tell(study.trials[-1].number, state=optuna.trial.TrialState.FAIL)
        return 0.5

    run_trials(study, make_problem(budget_of("params", "1M"), objective=make_objective(function)), 2)
    assert len(scored(study)) == 2
