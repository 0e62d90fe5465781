"""``edgeprof baseline``: files are saved, listed, shown and pruned, with a laboratory in place of this machine."""

import json

import pytest

from edgeprof.cli import app
from edgeprof.regress import baseline_check
from edgeprof.regress.baseline_check import SessionRun
from edgeprof.regress.baselines import Stored, conditions_of, read_baseline

COMMANDS = {
    "baseline save": ("edgeprof.cli.baseline:save", ""),
    "baseline list": ("edgeprof.cli.baseline:list_", ""),
    "baseline show": ("edgeprof.cli.baseline:show", ""),
    "baseline prune": ("edgeprof.cli.baseline:prune", ""),
    "check": ("edgeprof.cli.check:check", ""),
}

SUITE = """
schema_version = 1
description = "One cell."
[dims]
d_model = 32
kernel_size = 3
[[cells]]
op = ["short_conv"]
runtime = ["torch_eager"]
dtype = ["fp32"]
phase = ["decode"]
kv_len = [32]
cache_state = ["hot"]
"""


class Lab:
    """Sessions whose times are as told; each is a day later."""

    p50_ns = (1_000_000,)
    kernel = "6"
    day = 0

    def __init__(self, cases, *, device, reporter):
        self.cases, self.failures = list(cases), {}
        self.side = type("Side", (), {"label": "this environment"})
        self.facts = type("Facts", (), {"device_id": "device"})

    def conditions(self):
        return {
            case.key: conditions_of(
                case, {"kernel": self.kernel}, device_id="device", runtime_version="1", affinity=[0]
            )
            for case in self.cases
        }

    def session(self, cases, processes):
        type(self).day += 1
        p50 = self.p50_ns[min(self.day, len(self.p50_ns)) - 1]
        stored = {
            case.key: Stored(
                case_key=case.key,
                case=case,
                session=f"s{self.day}",
                at=f"2026-01-{self.day:02d}T00:00:00+00:00",
                commit="abc",
                dirty=False,
                conditions=self.conditions()[case.key],
                processes=tuple((p50 + i % 3,) for i in range(processes)),
                sentinel_ns=(5_000_000,) * processes,
            )
            for case in cases
        }
        return SessionRun(stored=stored)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app, "COMMANDS", app.COMMANDS | COMMANDS)
    monkeypatch.setenv("EDGEPROF_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(baseline_check, "Laboratory", Lab)
    monkeypatch.setattr(Lab, "day", 0)
    monkeypatch.setattr(Lab, "p50_ns", [1_000_000])
    monkeypatch.setattr(Lab, "kernel", "6")
    (tmp_path / "one.toml").write_text(SUITE)

    def invoke(*args):
        code = app.run([*map(str, args)])
        return code, *capsys.readouterr()

    return invoke


def save(run, n=1):
    for _ in range(n):
        assert run("baseline", "save", "--suite", "one.toml", "--to", "b.jsonl")[0] == 0


def test_saving_again_adds_a_session(run, tmp_path):
    save(run, 2)
    assert [one.session for one in read_baseline(tmp_path / "b.jsonl")] == ["s1", "s2"]


def test_it_is_saved_among_the_results_unless_told(run, tmp_path):
    assert run("baseline", "save", "--suite", "one.toml")[0] == 0
    assert (tmp_path / "results" / "one.jsonl").is_file()
    code, out, _ = run("baseline", "list", "--json")
    (row,) = json.loads(out)["baselines"]
    assert (code, row["cases"], row["sessions"], row["devices"]) == (0, 1, 1, ["device"])
    assert "one.jsonl" in run("baseline", "list")[1]


def test_listing_nothing_is_exit_5(run):
    assert run("baseline", "list")[0] == 5


def test_show_tells_cases_sessions_and_conditions(run):
    save(run, 2)
    code, out, _ = run("baseline", "show", "b.jsonl")
    assert code == 0
    assert "short_conv decode" in out
    assert "('kernel', '6')" in out
    assert len(json.loads(run("baseline", "show", "b.jsonl", "--json")[1])["lines"]) == 2


def test_prune_keeps_the_latest(run, tmp_path):
    save(run, 3)
    assert "2 of 3 lines removed" in run("baseline", "prune", "b.jsonl", "--keep", "1")[1]
    assert [one.session for one in read_baseline(tmp_path / "b.jsonl")] == ["s3"]
    assert run("baseline", "prune", "b.jsonl", "--keep", "0")[0] == 2


def check(run):
    code, out, err = run("check", "--suite", "one.toml", "--baseline", "b.jsonl", "--json")
    return code, json.loads(out) if out else err


def test_a_young_baseline_is_inconclusive_and_never_an_alarm(run, monkeypatch):
    monkeypatch.setattr(Lab, "p50_ns", [1_000_000, 5_000_000])
    save(run)
    code, document = check(run)
    assert (code, document["outcome"]) == (3, "inconclusive")
    assert "known from 3 on, and 1 are stored" in document["cases"][0]["reason"]


@pytest.mark.parametrize(
    ("later", "code", "outcome"),
    [
        ([1_001_000], 0, "unchanged"),
        ([1_300_000], 1, "regressed"),
        ([1_300_000, 1_000_000], 3, "inconclusive"),
        ([700_000], 0, "improved"),
    ],
    ids=["same", "slower twice", "slower once", "faster"],
)
def test_a_session_is_judged_against_the_stored_ones(run, monkeypatch, tmp_path, later, code, outcome):
    monkeypatch.setattr(Lab, "p50_ns", [1_000_000, 1_002_000, 999_000, 1_001_000, *later])
    save(run, 4)
    found, document = check(run)
    assert (found, document["outcome"]) == (code, outcome)
    kept = list((tmp_path / "results" / "device" / "checks").glob("*-session.jsonl")) or list(
        (tmp_path / "results").glob("*/checks/*-session.jsonl")
    )
    assert len(kept) == (2 if later[0] > 1_200_000 else 1)
    assert read_baseline(kept[0])


def test_other_conditions_are_refused_with_what_differs(run, monkeypatch):
    save(run, 3)
    monkeypatch.setattr(Lab, "kernel", "7")
    code, err = check(run)
    assert code == 5
    assert "kernel '6' there, '7' here" in err


def test_a_corrupt_baseline_is_usage_and_is_not_overwritten(run, tmp_path):
    (tmp_path / "b.jsonl").write_text("{\n")
    assert check(run)[0] == 2
    assert run("baseline", "save", "--suite", "one.toml", "--to", "b.jsonl")[0] == 2
    assert (tmp_path / "b.jsonl").read_text() == "{\n"
