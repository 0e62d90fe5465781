"""The layouts that people would try without a search."""

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from edgeprof.search.baselines import BASELINE, BASELINES, baseline_layouts, enqueue_baselines
from edgeprof.search.space import load_space, parse_space
from edgeprof.search.study import FAILED


@pytest.fixture
def costs(make_costs, budget_of):
    return make_costs(budget_of("params", "1M"))


def patterns(costs, layouts) -> dict[str, str]:
    return {name: costs.space.config(layout).pattern for name, layout in layouts.items()}


def queued(study: optuna.Study) -> list[str]:
    return [t.user_attrs[BASELINE] for t in study.trials if t.state == TrialState.WAITING]


def test_baselines_are_patterns_cut_to_the_depth_of_the_space(costs) -> None:
    assert patterns(costs, baseline_layouts(costs)) == {
        "all conv": "CCCCCC",
        "all gqa": "GGGGGG",
        "all swa": "SSSSSS",
        "lfm2": "CCGCCG",
        "gemma 5:1": "SSSSSG",
    }


def test_lfm2s_own_space_has_its_layout(make_costs, budget_of) -> None:
    costs = make_costs(budget_of("params", "1B"), space=load_space("lfm2"))
    assert patterns(costs, baseline_layouts(costs))["lfm2"] == BASELINES["lfm2"]


def test_of_a_baselines_variants_the_first_one_that_keeps_the_budgets_is_taken(make_costs, budget_of, tiny) -> None:
    space = parse_space(TWO_WIDTHS, "two")
    wide = make_costs(budget_of("state", "1MB@64"), space=space)
    assert baseline_layouts(wide)["all gqa"] == {"slot_00": "gqa4", "slot_01": "gqa4"}
    narrow = make_costs(budget_of("state", "33kB@64"), space=space)
    assert baseline_layouts(narrow)["all gqa"] == {"slot_00": "gqa2", "slot_01": "gqa2"}


def test_a_baseline_that_no_slot_can_follow_is_left_out(make_costs, budget_of) -> None:
    costs = make_costs(budget_of("params", "1M"), space=parse_space(TWO_WIDTHS, "two"))
    assert set(baseline_layouts(costs)) == {"all gqa"}


def test_those_that_keep_the_budgets_come_first(costs, study) -> None:
    enqueue_baselines(study, costs)
    assert queued(study) == ["all gqa", "all swa", "lfm2", "gemma 5:1"]  # all conv breaks a rule
    assert study.trials[0].system_attrs["fixed_params"]["slot_00"] == "gqa2"


def test_none_is_queued_twice(costs, study) -> None:
    enqueue_baselines(study, costs)
    enqueue_baselines(study, costs)
    assert len(queued(study)) == 4


def test_a_kill_between_two_of_them_loses_none(costs, study) -> None:
    first = baseline_layouts(costs)["all gqa"]
    study.enqueue_trial(first, user_attrs={BASELINE: "all gqa"})
    enqueue_baselines(study, costs)
    assert queued(study) == ["all gqa", "all swa", "lfm2", "gemma 5:1"]


def finished(study, costs, name: str, state: TrialState, **attrs) -> None:
    layout = baseline_layouts(costs)[name]
    distributions = {n: optuna.distributions.CategoricalDistribution(c) for n, c in costs.space.parameters.items()}
    study.add_trial(
        create_trial(
            state=state,
            value=0.5 if state == TrialState.COMPLETE else None,
            params=layout,
            distributions=distributions,
            user_attrs={BASELINE: name} | attrs,
        )
    )


def test_one_whose_trial_was_interrupted_is_queued_again_and_others_are_not(costs, study) -> None:
    finished(study, costs, "all gqa", TrialState.COMPLETE)
    finished(study, costs, "all swa", TrialState.FAIL)
    finished(study, costs, "lfm2", TrialState.FAIL, **{FAILED: "the objective raised"})
    enqueue_baselines(study, costs)
    assert queued(study) == ["all swa", "gemma 5:1"]


def test_an_objective_that_was_mended_gets_its_baselines(costs, study) -> None:
    finished(study, costs, "lfm2", TrialState.FAIL, **{FAILED: "no such module"})
    enqueue_baselines(study, costs)
    assert "lfm2" in queued(study)


TWO_WIDTHS = """
schema_version = 1
description = "Two widths of attention."
d_model = 64
vocab = 64
tied = true
max_context = 256
layers = 2
[mixers]
gqa4 = { op = "gqa", n_heads = 4, n_kv_heads = 4, head_dim = 16 }
gqa2 = { op = "gqa", n_heads = 4, n_kv_heads = 2, head_dim = 16 }
[ffns]
ff = { op = "swiglu", d_ff = 64 }
"""
