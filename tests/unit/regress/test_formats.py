import datetime
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from edgeprof.core.canonical import plain
from edgeprof.core.errors import ExitCode
from edgeprof.regress.formats import check_json, explanations, headline, junit_xml, markdown_summary
from edgeprof.regress.project_file import Acceptance
from edgeprof.regress.result import CheckResult, Part, Row, judge_budget
from edgeprof.regress.sequential import Plan


@pytest.fixture
def result(make_case, make_verdict):
    cases = [make_case(kv_len=32 + i) for i in range(4)]
    outcomes = ("regressed", "unchanged", "inconclusive", "missing")
    rows = [
        Row(case=c, quantity="time", verdict=make_verdict(c, o), base=1e6, head=1.2e6)
        for c, o in zip(cases, outcomes, strict=True)
    ]
    size = Row(case=cases[0], quantity="file_size", verdict=make_verdict(cases[0], "unchanged"), base=10, head=10)
    return CheckResult(
        base="main | <b>",
        head="head",
        device_id="device",
        rows=(*rows, size),
        plan=Plan(),
        seconds=12.34,
        needed_s=100.0,
        budgets=(judge_budget("tpot@1024", 1e6, 2e6, None),),
        changes=("numpy 2.0 to 2.1",),
    )


def accepted(result):
    row = result.rows[0]
    entry = Acceptance(
        case_key=row.case.key,
        case="c",
        quantity="time",
        max_ratio=2.0,
        reason="meant",
        expires=datetime.date(2027, 1, 1),
    )
    return replace(result, rows=(replace(row, accepted=entry), *result.rows[1:]))


def test_json_keeps_its_contract_and_is_json(result):
    document = json.loads(json.dumps(plain(check_json(result, ExitCode.REGRESSION)), allow_nan=False))
    assert (document["outcome"], document["exit_code"]) == ("regressed", 1)
    assert len(document["cases"]) == 4
    assert {"case_key", "outcome", "ratio", "ratio_ci95", "p"} <= set(document["cases"][0])
    assert len({case["case_key"] for case in document["cases"]}) == 4
    assert [row["quantity"] for row in document["sizes"]] == ["file_size"]


def outcomes_of(xml):
    suite = ET.fromstring(xml)
    found = {}
    for case in suite.iter("testcase"):
        found.setdefault(next((child.tag for child in case), "none"), []).append(case.get("name"))
    return suite, found


def test_junit_fails_regressions_and_open_cases_and_counts_them(result):
    suite, found = outcomes_of(junit_xml(result, ExitCode.REGRESSION, pass_inconclusive=False))
    assert (len(found["failure"]), len(found["error"]), len(found["system-out"])) == (3, 1, 2)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "3", "1")
    assert any(case.get("classname") == "edgeprof.budget" for case in suite.iter("testcase"))


def test_junit_skips_open_cases_that_may_pass(result):
    suite, found = outcomes_of(junit_xml(result, ExitCode.OK, pass_inconclusive=True))
    assert (len(found["skipped"]), suite.get("skipped")) == (1, "1")


def test_an_accepted_regression_is_no_failure_anywhere(result):
    passed = accepted(result)
    _, found = outcomes_of(junit_xml(passed, ExitCode.OK, pass_inconclusive=True))
    assert len(found["failure"]) == 1  # the budget
    assert "1 accepted" in headline(passed, ExitCode.OK)
    assert "meant" in markdown_summary(passed, ExitCode.OK, str)


def test_junit_survives_what_xml_cannot_hold(result):
    row = result.rows[0]
    odd = replace(row, verdict=replace(row.verdict, reason="a\x00b & <c> \ud800"))
    junit = junit_xml(replace(result, rows=(odd,)), ExitCode.REGRESSION, pass_inconclusive=False)
    assert "a b & <c>" in ET.fromstring(junit).find("testcase/failure").get("message")


def test_a_summary_has_a_row_for_each_and_text_from_outside_breaks_no_cell(result):
    text = markdown_summary(result, ExitCode.REGRESSION, lambda ns: f"{ns:.0f}ns")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(result.rows)
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1
    assert "main \\| &lt;b>" in text
    assert "numpy 2.0 to 2.1" in text


@pytest.mark.parametrize(
    ("needed", "said"),
    [(100.0, "--time-budget 2m"), (None, "noisier than the most blocks"), (0.0, "--pass-inconclusive")],
)
def test_open_cases_say_what_would_make_them_clear(result, needed, said):
    assert any(said in line for line in explanations(replace(result, needed_s=needed)))


def test_no_open_case_needs_no_advice(result):
    clear = replace(result, rows=result.rows[:1])
    assert not any("Open cases" in line for line in explanations(clear))


def test_parts_that_do_not_account_for_the_change_are_said_not_to(result):
    key = result.rows[0].case.key
    within = Part(name="w_q", base_ns=1e5, head_ns=3e5)
    outside = Part(name="w_q", base_ns=1e5, head_ns=1.1e5)
    seen, unseen = (explanations(replace(result, parts={key: (part,)})) for part in (within, outside))
    assert any("w_q 100.0 to 300.0 µs" in line for line in seen)
    assert not any("outside of the parts" in line for line in seen)
    assert any("outside of the parts" in line for line in unseen)
    (why,) = [line for line in explanations(replace(result, parts={key: "base: no tracer"})) if "not known" in line]
    assert "base: no tracer" in why
