import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprof.regress.correction import corrected
from edgeprof.regress.sequential import Block, Plan, conclude
from edgeprof.regress.verdict import exit_code, judge
from edgeprof.stats.signed_rank import signed_rank_centre

PLAN = Plan(looks=(10, 14, 20, 28, 40))
CHECKS = 600

LOGS = st.floats(-0.5, 0.5)
BLOCKS = st.lists(
    st.builds(Block, base=st.tuples(LOGS, LOGS), head=st.tuples(LOGS, LOGS)), min_size=0, max_size=PLAN.looks[-1]
)
P_VALUES = st.dictionaries(st.integers(0, 30).map(str), st.floats(0, 1), min_size=1, max_size=20)


def checks(change, noise, seed=0):
    """Checks of a host that other tenants slow down now and then, a block in an order that a coin decides."""
    rng = np.random.default_rng(seed)
    shape = (CHECKS, PLAN.looks[-1], 4)
    values = {
        "normal": lambda: rng.normal(0, 0.02, shape),
        "slow tail": lambda: rng.normal(0, 0.01, shape) + rng.exponential(0.3, shape) * (rng.random(shape) < 0.1),
        "drift": lambda: rng.normal(0, 0.005, shape) + rng.normal(0, 0.03, (*shape[:2], 1)) * np.array([0, 1, 3, 9]),
    }[noise]()
    outside = rng.random(shape[:2]) < 0.5
    base = np.where(outside[..., None], values[..., [0, 3]], values[..., [1, 2]])
    head = np.where(outside[..., None], values[..., [1, 2]], values[..., [0, 3]]) + math.log1p(change)
    for bases, heads in zip(base.tolist(), head.tolist(), strict=True):
        yield [Block(base=tuple(b), head=tuple(h)) for b, h in zip(bases, heads, strict=True)]


def most(share):
    """What a share of the checks stays below unless it is truly larger: three standard errors above."""
    return share + 3 * math.sqrt(share * (1 - share) / CHECKS)


@pytest.mark.parametrize("noise", ["normal", "slow tail", "drift"])
def test_over_all_looks_the_interval_misses_the_truth_in_at_most_alpha_of_checks(noise):
    decisions = [conclude(blocks, PLAN) for blocks in checks(0.04, noise)]
    missed = sum(not d.ratio_ci95[0] <= 1.04 <= d.ratio_ci95[1] for d in decisions)
    assert missed / CHECKS <= most(PLAN.alpha)
    assert len({d.n_blocks for d in decisions}) > 1


def test_looking_at_every_look_at_the_full_level_would_miss_more():
    missed = 0
    for blocks in checks(0.0, "normal"):
        ratios = np.array([block.log_ratio for block in blocks])
        missed += any(signed_rank_centre(ratios[:n], PLAN.alpha).p_value <= PLAN.alpha for n in PLAN.looks)
    assert missed / CHECKS > 2 * PLAN.alpha


@pytest.mark.parametrize("noise", ["normal", "slow tail", "drift"])
def test_p_over_all_looks_is_no_smaller_than_chance_where_nothing_changed(noise):
    plan = Plan(floor=1e-6, looks=PLAN.looks)
    p = np.array([conclude(blocks, plan).p for blocks in checks(0.0, noise, seed=1)])
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= most(level)


@pytest.mark.parametrize("noise", ["normal", "slow tail", "drift"])
def test_a_change_within_the_floor_is_called_a_regression_in_less_than_half_of_alpha(noise):
    states = [conclude(blocks, PLAN).state for blocks in checks(PLAN.floor, noise, seed=2)]
    assert states.count("regression") / CHECKS <= most(PLAN.alpha / 2)


@given(BLOCKS, st.floats(0.0, 0.3))
def test_a_slower_head_never_looks_better(blocks, added):
    slower = [Block(base=b.base, head=(b.head[0] + added, b.head[1] + added)) for b in blocks]
    plan = Plan(looks=(PLAN.looks[-1],))
    before, after = conclude(blocks, plan), conclude(slower, plan)
    rank = ["improvement", "equivalence", "go_on", "regression"]
    if before.state in ("go_on", "regression") and (before.ratio or 0) > 1:
        assert rank.index(after.state) >= rank.index(before.state)
    if before.ratio_ci95 is not None:
        assert all(b >= a or b == pytest.approx(a) for a, b in zip(before.ratio_ci95, after.ratio_ci95, strict=True))


@given(BLOCKS)
def test_p_is_at_most_alpha_exactly_where_the_interval_excludes_one(blocks):
    decision = conclude(blocks, PLAN)
    if decision.ratio_ci95 is not None:
        low, high = decision.ratio_ci95
        assert (decision.p <= PLAN.alpha * (1 + 1e-9)) == (low > 1 or high < 1)


@given(BLOCKS)
def test_exchanging_base_and_head_exchanges_the_answer(blocks):
    swapped = [Block(base=b.head, head=b.base) for b in blocks]
    there, back = conclude(blocks, PLAN), conclude(swapped, PLAN)
    opposite = {"regression": "improvement", "improvement": "regression"}
    assert back.state == opposite.get(there.state, there.state)
    assert back.p == there.p
    if there.ratio_ci95 is not None:
        low, high = there.ratio_ci95
        assert back.ratio_ci95 == pytest.approx((1 / high, 1 / low))


@given(BLOCKS)
def test_a_wider_floor_never_turns_an_open_case_into_a_regression(blocks):
    narrow, wide = (conclude(blocks, Plan(looks=(PLAN.looks[-1],), floor=floor)) for floor in (0.02, 0.1))
    assert not (wide.state == "regression" and narrow.state != "regression")
    assert not (narrow.state == "equivalence" and wide.state != "equivalence")


@given(P_VALUES, st.floats(0, 1), st.data())
def test_a_larger_p_never_lets_more_cases_be_told(p_values, larger, data):
    raised = data.draw(st.sampled_from(sorted(p_values)))
    before, after = corrected(p_values), corrected(p_values | {raised: max(larger, p_values[raised])})
    assert all(after[key] >= before[key] - 1e-12 for key in p_values)
    assert all(before[key] >= p_values[key] - 1e-12 for key in p_values)


@given(st.dictionaries(st.sampled_from("abcd"), BLOCKS, min_size=1), st.dictionaries(st.sampled_from("abcd"), BLOCKS))
def test_every_case_gets_a_verdict_and_only_a_second_run_that_agrees_fails_the_check(cases, rerun):
    verdicts = judge(cases, PLAN, rerun)
    assert set(verdicts) == set(cases)
    for key, verdict in verdicts.items():
        assert (verdict.outcome == "missing") == (not cases[key])
        if verdict.outcome == "regressed":
            assert conclude(rerun[key], PLAN).state == "regression"
    assert (exit_code(verdicts.values()) == 1) == any(v.outcome == "regressed" for v in verdicts.values())
