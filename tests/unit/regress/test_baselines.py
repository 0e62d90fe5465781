import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprof.core.errors import BaselineError, UsageError
from edgeprof.regress.baseline_check import compare_sessions, sentinel_shift
from edgeprof.regress.baselines import (
    FIXED,
    Stored,
    baseline_text,
    comparable,
    conditions_of,
    prune,
    read_baseline,
)
from edgeprof.regress.sequential import Plan

ENVIRONMENT = {"kernel": "6.1", "os": "Debian", "governor": None, "load_average": [1, 2, 3]}
PLAN = Plan()


@pytest.fixture
def stored(make_case):
    def make(case=None, *, session="s1", day=1, p50=1_000_000, sentinel=5_000_000, n=12, **environment):
        case = case or make_case()
        conditions = conditions_of(
            case, {**ENVIRONMENT, **environment}, device_id="device", runtime_version="1.0", affinity=[0]
        )
        return Stored(
            case_key=case.key,
            case=case,
            session=session,
            at=f"2026-01-{day:02d}T00:00:00+00:00",
            commit="abc",
            dirty=False,
            conditions=conditions,
            processes=tuple((round(p50 * (1 + 0.001 * (i % 3))), round(p50 * 1.2)) for i in range(n)),
            sentinel_ns=(sentinel,) * n,
        )

    return make


@pytest.fixture
def saved(tmp_path):
    def save(lines):
        path = tmp_path / "ci.jsonl"
        path.write_text(baseline_text(lines))
        return path

    return save


def test_a_baseline_is_read_back(stored, saved):
    assert read_baseline(saved([stored()])) == [stored()]


def test_the_text_depends_on_no_order_and_is_one_line_a_case_and_session(stored, make_case):
    lines = [stored(make_case("gqa"), session="s2", day=2), stored(make_case("short_conv")), stored(make_case("gqa"))]
    text = baseline_text(lines)
    assert text == baseline_text(lines[::-1]) == baseline_text(lines[1:] + lines[:1])
    assert [json.loads(line)["case"]["op"] for line in text.splitlines()] == ["gqa", "gqa", "short_conv"]
    before = baseline_text(lines[1:])
    assert set(before.splitlines()) < set(text.splitlines())


def test_prune_keeps_the_latest_sessions_of_each_case_and_conditions(stored, make_case):
    lines = [stored(session=f"s{day}", day=day) for day in range(1, 6)]
    other = stored(make_case("short_conv"))
    elsewhere = stored(session="old", day=1, kernel="5.0")
    kept = prune([*lines, other, elsewhere], 2)
    assert sorted(one.session for one in kept) == ["old", "s1", "s4", "s5"]


def test_equal_conditions_are_compared(stored, saved):
    one = stored()
    found = comparable([one, stored(session="s2", load_average=[9, 9, 9])], {one.case_key: one.conditions}, Path("f"))
    assert len(found[one.case_key]) == 2


@pytest.mark.parametrize("name", FIXED)
def test_a_condition_that_differs_is_refused_by_its_name(stored, name):
    one = stored()
    here = {**one.conditions, name: "another"}
    with pytest.raises(BaselineError, match=f"{name} .* there, 'another' here") as caught:
        comparable([one], {one.case_key: here}, Path("ci.jsonl"))
    assert caught.value.exit_code == 5


def test_one_session_under_these_conditions_is_enough(stored):
    one, other = stored(), stored(session="s2", kernel="5.0")
    assert comparable([one, other], {one.case_key: one.conditions}, Path("f")) == {one.case_key: [one]}


def test_a_baseline_of_other_cases_is_none(stored, make_case):
    one = stored()
    with pytest.raises(BaselineError, match="holds no case of this suite"):
        comparable([one], {make_case("short_conv").key: {}}, Path("f"))


def test_no_file_and_an_empty_file_are_missing_baselines(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    for name in ("none.jsonl", "empty.jsonl"):
        with pytest.raises(BaselineError, match="edgeprof baseline save --to"):
            read_baseline(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:50], ":1: not JSON"),
        (lambda text: text.replace('"schema_version":1', '"schema_version":2'), ":1: schema_version: 2 is not 1"),
        (lambda text: text.replace('"session"', '"sessions"'), ":1: session: field required"),
        (lambda text: text.replace('"batch":1', '"batch":2'), ":1: case_key: is not that of the case"),
        (lambda text: text.replace('"sentinel_ns":[5000000', '"sentinel_ns":[-1'), ":1: sentinel_ns.0"),
        (lambda text: text.replace('"kv_len"', '"kv"'), ":1: case:"),
        (lambda text: "[]\n", ":1: schema_version"),
    ],
)
def test_a_corrupt_line_is_named(stored, saved, change, said):
    path = saved([stored()])
    path.write_text(change(path.read_text()))
    with pytest.raises(UsageError) as caught:
        read_baseline(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def sessions(stored, *p50s, **changes):
    return [stored(session=f"s{i}", day=i + 1, p50=p50, **changes) for i, p50 in enumerate(p50s)]


def test_fewer_than_three_sessions_bound_nothing(stored):
    base = sessions(stored, 1_000_000, 1_001_000)
    decision = compare_sessions(base, stored(p50=2_000_000), PLAN)
    assert (decision.state, decision.ratio_ci95) == ("go_on", None)
    assert decision.ratio == pytest.approx(2.0, rel=0.01)


def test_a_clear_change_between_quiet_sessions_is_told(stored):
    base = sessions(stored, 1_000_000, 1_002_000, 999_000, 1_001_000)
    assert compare_sessions(base, stored(p50=1_200_000), PLAN).state == "regression"
    assert compare_sessions(base, stored(p50=800_000), PLAN).state == "improvement"
    assert compare_sessions(base, stored(p50=1_000_500), PLAN).state == "equivalence"


def test_the_noise_between_sessions_is_in_the_interval(stored):
    quiet = sessions(stored, 1_000_000, 1_002_000, 999_000)
    noisy = sessions(stored, 1_000_000, 1_200_000, 850_000)
    head = stored(p50=1_200_000)
    assert compare_sessions(quiet, head, PLAN).state == "regression"
    decision = compare_sessions(noisy, head, PLAN)
    low, high = decision.ratio_ci95
    assert decision.state == "go_on"
    assert low < 1 < high


def test_a_slower_host_is_no_regression(stored):
    base = sessions(stored, 1_000_000, 1_002_000, 999_000, 1_001_000)
    slower_host = stored(p50=1_200_000, sentinel=6_000_000)
    assert sentinel_shift(base, slower_host) == pytest.approx(0.182, abs=0.001)
    decision = compare_sessions(base, slower_host, PLAN)
    assert decision.state == "go_on"
    assert decision.p == 1.0 or decision.p > PLAN.alpha
    assert decision.ratio_ci95[0] < 1 < decision.ratio_ci95[1]


def test_a_faster_host_does_not_turn_an_unchanged_case_into_an_alarm(stored):
    base = sessions(stored, 1_000_000, 1_002_000, 999_000, 1_001_000)
    assert compare_sessions(base, stored(p50=1_000_000, sentinel=4_000_000), PLAN).state == "go_on"


def test_a_side_without_a_sentinel_is_not_shifted(stored):
    base = sessions(stored, 1_000_000, 1_002_000, 999_000)
    assert sentinel_shift(base, replace(stored(), sentinel_ns=())) == 0.0
