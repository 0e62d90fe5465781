"""``edgeprof check``: its options, what it prints and writes, and its exit codes, with a recording for a measurement."""

import datetime
import json
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from edgeprof.cli import app, check_session
from edgeprof.cli.check_accept import parse_expiry
from edgeprof.cli.check_options import make_against, make_effort, make_gate, parse_duration, parse_share
from edgeprof.core.errors import UsageError
from edgeprof.regress.recording import ORDERS, RawBlock, Recording
from edgeprof.regress.run import replay
from edgeprof.regress.sequential import Plan

COMMANDS = {
    "check": ("edgeprof.cli.check:check", ""),
    "check accept": ("edgeprof.cli.check_accept:accept", ""),
}


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """The program in a folder of its own; exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app, "COMMANDS", app.COMMANDS | COMMANDS)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def invoke(*args):
        code = app.run(["check", *map(str, args)])
        return code, *capsys.readouterr()

    return invoke


@pytest.fixture
def recording(tmp_path, make_case):
    """A recording of one case with a change; ``again`` says whether it was run a second time."""

    def write(change=0.0, *, n=10, again=True):
        case = make_case("gqa")
        rng = np.random.default_rng(0)
        found = Recording(tmp_path / "results" / "device")
        sides = {"base": "main", "head": "head"}
        facts = {"base": {}, "head": {}}
        found.begin(Plan(), {case.key: case}, sides=sides, facts=facts, device_id="device", with_memory=True)
        found.prepared(identical=[], untimed=[], file_bytes={})
        for round_ in (1, 2) if again else (1,):
            for _ in range(n):
                order = str(rng.choice(ORDERS))
                times = [1e6 * (1 + change if x == "B" else 1) * np.exp(rng.normal(0, 0.004)) for x in order]
                loads = tuple(((round(ns),) * 3,) for ns in times)
                found.block(RawBlock(case_key=case.key, run=round_, order=order, processes=loads, at="now"))
        found.end(seconds=60.0, seconds_a_block=6.0)
        found.close()
        return found.path

    return write


@pytest.mark.parametrize(
    ("change", "again", "code", "outcome"),
    [
        (0.2, True, 1, "regressed"),
        (0.0, True, 0, "unchanged"),
        (0.2, False, 3, "inconclusive"),
        (-0.2, False, 0, "improved"),
    ],
)
def test_it_ends_with_what_the_blocks_say(run, recording, change, again, code, outcome):
    found, out, _ = run("--replay", recording(change, again=again), "--json")
    document = json.loads(out)
    assert (found, document["outcome"], document["exit_code"]) == (code, outcome, code)
    assert {"case_key", "outcome", "ratio", "ratio_ci95", "p"} <= set(document["cases"][0])


def test_open_cases_pass_where_they_may(run, recording):
    path = recording(0.2, again=False)
    assert run("--replay", path, "--pass-inconclusive")[0] == 0


def test_the_table_ends_with_the_verdict(run, recording):
    _, out, err = run("--replay", recording(0.2))
    assert out.splitlines()[-1] == "failed: 1 regressed"
    assert "gqa decode" in out
    assert "1.2" in out
    assert err == ""


def test_junit_and_the_step_summary_are_written(run, recording, monkeypatch, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert run("--replay", recording(0.2), "--junit", "junit.xml")[0] == 1
    assert ET.parse(tmp_path / "junit.xml").getroot().get("failures") == "1"
    text = summary.read_text()
    assert text.startswith("before\n")
    assert "failed: 1 regressed" in text


def test_a_summary_that_cannot_be_written_changes_no_verdict(run, recording, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "none" / "summary.md"))
    assert run("--replay", recording(0.0))[0] == 0


def test_a_regression_is_accepted_by_one_command_and_fails_again_when_that_expires(run, recording, tmp_path):
    path = recording(0.2)
    code, out, _ = run("accept", "gqa", "--reason", "safer kernel", "--from", path)
    assert code == 0
    assert "accepted until" in out
    file = tmp_path / "edgeprof-accepted.toml"
    (entry,) = tomllib.loads(file.read_text())["accepted"]
    assert entry["reason"] == "safer kernel"
    assert 1.2 <= entry["max_ratio"] < 1.25
    code, out, _ = run("--replay", path)
    assert code == 0
    assert "safer kernel" in out
    file.write_text(file.read_text().replace(f"expires = {entry['expires']}", "expires = 2020-01-01"))
    code, out, _ = run("--replay", path)
    assert code == 1
    assert "expired on 2020-01-01" in out


def test_accept_takes_the_latest_recording(run, recording, tmp_path):
    recording(0.2)
    assert run("accept", "all", "--reason", "x", "--results", tmp_path / "results")[0] == 0


@pytest.mark.parametrize(
    ("change", "args", "said"),
    [
        (0.2, ["nothing", "--reason", "x"], "names no regressed case; there are:"),
        (0.2, ["gqa", "--reason", " "], "--reason: is empty"),
        (0.2, ["gqa", "--reason", "x", "--expires", "soon"], "--expires: 'soon' is no day"),
        (0.2, ["gqa", "--reason", "x", "--expires", "1999-01-01"], "not within a year"),
        (0.2, ["gqa"], "--reason"),
        (0.0, ["gqa", "--reason", "x"], "nothing regressed"),
    ],
)
def test_what_cannot_be_accepted_is_usage_and_writes_nothing(run, recording, tmp_path, change, args, said):
    code, _, err = run("accept", *args, "--from", recording(change))
    assert code == 2
    assert said in err
    assert not (tmp_path / "edgeprof-accepted.toml").exists()


def test_accepting_without_any_check_is_usage(run, tmp_path):
    code, _, err = run("accept", "all", "--reason", "x", "--results", tmp_path)
    assert code == 2
    assert "run edgeprof check first" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "nothing to compare with"),
        (["--base", "main", "--baseline", "x.jsonl"], "too much to compare with"),
        (["--base-python", "a"], "give both"),
        (["--base", "main", "--time-budget", "soon"], "--time-budget: 'soon' is no time"),
        (["--base", "main", "--time-budget", "0s"], "more than 0"),
        (["--base", "main", "--floor", "half"], "--floor: 'half' is no share"),
        (["--base", "main", "--alpha", "2"], "alpha: 2.0 is not an error rate"),
        (["--base", "main", "--suite", "cy"], "unknown suite 'cy'"),
        (["--base", "main", "--suite", "none.toml"], "no such suite file"),
        (["--base", "main", "--accepted", "none.toml"], "--accepted: none.toml is no file"),
        (["--base", "main", "--junit", "none/x.xml"], "--junit: none is no folder"),
        (["--replay", "none.jsonl"], "cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, args, said):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_no_baseline_is_exit_5(run):
    code, _, err = run("--baseline", "none.jsonl")
    assert code == 5
    assert "no such baseline" in err


def test_a_bad_file_of_the_project_stops_the_check_before_it_measures(run, recording, tmp_path):
    (tmp_path / "edgeprof-accepted.toml").write_text("schema_version = 1\n[[budget]]\nconfig = 'x'\n")
    code, _, err = run("--replay", recording())
    assert code == 2
    assert "limits nothing" in err


def test_broken_budgets_fail_although_nothing_changed(run, recording, monkeypatch, tmp_path):
    from edgeprof.cli import check_budgets
    from edgeprof.regress.result import judge_budget

    path = recording(0.0)
    (tmp_path / "edgeprof-accepted.toml").write_text(
        "schema_version = 1\n[[budget]]\nconfig = 'lfm2-350m'\nmax_tpot = '12ms@1024'\n"
    )
    monkeypatch.setattr(check_session, "_measured", lambda *_: replay(path))
    monkeypatch.setattr(
        check_budgets, "measure_budgets", lambda lines, _: [judge_budget(line.config, 1e6, 2e6, None) for line in lines]
    )
    code, out, _ = run("--base", "main", "--json")
    assert (code, json.loads(out)["outcome"]) == (1, "over_budget")
    assert run("--base", "main", "--no-budgets")[0] == 0


@pytest.mark.parametrize(("text", "seconds"), [("300s", 300), ("5m", 300), ("1h", 3600), ("90", 90), ("1.5m", 90)])
def test_durations(text, seconds):
    assert parse_duration(text, field="x") == seconds


@pytest.mark.parametrize(("text", "share"), [("2.5%", 0.025), ("0.03", 0.03), ("0", 0)])
def test_shares(text, share):
    assert parse_share(text, field="x") == pytest.approx(share)


@pytest.mark.parametrize("text", ["100%", "-1%", "3", "x"])
def test_what_is_no_share(text):
    with pytest.raises(UsageError):
        parse_share(text, field="x")


def test_each_check_tosses_its_own_coins_unless_told():
    seeds = {make_effort("5m", True, False, None).seed for _ in range(5)}
    assert len(seeds) == 5
    assert make_effort("5m", True, False, 7).seed == 7


def test_options_make_what_they_say():
    assert make_against(base="main").base == "main"
    gate = make_gate("3%", 0.01, True, None, True)
    assert gate.plan(4) == Plan(alpha=0.01, floor=0.03, n_cases=4)


@pytest.mark.parametrize(
    ("text", "day"), [("90d", datetime.date(2026, 4, 1)), ("2026-02-01", datetime.date(2026, 2, 1))]
)
def test_expiry_days(text, day):
    assert parse_expiry(text, datetime.date(2026, 1, 1)) == day


def test_the_action_and_its_example_agree(pytestconfig):
    import re

    root = Path(pytestconfig.rootpath)
    action, example = (root / "action.yml").read_text(), (root / "examples" / "ci-workflow.yml").read_text()
    inputs = set(re.findall(r"^  ([a-z-]+):\n    description", action.split("outputs:")[0], re.MULTILINE))
    used = set(re.findall(r"^          ([a-z-]+): ", example.split("uses: ./")[1], re.MULTILINE))
    assert "base" in used <= inputs
    script = action.split("run: |")[1]
    assert "${{" not in script.split("    - name: Keep the recording")[0]
