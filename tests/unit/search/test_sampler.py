"""The additive sampler: what it proposes, and that it knows nothing but the study."""

import subprocess
import sys
from itertools import product

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from edgeprof.core.errors import ExitCode, UsageError
from edgeprof.search.linear import LinearLimit
from edgeprof.search.sampler import AdditiveSampler, best_by_posterior_mean
from edgeprof.search.sampler_names import SAMPLERS, make_sampler
from edgeprof.search.sampler_proposal import NoFeasibleLayoutError

CHOICES = ("conv", "gqa", "swa")
SLOTS = {f"slot_{i}": CHOICES for i in range(6)}
SPACE = {name: CategoricalDistribution(own) for name, own in SLOTS.items()}
SMALL = {f"slot_{i}": ("conv", "gqa") for i in range(3)}
TIME = {name: {"conv": 1.0, "gqa": 2.7 + 0.05 * i, "swa": 1.9} for i, name in enumerate(SLOTS)}
BUDGET = LinearLimit(name="tpot", weights=TIME, constant=0.0, limit=10.0)


def quality(layout):
    return sum({"conv": 0.0, "gqa": 1.0 + 0.2 * i, "swa": 0.5}[layout[name]] for i, name in enumerate(SLOTS))


def run(study, n, space=SPACE, score=quality):
    for _ in range(n):
        trial = study.ask(space)
        study.tell(trial, score(trial.params))
    return [trial.params for trial in study.trials]


def maximise(**options):
    return optuna.create_study(direction="maximize", sampler=AdditiveSampler(seed=0, **options))


def space_of(parameters):
    return {name: CategoricalDistribution(own) for name, own in parameters.items()}


def test_the_exact_optimum_under_a_budget_is_found():
    study = maximise(parameters=SLOTS, limits=[BUDGET])
    run(study, 40)
    every = [dict(zip(SLOTS, chosen, strict=True)) for chosen in product(CHOICES, repeat=6)]
    assert study.best_value == pytest.approx(max(quality(x) for x in every if BUDGET.keeps(x)))


@pytest.mark.parametrize("n_startup_trials", [0, 25])
def test_no_proposal_breaks_a_limit_from_the_first_trial_on(n_startup_trials):
    tight = LinearLimit(name="tpot", weights=TIME, constant=0.0, limit=8.0)
    study = maximise(parameters=SLOTS, limits=[tight], n_startup_trials=n_startup_trials)
    assert all(tight.keeps(layout) for layout in run(study, 25))


def test_no_layout_is_proposed_twice_while_there_are_others():
    proposed = run(maximise(parameters=SMALL, n_startup_trials=3), 8, space_of(SMALL), lambda x: x["slot_0"] == "gqa")
    assert len({tuple(layout.values()) for layout in proposed}) == 8


def test_an_exhausted_space_repeats_the_layout_that_is_best_by_its_mean():
    study = maximise(parameters=SMALL, n_startup_trials=3)
    proposed = run(study, 12, space_of(SMALL), lambda x: float([*x.values()].count("gqa")))
    assert all(set(layout.values()) == {"gqa"} for layout in proposed[8:])


def test_layouts_that_others_are_trying_are_not_proposed():
    study = maximise(parameters=SMALL, n_startup_trials=2)
    asked = [study.ask(space_of(SMALL)) for _ in range(8)]
    assert len({tuple(trial.params.values()) for trial in asked}) == 8


def test_no_layout_within_the_limits_is_an_error_that_names_them():
    impossible = LinearLimit(name="tpot", weights=TIME, constant=0.0, limit=5.0)
    with pytest.raises(NoFeasibleLayoutError, match="tpot") as caught:
        maximise(parameters=SLOTS, limits=[impossible]).ask(SPACE)
    assert caught.value.exit_code == ExitCode.REGRESSION


def test_an_exact_check_keeps_out_what_the_limits_let_pass():
    def check(layout):
        return [BUDGET.value(layout) + 0.9 - BUDGET.limit]

    proposed = run(maximise(parameters=SLOTS, limits=[BUDGET], check=check), 20)
    assert all(check(layout)[0] <= 0 for layout in proposed)


def test_what_a_proposal_exceeds_a_limit_by_draws_the_limit_in():
    asked = []

    def check(layout):
        asked.append(layout)
        return [BUDGET.value(layout) + 1.5 - BUDGET.limit]

    maximise(parameters=SLOTS, limits=[BUDGET], check=check, n_startup_trials=0).ask(SPACE)
    assert len(asked) <= 3


