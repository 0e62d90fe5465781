import datetime

import pytest

from edgeprof.core.errors import ExitCode
from edgeprof.regress.project_file import Acceptance
from edgeprof.regress.result import CheckResult, Row, accept, judge_budget
from edgeprof.regress.sequential import Plan

TODAY = datetime.date(2026, 6, 1)


@pytest.fixture
def rows(make_case, make_verdict):
    def make(*outcomes, quantity="time"):
        cases = [make_case(kv_len=32 + i) for i in range(len(outcomes))]
        return [
            Row(case=c, quantity=quantity, verdict=make_verdict(c, o)) for c, o in zip(cases, outcomes, strict=True)
        ]

    return make


def result(rows, budgets=()):
    return CheckResult(
        base="b", head="h", device_id="d", rows=tuple(rows), plan=Plan(), seconds=1.0, budgets=tuple(budgets)
    )


def acceptance(row, **changes):
    fields = {
        "case_key": row.case.key,
        "case": "a case",
        "quantity": row.quantity,
        "max_ratio": 1.25,
        "reason": "safer",
        "expires": TODAY,
    }
    return Acceptance(**{**fields, **changes})


def test_an_accepted_regression_passes(rows):
    marked = accept(rows("regressed", "unchanged"), [acceptance(rows("regressed")[0])], TODAY)
    assert marked[0].accepted is not None
    assert result(marked).exit_code(pass_inconclusive=False) == ExitCode.OK
    assert result(marked).outcome == "unchanged"


def test_an_expired_acceptance_fails_again_and_says_so(rows):
    (row,) = accept(rows("regressed"), [acceptance(rows("regressed")[0])], TODAY + datetime.timedelta(days=1))
    assert row.accepted is None
    assert "expired on 2026-06-01" in row.note
    assert result([row]).exit_code(pass_inconclusive=True) == ExitCode.REGRESSION


@pytest.mark.parametrize(
    "changes", [{"max_ratio": 1.1}, {"quantity": "peak_memory"}, {"case_key": "0" * 16}], ids=["worse", "other", "case"]
)
def test_an_acceptance_holds_for_its_case_and_quantity_up_to_its_ratio(rows, changes):
    (row,) = accept(rows("regressed"), [acceptance(rows("regressed")[0], **changes)], TODAY)
    assert row.accepted is None
    assert (row.note is not None) == ("max_ratio" in changes)


def test_the_last_acceptance_of_the_same_counts(rows):
    (first,) = rows("regressed")
    old = acceptance(first, expires=TODAY - datetime.timedelta(days=9))
    (row,) = accept([first], [old, acceptance(first)], TODAY)
    assert row.accepted is not None


def test_what_did_not_regress_needs_no_acceptance(rows):
    (row,) = accept(rows("inconclusive"), [acceptance(rows("regressed")[0])], TODAY)
    assert (row.accepted, row.note) == (None, None)


@pytest.mark.parametrize(
    ("measured", "ci95", "outcome"),
    [
        (90.0, (80.0, 99.0), "kept"),
        (110.0, (101.0, 120.0), "over"),
        (99.0, (90.0, 110.0), "inconclusive"),
        (101.0, None, "over"),
        (100.0, None, "kept"),
        (None, None, "not_measured"),
    ],
)
def test_a_budget_is_told_only_where_the_interval_lies_on_one_side(measured, ci95, outcome):
    assert judge_budget("tpot", 100.0, measured, ci95).outcome == outcome


@pytest.mark.parametrize(
    ("outcomes", "budget", "passing", "code", "word"),
    [
        (["unchanged", "improved"], None, False, ExitCode.OK, "improved"),
        (["unchanged", "regressed", "missing"], None, False, ExitCode.REGRESSION, "regressed"),
        (["unchanged", "missing", "inconclusive"], None, True, ExitCode.BASELINE, "missing"),
        (["inconclusive"], None, False, ExitCode.INCONCLUSIVE, "inconclusive"),
        (["inconclusive"], None, True, ExitCode.OK, "inconclusive"),
        (["unchanged"], 110.0, False, ExitCode.REGRESSION, "over_budget"),
        (["missing"], 110.0, False, ExitCode.REGRESSION, "over_budget"),
        (["unchanged"], 90.0, False, ExitCode.OK, "unchanged"),
        ([], None, False, ExitCode.BASELINE, "missing"),
    ],
)
def test_the_exit_code_is_the_worst_of_rows_and_budgets(rows, outcomes, budget, passing, code, word):
    budgets = [] if budget is None else [judge_budget("tpot", 100.0, budget, None)]
    found = result(rows(*outcomes), budgets)
    assert (found.exit_code(pass_inconclusive=passing), found.outcome) == (code, word)


def test_an_open_budget_is_inconclusive_unless_that_may_pass(rows):
    found = result(rows("unchanged"), [judge_budget("tpot", 100.0, 99.0, (90.0, 110.0))])
    assert found.outcome == "inconclusive"
    assert found.exit_code(pass_inconclusive=False) == ExitCode.INCONCLUSIVE
    assert found.exit_code(pass_inconclusive=True) == ExitCode.OK
