"""The run of a check over scripted blocks: when it stops, what it runs again, and what it says of too little time."""

import math
from dataclasses import replace

import numpy as np
import pytest

from edgeprof.regress.check import FIRST_RUN_SHARE, Blocks, Check, needed_seconds
from edgeprof.regress.sequential import Block, Plan
from edgeprof.regress.verdict import judge

PLAN = Plan(looks=(10, 14, 20, 28, 40), n_cases=3)


class Scripted:
    """Blocks of cases whose change and noise are known; each call takes ``seconds`` of the clock it carries."""

    def __init__(self, changes, seconds=1.0, sd=0.005, again=None, failing=None):
        self.changes, self.again, self.sd = changes, again or {}, sd
        self.seconds, self.now = seconds, 0.0
        self.failing = failing or {}
        self.failures = {}
        self.calls = []
        self.rng = np.random.default_rng(0)

    def clock(self):
        return self.now

    def measure(self, wanted):
        self.now += self.seconds
        self.calls.append(dict(wanted))
        for key, at in self.failing.items():
            if len(self.calls) >= at:
                self.failures[key] = "head: it broke"
        return {key: self.block(key, run) for key, run in wanted.items() if key not in self.failures}

    def block(self, key, run):
        change = self.again.get(key, self.changes[key]) if run == 2 else self.changes[key]
        a, b, c, d = self.rng.normal(0, self.sd, 4)
        slow = math.log1p(change)
        return Block(base=(a, b), head=(c + slow, d + slow))


class Silent:
    def __init__(self):
        self.stages, self.steps = [], 0

    def stage(self, name, total):
        self.stages.append((name, total))

    def step(self, label):
        self.steps += 1


def run(source, budget_s=1000.0, plan=PLAN, reporter=None):
    check = Check(
        source, list(source.changes), plan, budget_s=budget_s, reporter=reporter or Silent(), clock=source.clock
    )
    return check.run()


def test_it_stops_where_every_case_is_clear():
    source = Scripted({"a": 0.0, "b": 0.0})
    blocks = run(source)
    assert len(source.calls) == 10
    assert {key: v.outcome for key, v in judge(blocks.first, PLAN, blocks.again).items()} == {
        "a": "unchanged",
        "b": "unchanged",
    }


def test_an_open_case_is_measured_alone_once_the_others_are_clear():
    source = Scripted({"a": 0.0, "b": 0.025})
    run(source)
    assert source.calls[9] == {"a": 1, "b": 1}
    assert source.calls[10] == {"b": 1}
    assert len(source.calls) == 40


def test_a_slower_case_runs_again_at_once_beside_the_open_ones():
    source = Scripted({"slow": 0.2, "open": 0.025})
    blocks = run(source)
    assert source.calls[10] == {"slow": 2, "open": 1}
    assert len(blocks.first["slow"]) == len(blocks.again["slow"]) == 10
    assert judge(blocks.first, PLAN, blocks.again)["slow"].outcome == "regressed"


def test_a_second_run_that_does_not_agree_is_no_regression():
    source = Scripted({"a": 0.2}, again={"a": 0.0})
    blocks = run(source)
    verdict = judge(blocks.first, PLAN, blocks.again)["a"]
    assert verdict.outcome == "inconclusive"
    assert "a second run's not beyond 1.2%" in verdict.reason


def test_no_second_run_is_started_for_a_faster_case():
    source = Scripted({"a": -0.2})
    blocks = run(source)
    assert source.calls == [{"a": 1}] * 10
    assert judge(blocks.first, PLAN)["a"].outcome == "improved"


def test_first_runs_end_in_time_for_second_ones():
    source = Scripted({"slow": 0.08, "open": 0.025}, sd=0.05)
    run(source, budget_s=24.0)
    firsts = [i for i, call in enumerate(source.calls) if 1 in call.values()]
    assert max(firsts) + 1 <= 24 * FIRST_RUN_SHARE
    assert len(source.calls) <= 24


def test_a_case_that_only_its_last_look_makes_suspect_runs_again():
    source = Scripted({"slow": 0.2})
    blocks = run(source, budget_s=12.0)  # no planned look fits, but nine blocks do
    assert len(blocks.first["slow"]) == 9
    assert blocks.again["slow"]


def test_a_block_that_would_end_too_late_is_not_begun():
    source = Scripted({"a": 0.025}, seconds=7.0)
    blocks = run(source, budget_s=25.0)
    assert source.now <= 25 * FIRST_RUN_SHARE
    assert len(blocks.first["a"]) == 2


def test_one_block_is_measured_however_short_the_time():
    assert len(run(Scripted({"a": 0.0}, seconds=50.0), budget_s=1.0).first["a"]) == 1


def test_a_case_that_fails_is_measured_no_more_and_the_others_go_on():
    source = Scripted({"a": 0.0, "b": 0.0}, failing={"a": 3})
    blocks = run(source)
    assert all("a" not in call for call in source.calls[3:])
    assert (len(blocks.first["a"]), len(blocks.first["b"])) == (2, 10)


def test_nothing_to_measure_takes_no_time():
    source = Scripted({})
    assert run(source).seconds == 0
    assert source.calls == []


def test_progress_is_in_seconds_of_the_budget():
    reporter = Silent()
    run(Scripted({"a": 0.0}, seconds=2.0), budget_s=100.0, reporter=reporter)
    assert reporter.stages == [("measure", 100)]
    assert reporter.steps == 20


def test_too_little_time_says_how_much_is_needed():
    source = Scripted({"a": 0.0}, seconds=3.0)
    blocks = run(source, budget_s=9.0)
    assert needed_seconds(blocks, PLAN) == pytest.approx(10 * 3.0 / FIRST_RUN_SHARE)


def test_clear_cases_need_no_more_time():
    assert needed_seconds(run(Scripted({"a": 0.0})), PLAN) == 0


def test_noise_that_no_number_of_blocks_overcomes_is_said_so():
    noisy = Scripted({"a": 0.0}, sd=0.5)
    assert needed_seconds(run(noisy), PLAN) is None


def test_no_block_at_all_needs_a_first_look():
    assert needed_seconds(Blocks(first={"a": []}, seconds_a_block=2.0), PLAN) is not None


def test_nothing_is_ever_inside_a_floor_of_nothing():
    plan = replace(PLAN, floor=0.0)
    blocks = Blocks(first=run(Scripted({"a": 0.0}), budget_s=20.0).first, seconds_a_block=2.0)
    assert needed_seconds(blocks, plan) is None