def test_the_first_layouts_are_spread():
    opposite = 0
    for seed in range(6):
        study = optuna.create_study(sampler=AdditiveSampler(seed=seed, parameters=SMALL))
        study.enqueue_trial(dict.fromkeys(SMALL, "conv"))
        opposite += run(study, 2, space_of(SMALL), lambda _: 1.0)[1] == dict.fromkeys(SMALL, "gqa")
    assert opposite >= 4


def test_a_check_that_only_says_no_is_obeyed():
    study = maximise(parameters=SLOTS, check=lambda layout: layout["slot_5"] != "gqa")
    assert all(layout["slot_5"] != "gqa" for layout in run(study, 15))


def test_a_limit_that_jumps_where_nothing_foretells_it_still_leads_to_the_best_that_passes():
    """As memory does with one more layer: what is worth most is refused again and again."""

    def falls_off(layout):
        return [10.0 if [*layout.values()].count("gqa") > 2 else -1.0]

    study = maximise(parameters=SLOTS, check=falls_off, n_startup_trials=4)
    proposed = run(study, 40, SPACE, lambda x: float([*x.values()].count("gqa")))
    assert all(falls_off(layout)[0] <= 0 for layout in proposed)
    assert max([*layout.values()].count("gqa") for layout in proposed) == 2


def test_a_check_that_refuses_everything_is_an_error():
    with pytest.raises(NoFeasibleLayoutError, match="exact check"):
        maximise(parameters=SLOTS, check=lambda _: False).ask(SPACE)


def test_a_partly_enqueued_trial_is_completed_within_the_limits():
    study = maximise(parameters=SLOTS, limits=[BUDGET], n_startup_trials=0)
    for _ in range(5):
        study.enqueue_trial({"slot_0": "gqa", "slot_1": "swa"}, skip_if_exists=False)
    proposed = run(study, 5)
    assert all([*layout.values()][:2] == ["gqa", "swa"] for layout in proposed)
    assert all(BUDGET.keeps(layout) for layout in proposed)


def test_an_enqueued_trial_that_cannot_be_completed_says_what_it_fixes():
    study = maximise(parameters=SLOTS, limits=[BUDGET])
    study.enqueue_trial({"slot_0": "gqa", "slot_1": "gqa", "slot_2": "gqa"})
    with pytest.raises(NoFeasibleLayoutError, match="slot_2 = gqa"):
        study.ask(SPACE)


def test_a_wholly_enqueued_trial_is_taken_as_it_is():
    study = maximise(parameters=SLOTS, limits=[BUDGET])
    study.enqueue_trial(dict.fromkeys(SLOTS, "gqa"))
    assert run(study, 1) == [dict.fromkeys(SLOTS, "gqa")]


def test_minimising_finds_the_least():
    study = optuna.create_study(sampler=AdditiveSampler(seed=0, parameters=SLOTS))
    run(study, 25)
    assert study.best_value == 0.0


def test_the_draw_depends_on_seed_and_trial_only():
    first, second = run(maximise(parameters=SLOTS), 20), run(maximise(parameters=SLOTS), 20)
    assert first == second
    other = optuna.create_study(direction="maximize", sampler=AdditiveSampler(seed=1, parameters=SLOTS))
    assert run(other, 20) != first


def test_reseeding_forgets_the_seed():
    study = maximise(parameters=SLOTS)
    study.sampler.reseed_rng()
    assert run(study, 5) != run(maximise(parameters=SLOTS), 5)


RESUME = """
import sys
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from edgeprof.search.sampler import AdditiveSampler
optuna.logging.set_verbosity(optuna.logging.ERROR)
choices = ("conv", "gqa", "swa")
slots = {f"slot_{i}": choices for i in range(6)}
storage = JournalStorage(JournalFileBackend(sys.argv[1]))
study = optuna.load_study(study_name="s", storage=storage, sampler=AdditiveSampler(seed=0, parameters=slots))
study.ask({name: optuna.distributions.CategoricalDistribution(choices) for name in slots})
"""


def test_a_study_resumed_in_another_process_goes_on_as_it_would_have_here(tmp_path):
    path = str(tmp_path / "studies.journal")
    study = optuna.create_study(
        direction="maximize",
        study_name="s",
        storage=JournalStorage(JournalFileBackend(path)),
        sampler=AdditiveSampler(seed=0, parameters=SLOTS),
    )
    run(study, 14)
    subprocess.run([sys.executable, "-c", RESUME, path], check=True, timeout=60)
    resumed = study.trials[-1].params
    assert len(study.trials) == 15
    assert resumed == run(maximise(parameters=SLOTS), 15)[-1]


