import math

import numpy as np
import pytest

from edgeprof.core.errors import UsageError
from edgeprof.regress.sequential import MIN_BLOCKS, Block, Plan, aa_noise, conclude, look
from edgeprof.stats.signed_rank import signed_rank_centre

PLAN = Plan(looks=(10, 14, 20, 28, 40))


def blocks(n, change=0.0, sd=0.005, seed=0):
    """``n`` blocks of a host whose speed drifts from block to block."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(0, 0.3, n)
    noise = rng.normal(0, sd, (n, 4))
    return [
        Block(base=(d + a, d + b), head=(d + c + math.log1p(change), d + e + math.log1p(change)))
        for d, (a, b, c, e) in zip(drift, noise, strict=True)
    ]


def test_a_block_is_the_head_over_the_base_and_cancels_linear_drift():
    drifting = Block(base=(0.0, 0.3), head=(0.1, 0.2))
    assert drifting.log_ratio == pytest.approx(0)
    assert Block(base=(1.0, 1.0), head=(1.5, 1.7)).log_ratio == pytest.approx(0.6)


@pytest.mark.parametrize(("change", "state"), [(0.2, "regression"), (-0.2, "improvement"), (0.0, "equivalence")])
def test_a_clear_case_stops_at_the_first_look(change, state):
    decision = conclude(blocks(40, change), PLAN)
    assert (decision.state, decision.n_blocks) == (state, 10)
    low, high = decision.ratio_ci95
    assert low < 1 + change < high


def test_an_open_case_goes_on_to_the_last_look():
    decision = conclude(blocks(40, 0.025), PLAN)
    assert (decision.state, decision.n_blocks) == ("go_on", 40)


def test_a_noisy_case_takes_more_blocks_than_a_quiet_one():
    quiet, noisy = (conclude(blocks(40, 0.1, sd), PLAN) for sd in (0.005, 0.06))
    assert noisy.state == quiet.state == "regression"
    assert noisy.n_blocks > quiet.n_blocks


def test_blocks_after_the_look_that_decided_change_nothing():
    some = blocks(40, 0.2)
    assert conclude(some, PLAN) == conclude(some[:10], PLAN) == look(some[:10], PLAN)


def test_a_look_that_was_not_planned_is_refused():
    with pytest.raises(ValueError, match="11 blocks was not planned"):
        look(blocks(11), PLAN)


def test_the_levels_of_the_looks_add_up_to_alpha_wherever_the_run_ends():
    assert sum(PLAN.level(n, last=False) for n in PLAN.looks) == pytest.approx(PLAN.alpha)
    for end in (7, 10, 17, 28, 39):
        before = [PLAN.level(n, last=False) for n in PLAN.looks if n < end]
        assert sum(before) + PLAN.level(end, last=True) == pytest.approx(PLAN.alpha)


def test_a_run_cut_short_spends_what_is_left_at_its_last_look():
    cut = blocks(18, 0.03, sd=0.02)
    assert conclude(cut, PLAN) == look(cut, PLAN, last=True)
    assert PLAN.level(18, last=True) > PLAN.level(20, last=False)


def test_a_run_cut_short_at_a_planned_look_that_decided_keeps_that_looks_interval():
    cut = blocks(14, 0.2)
    assert conclude(cut[:10], PLAN) == look(cut[:10], PLAN) != look(cut[:10], PLAN, last=True)


def test_an_interval_without_bounds_is_none():
    strict = Plan(alpha=0.001, looks=(40,))
    decision = conclude(blocks(8, 0.5), strict)
    assert (decision.state, decision.ratio_ci95) == ("go_on", None)
    assert decision.p == pytest.approx(2 / 2**8)


@pytest.mark.parametrize("n", PLAN.looks)
def test_the_p_of_a_look_pays_for_all_looks(n):
    some = blocks(n, 0.05, sd=0.03)
    alone = signed_rank_centre(np.array([block.log_ratio for block in some]), PLAN.alpha).p_value
    expected = alone * PLAN.alpha / PLAN.level(n, last=False)
    assert alone < expected < 1
    assert look(some, PLAN).p == pytest.approx(expected)


def test_an_early_look_asks_for_more_of_a_large_suite():
    clear = blocks(10, 0.2)
    assert look(clear, PLAN).state == "regression"
    assert look(clear, Plan(looks=PLAN.looks, n_cases=100)).state == "go_on"


def test_fewer_than_six_blocks_say_nothing():
    decision = conclude(blocks(MIN_BLOCKS - 1, 0.5), PLAN)
    assert (decision.state, decision.ratio_ci95, decision.p) == ("go_on", None, 1.0)
    assert decision.ratio == pytest.approx(1.5, rel=0.02)
    assert conclude(blocks(MIN_BLOCKS, 0.5), PLAN).state == "regression"


def test_no_blocks_have_no_ratio():
    assert conclude([], PLAN).ratio is None


def test_a_change_inside_the_floor_is_never_a_regression():
    assert conclude(blocks(40, 0.015, sd=0.001), PLAN).state == "equivalence"
    assert conclude(blocks(40, 0.015, sd=0.001), Plan(floor=0.01, looks=PLAN.looks)).state == "regression"


def test_the_noise_of_the_device_raises_the_floor_of_an_alarm_and_not_what_counts_as_unchanged():
    noisy_device = Plan(looks=PLAN.looks, device_noise=0.08)
    assert conclude(blocks(40, 0.06, sd=0.001), PLAN).state == "regression"
    decision = conclude(blocks(40, 0.06, sd=0.001), noisy_device)
    assert (decision.state, decision.floor) == ("go_on", 0.08)


def test_the_noise_of_the_case_itself_is_part_of_the_floor():
    noisy = blocks(14, sd=0.2)
    assert conclude(noisy, PLAN).floor == aa_noise(noisy) > PLAN.floor


def test_what_is_unchanged_was_held_against_the_plans_own_floor():
    crossed = [Block(base=(0.0, 0.2), head=(0.2, 0.0))] * 10
    assert aa_noise(crossed) > PLAN.floor
    decision = look(crossed, PLAN, last=True)
    assert (decision.state, decision.floor) == ("equivalence", PLAN.floor)


def test_the_measured_noise_is_the_scatter_of_as_many_blocks_and_does_not_see_a_change():
    ratios = [np.mean([b.log_ratio for b in blocks(20, sd=0.02, seed=s)]) for s in range(400)]
    expected = float(np.quantile(np.abs(ratios), 0.95))
    assert np.median([aa_noise(blocks(20, sd=0.02, seed=s)) for s in range(60)]) == pytest.approx(expected, rel=0.2)
    assert aa_noise(blocks(20, 0.5, sd=0.02)) == pytest.approx(aa_noise(blocks(20, sd=0.02)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},
        {"alpha": 5.0},
        {"floor": -0.1},
        {"floor": 3.0},
        {"device_noise": math.nan},
        {"looks": ()},
        {"looks": (4, 10)},
        {"looks": (10, 10)},
        {"n_cases": 0},
    ],
)
def test_a_plan_that_makes_no_sense_names_its_field(wrong):
    with pytest.raises(UsageError, match=f"^{next(iter(wrong))}: "):
        Plan(**wrong)
