import math

import numpy as np
import pytest

from edgeprof.core.errors import ExitCode
from edgeprof.regress.sequential import Block, Plan
from edgeprof.regress.verdict import (
    MEMORY_STEP_BYTES,
    exit_code,
    judge,
    judge_file_size,
    judge_peak_memory,
    rerun_plan,
    suspects,
)

PLAN = Plan(looks=(10, 14, 20, 28, 40), n_cases=2)


def blocks(n, change=0.0, sd=0.005, seed=0):
    noise = np.random.default_rng(seed).normal(0, sd, (n, 4))
    added = math.log1p(change)
    return [Block(base=(a, b), head=(c + added, e + added)) for a, b, c, e in noise.tolist()]


def outcome(change, rerun=None, n=40, n_cases=2):
    cases = {"case": blocks(n, change), "other": blocks(n, seed=1)}
    again = None if rerun is None else {"case": rerun}
    return judge(cases, Plan(looks=PLAN.looks, n_cases=n_cases), again)["case"]


def test_a_regression_needs_a_second_run_that_agrees():
    verdict = outcome(0.1, rerun=blocks(40, 0.1, seed=2))
    assert verdict.outcome == "regressed"
    assert verdict.p_corrected <= PLAN.alpha
    assert verdict.ratio_ci95[0] > 1 + verdict.floor
    assert "second run" in verdict.reason


@pytest.mark.parametrize("second", [0.0, -0.1])
def test_a_second_run_that_disagrees_leaves_the_case_open(second):
    verdict = outcome(0.1, rerun=blocks(40, second, seed=2))
    assert verdict.outcome == "inconclusive"
    assert "second run's not beyond 1.2%" in verdict.reason


def test_a_second_run_of_too_few_blocks_does_not_agree():
    assert outcome(0.1, rerun=blocks(5, 0.1, seed=2)).outcome == "inconclusive"


def test_without_a_second_run_a_slower_case_stays_open_and_is_a_suspect():
    cases = {"slow": blocks(40, 0.1), "same": blocks(40, seed=1), "fast": blocks(40, -0.1, seed=3)}
    assert judge(cases, PLAN)["slow"].outcome == "inconclusive"
    assert suspects(cases, PLAN) == ["slow"]


def test_a_second_run_alone_makes_no_regression():
    assert outcome(0.0, rerun=blocks(40, 0.5, seed=2)).outcome == "unchanged"


def test_a_second_run_answers_for_itself_alone_and_to_half_of_the_floor():
    assert rerun_plan(PLAN) == Plan(looks=PLAN.looks, n_cases=1, floor=PLAN.floor / 2)
    clear_at_first = [*blocks(10, 0.1, seed=2), *blocks(30, 0.0, seed=3)]
    assert outcome(0.1, rerun=clear_at_first, n_cases=50).outcome == "regressed"


def test_an_improvement_needs_no_second_run():
    assert outcome(-0.1).outcome == "improved"


def test_unchanged_is_found_and_not_assumed():
    assert outcome(0.0).outcome == "unchanged"
    assert judge({"case": blocks(40, sd=0.2)}, PLAN)["case"].outcome == "inconclusive"


def test_fewer_than_six_blocks_are_inconclusive():
    verdict = outcome(0.5, rerun=blocks(40, 0.5), n=5)
    assert (verdict.outcome, verdict.n_blocks) == ("inconclusive", 5)


def test_a_case_without_blocks_is_missing():
    verdict = judge({"gone": []}, PLAN)["gone"]
    assert (verdict.outcome, verdict.ratio, verdict.p) == ("missing", None, None)


def test_at_the_last_look_the_correction_over_the_suite_decides():
    weak = {"weak": blocks(12, 0.3, sd=0.12, seed=4)}
    alone = judge(weak, Plan(looks=(12,), floor=0.001), weak)["weak"]
    assert alone.outcome == "regressed"
    crowd = weak | {f"other {i}": blocks(12, seed=10 + i) for i in range(200)}
    among_many = judge(crowd, Plan(looks=(12,), floor=0.001, n_cases=201), weak)["weak"]
    assert among_many.p == alone.p < PLAN.alpha < among_many.p_corrected
    assert among_many.outcome == "inconclusive"