def test_a_layout_that_failed_may_be_tried_again():
    study = maximise(parameters=SMALL, n_startup_trials=3)
    study.enqueue_trial(dict.fromkeys(SMALL, "gqa"))
    study.tell(study.ask(space_of(SMALL)), state=TrialState.FAIL)
    assert dict.fromkeys(SMALL, "gqa") in run(study, 8, space_of(SMALL), lambda _: 1.0)[1:]


def test_pruned_trials_are_not_proposed_again_and_turn_the_search_away():
    study = maximise(parameters=SLOTS, n_startup_trials=5)
    for _ in range(40):
        trial = study.ask(SPACE)
        if trial.params["slot_0"] == "gqa":
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, quality(trial.params))
    assert len({tuple(t.params.values()) for t in study.trials}) == 40
    # 25 where pruned trials are left out.
    assert sum(t.state == TrialState.PRUNED for t in study.trials) < 13


def test_a_pruned_trial_counts_with_the_value_that_it_was_on_its_way_to():
    from edgeprof.search.sampler_history import read_history
    from edgeprof.search.sampler_levels import make_axes

    def history(direction, sign):
        study = optuna.create_study(direction=direction)
        layouts = [dict.fromkeys(SLOTS, choice) for choice in ("conv", "swa", "gqa")]
        curves = [{0: 1.0, 1: 2.0, 2: 3.0}, {0: 1.5, 1: 2.5, 2: 3.5}, {0: 0.5, 1: 1.4}]
        for layout, curve, value in zip(layouts, curves, (6.0, 6.5, None), strict=True):
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            reported = {step: sign * y for step, y in curve.items()}
            study.add_trial(
                create_trial(
                    state=state, params=layout, distributions=SPACE, intermediate_values=reported,
                    value=None if value is None else sign * value,
                )
            )  # fmt: skip
        return read_history(study, make_axes(SPACE))

    for found in (history("maximize", 1), history("minimize", -1)):
        (pruned,) = found.pruned
        # 0.55 behind the first on its way, 1.05 behind the second: 5.45 either way.
        assert pruned.values == (pytest.approx(5.45),)


def test_a_pruned_trial_that_reported_nothing_to_compare_counts_as_worse_than_most():
    from edgeprof.search.sampler_history import read_history
    from edgeprof.search.sampler_levels import make_axes

    study = optuna.create_study(direction="maximize")
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        study.add_trial(create_trial(params=dict.fromkeys(SLOTS, "conv"), distributions=SPACE, value=value))
    for curve in ({}, {7: 1.0}, {0: float("nan")}):
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED, params=dict.fromkeys(SLOTS, "gqa"), distributions=SPACE,
                intermediate_values=curve,
            )
        )  # fmt: skip
    assert [o.values for o in read_history(study, make_axes(SPACE)).pruned] == [(2.0,)] * 3


def test_a_layout_pruned_for_a_broken_constraint_is_not_taken_for_a_bad_one():
    def posterior_mean(constraints):
        study = optuna.create_study(direction="maximize")
        for trial in maximise_trials(20):
            study.add_trial(trial)
        best = dict.fromkeys(SLOTS, "gqa")
        study.add_trial(
            create_trial(state=TrialState.PRUNED, params=best, distributions=SPACE, constraints=constraints)
        )
        return best_by_posterior_mean(study, SLOTS).mean

    def maximise_trials(n):
        study = maximise(parameters=SLOTS, n_startup_trials=n)
        run(study, n)
        return study.trials

    assert posterior_mean({"tpot": 1.0}) != posterior_mean({})


def test_numbers_of_all_kinds_are_sampled_within_their_range():
    space = {
        "few": IntDistribution(1, 9, step=2),
        "many": IntDistribution(0, 100, step=10),
        "wide": IntDistribution(1, 1000, log=True),
        "rate": FloatDistribution(1e-5, 1e-1, log=True),
        "share": FloatDistribution(0.0, 1.0, step=0.25),
        "free": FloatDistribution(-3.0, 3.0),
    }
    study = optuna.create_study(sampler=AdditiveSampler(seed=0, n_startup_trials=5))
    for params in run(study, 20, space, lambda x: (x["free"] - 1) ** 2):
        assert all(space[name]._contains(space[name].to_internal_repr(value)) for name, value in params.items())


