import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprof.core.canonical import plain
from edgeprof.core.errors import BaselineError, UsageError
from edgeprof.regress import sides
from edgeprof.regress.explain import environment_changes
from edgeprof.regress.preparation import check_comparable, needed_cases, refused
from edgeprof.regress.sides import Side, SideCase, SideFacts, ask, last_lines, with_own_cache
from edgeprof.runtimes.artifact import artifact_spec

SIDE = Side(name="base", label="main", python=Path(sys.executable), source=Path("/source"))


@pytest.fixture
def answers(monkeypatch):
    """Lets a side answer with this; returns what it was asked and how it was started."""
    seen = {}

    def answer(document=None, *, returncode=0, stdout=None, stderr=""):
        def run(command, *, input, env, **_):
            seen.update(command=command, asked=json.loads(input), env=env)
            text = json.dumps(document) if stdout is None else stdout
            return subprocess.CompletedProcess(command, returncode, text, stderr)

        monkeypatch.setattr(sides.subprocess, "run", run)
        return seen

    return answer


def document(**changes):
    fields = {
        "edgeprof": "0.1",
        "source": "/source",
        "protocol_version": 1,
        "python": "3.12",
        "packages": {"numpy": "2.0"},
        "device_id": "device",
        "environment": {"kernel": "6"},
        "fingerprint": "f",
        "cases": [],
    }
    return {**fields, **changes}


def facts(**changes):
    fields = document(**changes)
    return SideFacts(**{**fields, "source": Path(fields["source"]), "cases": changes.get("cases", {})})


def test_a_side_is_asked_in_its_own_environment_and_answers_for_each_case(answers, make_case):
    case, other = make_case(), make_case("short_conv")
    spec = artifact_spec(case)
    cases = [{"spec": plain(spec), "artifact_key": spec.key, "cached": True}, {"refused": "is not installed there"}]
    seen = answers(document(cases=cases))
    found = ask(SIDE, [case, other])
    assert found.cases[case.key] == SideCase(spec=spec, artifact_key=spec.key, cached=True)
    assert found.cases[other.key].refused == "is not installed there"
    assert seen["env"]["PYTHONPATH"] == "/source"
    assert seen["command"][1] == "-P"
    assert seen["asked"]["cases"][0] == plain(case)


def test_a_side_that_imports_another_edgeprof_is_refused(answers):
    answers(document(source="/site-packages"))
    with pytest.raises(UsageError, match="imports edgeprof from /site-packages, not from /source"):
        ask(SIDE, [])


def test_a_side_without_edgeprof_says_what_to_do(answers):
    answers(None, returncode=1, stderr="Traceback\nModuleNotFoundError: No module named 'edgeprof'\n")
    with pytest.raises(UsageError, match="install edgeprof there: ModuleNotFoundError") as caught:
        ask(SIDE, [])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("stdout", ["", "{}", "[1]", json.dumps({"cases": [{}]})])
def test_an_answer_that_is_none_is_usage(answers, stdout):
    answers(stdout=stdout)
    with pytest.raises(UsageError, match="main gave no answer"):
        ask(SIDE, [])


def test_other_packages_get_a_cache_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPROF_CACHE", str(tmp_path))
    usual = facts()
    assert with_own_cache(SIDE, facts(), usual) == SIDE
    assert with_own_cache(SIDE, facts(packages={"numpy": "2.0", "edgeprof": "9"}), usual) == SIDE
    own = with_own_cache(SIDE, facts(packages={"numpy": "2.1"}), usual)
    assert own.environment()["EDGEPROF_CACHE"].startswith(str(tmp_path / "sides"))


def test_a_side_with_an_environment_of_its_own_inherits_nobodys_path():
    own = replace(SIDE, source=None)
    assert "PYTHONPATH" not in own.environment({"PYTHONPATH": "/elsewhere", "HOME": "/home"})
    assert own.environment({"HOME": "/home"}) == {"HOME": "/home"}


def test_sides_that_sample_in_different_ways_are_not_compared():
    check_comparable({"base": facts(), "head": facts()})
    with pytest.raises(BaselineError, match="protocol 1, the head by protocol 2") as caught:
        check_comparable({"base": facts(), "head": facts(protocol_version=2)})
    assert caught.value.exit_code == 5


def test_a_case_is_refused_with_the_side_that_cannot_run_it(make_case):
    case = make_case(cache_state="hot")
    fine = {needed.key: SideCase(artifact_key="k") for needed in needed_cases([case])}
    base = facts(cases=fine)
    head = facts(cases={**fine, case.key: SideCase(refused="unsupported: no such cache")})
    assert refused({"base": base, "head": base}, [case]) == {}
    assert refused({"base": base, "head": head}, [case]) == {case.key: "head: unsupported: no such cache"}


def test_changes_name_packages_and_facts_but_nothing_that_always_differs():
    base = {"packages": {"NumPy": "2.0", "old": "1"}, "environment": {"kernel": "5", "load_average": [1]}}
    head = {"packages": {"numpy": "2.1"}, "environment": {"kernel": "6", "load_average": [2]}}
    assert environment_changes(base, head) == ("numpy 2.0 to 2.1", "old 1 to absent", "kernel 5 to 6")
    assert environment_changes(base, base) == ()


def test_the_end_of_a_log_is_one_line():
    assert last_lines("a\n\n  b   c\nd\n", 2) == "b c | d"
    assert last_lines("") == "it said nothing"


def test_the_scripts_of_a_side_are_there():
    for name in ("describe.py", "paced.py", "trace.py"):
        assert Path(replace(SIDE).command(name)[2]).is_file()