def test_the_floor_that_noise_raised_is_reported():
    verdict = judge({"case": blocks(14, sd=0.2)}, PLAN)["case"]
    assert verdict.floor > PLAN.floor
    assert f"{verdict.floor:.1%}" in verdict.reason


@pytest.mark.parametrize(
    ("head", "expected"),
    [(1000, "unchanged"), (1010, "unchanged"), (1011, "regressed"), (989, "improved")],
)
def test_a_file_size_is_exact(head, expected):
    verdict = judge_file_size("case", 1000, head)
    assert verdict.outcome == expected
    assert verdict.ratio_ci95 == (verdict.ratio, verdict.ratio) == (head / 1000, head / 1000)


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0)])
def test_an_empty_file_cannot_be_compared(sizes):
    with pytest.raises(ValueError, match="case: a file of 0 bytes"):
        judge_file_size("case", *sizes)


def test_a_peak_of_nothing_cannot_be_compared():
    with pytest.raises(ValueError, match="case: a peak of 0 bytes"):
        judge_peak_memory("case", [0, 1, 1], [1, 1, 1])


MIB = 2**20


@pytest.mark.parametrize(
    ("base", "head", "expected"),
    [
        ([100, 100, 100], [110, 110, 110], "regressed"),
        ([100, 100.1, 100], [103, 103, 103.1], "regressed"),
        ([100, 100, 100], [101, 101.5, 101], "unchanged"),
        ([100, 100, 100], [90, 90, 90], "improved"),
        ([100, 120, 100], [110, 110, 110], "inconclusive"),
        ([100, 100, 115], [100, 100, 100], "inconclusive"),
        ([100, 100, 100], [103, 110, 103], "inconclusive"),
        ([100, 100, 110], [104, 111, 111], "inconclusive"),
        ([], [100, 100, 100], "missing"),
    ],
)
def test_peak_memory_changes_when_all_readings_of_a_side_lie_beyond_the_other(base, head, expected):
    verdict = judge_peak_memory("case", [round(b * MIB) for b in 2 * base], [round(h * MIB) for h in 2 * head])
    assert verdict.outcome == expected


def test_peaks_that_come_in_steps_are_no_alarm_where_nothing_changed():
    rng = np.random.default_rng(0)
    steps = rng.choice([217 * MIB, 225 * MIB], (2000, 2, 6)).tolist()
    outcomes = [judge_peak_memory("case", base, head).outcome for base, head in steps]
    assert outcomes.count("regressed") / len(outcomes) <= 0.002
    grown = [judge_peak_memory("case", base, [round(1.1 * x) for x in head]).outcome for base, head in steps]
    assert grown.count("regressed") / len(grown) >= 0.99


def test_a_small_peak_may_change_by_the_step_it_is_read_to():
    base = [MIB] * 6
    assert judge_peak_memory("case", base, [MIB + MEMORY_STEP_BYTES] * 6).outcome == "unchanged"
    assert judge_peak_memory("case", base, [MIB + MEMORY_STEP_BYTES + 1] * 6).outcome == "regressed"


def test_fewer_than_six_readings_of_a_side_are_inconclusive():
    assert judge_peak_memory("case", [MIB] * 5, [2 * MIB] * 9).outcome == "inconclusive"
    assert judge_peak_memory("case", [MIB] * 6, [2 * MIB] * 6).outcome == "regressed"


def of(*outcomes):
    template = judge_file_size("case", 1, 1)
    return [type(template)(**{f: getattr(template, f) for f in template.__slots__} | {"outcome": o}) for o in outcomes]


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (["unchanged", "improved"], ExitCode.OK),
        (["unchanged", "inconclusive"], ExitCode.INCONCLUSIVE),
        (["inconclusive", "missing"], ExitCode.BASELINE),
        (["missing", "regressed", "inconclusive"], ExitCode.REGRESSION),
        ([], ExitCode.BASELINE),
    ],
)
def test_the_exit_code_is_that_of_the_worst_outcome(outcomes, code):
    assert exit_code(of(*outcomes)) == code


def test_open_cases_pass_by_option_and_regressions_do_not():
    assert exit_code(of("inconclusive"), pass_inconclusive=True) == ExitCode.OK
    assert exit_code(of("inconclusive", "regressed"), pass_inconclusive=True) == ExitCode.REGRESSION