def test_several_objectives_spread_along_the_pareto_front():
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=AdditiveSampler(seed=0, parameters=SLOTS, n_startup_trials=10)
    )
    for _ in range(60):
        trial = study.ask(SPACE)
        study.tell(trial, [quality(trial.params), BUDGET.value(trial.params)])
    every = [dict(zip(SLOTS, chosen, strict=True)) for chosen in product(CHOICES, repeat=6)]
    best_within = {
        limit: max(quality(x) for x in every if BUDGET.value(x) <= limit) for limit in (6.0, 9.0, 12.0, 20.0)
    }
    for limit, best in best_within.items():
        found = max(t.values[0] for t in study.best_trials if t.values[1] <= limit)
        assert found >= 0.9 * best


def test_the_winner_is_not_the_luckiest_score():
    study = optuna.create_study(direction="minimize")
    lucky, steady = dict.fromkeys(SLOTS, "swa"), dict.fromkeys(SLOTS, "gqa")
    for layout, value in [(lucky, 0.5), (lucky, 3.4), *[(steady, 1.0)] * 6]:
        study.add_trial(create_trial(params=layout, distributions=SPACE, value=value, user_attrs={"score_se": 1.0}))
    winner = best_by_posterior_mean(study, SLOTS)
    assert study.best_params == lucky
    assert winner.layout == steady
    assert winner.trials == (2, 3, 4, 5, 6, 7)
    assert winner.mean == pytest.approx(1.0, abs=0.5)


def test_the_winner_keeps_its_constraints():
    study = optuna.create_study(direction="maximize")
    fast, slow = dict.fromkeys(SLOTS, "conv"), dict.fromkeys(SLOTS, "gqa")
    study.add_trial(create_trial(params=slow, distributions=SPACE, value=9.0, constraints={"tpot": 1.0}))
    study.add_trial(create_trial(params=fast, distributions=SPACE, value=1.0, constraints={"tpot": -1.0}))
    assert best_by_posterior_mean(study, SLOTS).layout == fast


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_check_is_never_left_out_silently():
    study = optuna.create_study()
    study.sampler = optuna.samplers.PartialFixedSampler(
        {"slot_0": "gqa"}, AdditiveSampler(parameters=SLOTS, check=lambda _: True)
    )
    with pytest.raises(UsageError, match="enqueue slot_0"):
        study.ask(SPACE)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_limit_counts_a_parameter_fixed_elsewhere_at_its_heaviest():
    study = optuna.create_study(direction="maximize")
    study.sampler = optuna.samplers.PartialFixedSampler(
        {"slot_0": "conv"}, AdditiveSampler(parameters=SLOTS, limits=[BUDGET])
    )
    for layout in run(study, 15):
        assert BUDGET.keeps({**layout, "slot_0": "gqa"})


def test_limits_need_the_parameters_and_weights_of_all_their_choices():
    with pytest.raises(UsageError, match="need parameters"):
        AdditiveSampler(limits=[BUDGET])
    with pytest.raises(UsageError, match="slot_0 = 'conv'"):
        AdditiveSampler(
            parameters=SLOTS,
            limits=[LinearLimit(name="size", weights={"slot_0": {"gqa": 1.0}}, constant=0, limit=1)],
        )
    with pytest.raises(UsageError, match="no parameter"):
        AdditiveSampler(parameters=SMALL, limits=[BUDGET])


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_named_sampler_runs(name):
    study = optuna.create_study(direction="maximize", sampler=make_sampler(name, seed=0, parameters=SLOTS))
    assert len(run(study, 3)) == 3


def test_an_unknown_sampler_is_answered_with_the_closest_name():
    with pytest.raises(UsageError, match="did you mean additive"):
        make_sampler("aditive")


def test_what_triples_of_slots_do_together_is_found_where_no_sum_tells_it() -> None:
    """Of 729 layouts the best in 60 trials: a random search's chance is 8 %."""
    names = [f"slot_{i}" for i in range(6)]
    parameters = dict.fromkeys(names, ("a", "b", "c"))
    rng = np.random.default_rng(4)
    tables = {triple: rng.standard_normal((3, 3, 3)) for triple in ((0, 2, 4), (1, 3, 5))}

    def worth(layout):
        at = ["abc".index(layout[name]) for name in names]
        return sum(float(table[at[i], at[j], at[k]]) for (i, j, k), table in tables.items())

    best = max(worth(dict(zip(names, x, strict=True))) for x in product("abc", repeat=6))
    found = []
    for seed in range(3):
        study = optuna.create_study(direction="maximize", sampler=AdditiveSampler(seed, parameters=parameters))
        study.optimize(
            lambda t: worth({n: t.suggest_categorical(n, own) for n, own in parameters.items()}), n_trials=60
        )
        found.append(study.best_value)
    assert found == pytest.approx([best] * 3)
