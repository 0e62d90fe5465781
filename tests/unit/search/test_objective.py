"""Objectives by name: the built-in ones, the user's function, the user's command, and what is said of wrong ones."""

import os
import sys
import time
from pathlib import Path

import pytest

from edgeprof.core.errors import ExitCode, UsageError
from edgeprof.models.config import ArchConfig, load_config, read_config
from edgeprof.search.objective import Objective, ObjectiveError, Score, load_objective

CONFIG = load_config("tiny-hybrid")


def score(objective: Objective) -> Score:
    return objective.score(CONFIG, seed=0, budget=objective.stage(""), report=lambda _step, _value: None)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module of the user's into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".")])

    def write(text: str) -> str:
        name = f"quality_{time.time_ns()}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def python(code: str, *more: str) -> str:
    quoted = " ".join(f"'{argument}'" for argument in (code, *more))
    return f"cmd:{sys.executable} -c {quoted}"


def test_a_function_in_the_current_folder_scores_the_architecture(module) -> None:
    found = score(load_objective(f"{module('def quality(config): return len(config.layers)')}:quality"))
    assert (found.value, found.se, found.parts) == (4.0, None, {})
    assert found.seconds >= 0


def test_a_function_may_give_its_standard_error(module) -> None:
    found = score(load_objective(f"{module('def quality(config): return config.d_model, 0.5')}:quality"))
    assert (found.value, found.se) == (64.0, 0.5)


def test_a_functions_direction_is_up_its_own_or_the_callers(module) -> None:
    plain = module("def quality(config): return 1")
    down = module("def quality(config): return 1\nquality.direction = 'minimize'")
    assert load_objective(f"{plain}:quality").direction == "maximize"
    assert load_objective(f"{down}:quality").direction == "minimize"
    assert load_objective(f"{down}:quality", direction="maximize").direction == "maximize"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def quality(config): raise KeyError('gone')", "raised KeyError: 'gone'"),
        ("def quality(config): return 'good'", "returned 'good'; return a number"),
        ("def quality(config): return '1.0'", "returned '1.0'; return a number"),
        ("def quality(config): return None", "returned None; return a number"),
        ("def quality(config): return 1, 2, 3", "return a number, or a number and"),
        ("def quality(config): return float('nan')", "a score is finite"),
        ("def quality(config): return 1.0, -2.0", "an error 0 or more"),
        ("def quality(config): return 1.0, float('inf')", "a score is finite"),
    ],
)
def test_a_function_that_gives_no_score_says_why_in_one_line(text: str, message: str, module) -> None:
    with pytest.raises(ObjectiveError, match=message) as error:
        score(load_objective(f"{module(text)}:quality"))
    assert "\n" not in str(error.value)
    assert error.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("other = 1", "has no 'quality'"),
        ("quality = 1", "is no function"),
        ("import no_such_library", "cannot be imported: No module named 'no_such_library'"),
        ("def quality(: pass", "cannot be imported: SyntaxError"),
        ("def quality(config): return 1\nquality.direction = 'upwards'", "direction: known: maximize, minimize"),
    ],
)
def test_a_function_that_cannot_be_had_says_why(text: str, message: str, module) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_objective(f"{module(text)}:quality")
    assert "\n" not in str(error.value)


def test_a_module_of_the_current_folder_stands_in_for_no_library(
    module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "colorsys.py").write_text("def quality(config): return 1")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(UsageError, match="colorsys has no 'quality'"):
        load_objective("colorsys:quality")


def test_a_commands_last_line_is_its_score() -> None:
    found = score(load_objective(python("print(7); print(2.5); print()")))
    assert (found.value, found.se) == (2.5, None)


def test_a_command_may_print_its_standard_error_too() -> None:
    found = score(load_objective(python("print(2.5, 0.25)")))
    assert (found.value, found.se) == (2.5, 0.25)


def test_a_command_gets_the_architectures_file_last(tmp_path: Path) -> None:
    copy = tmp_path / "seen.toml"
    code = "import shutil, sys; shutil.copy(sys.argv[-1], sys.argv[1]); print(len(sys.argv))"
    assert score(load_objective(python(code, str(copy)))).value == 3
    assert read_config(copy) == ArchConfig(**{f: getattr(CONFIG, f) for f in CONFIG.__slots__})


def test_a_command_says_where_it_wants_the_file() -> None:
    code = "import pathlib, sys; print(len(sys.argv) * pathlib.Path(sys.argv[1].removeprefix(sys.argv[2])).is_file())"
    assert score(load_objective(python(code, "{config}", "-"))).value == 3
    assert score(load_objective(python(code, "--model={config}", "--model="))).value == 3


def test_a_command_is_not_run_by_a_shell(tmp_path: Path) -> None:
    score(load_objective(python("print(1)", f"; touch {tmp_path}/made", f"$(touch {tmp_path}/made)")))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; print(1); sys.exit(3)", "exit code 3: nothing on stderr"),
        ("raise ValueError(chr(110) * 3)", "exit code 1: ValueError: nnn"),
        ("print(chr(120))", "its last line is 'x'; print a number"),
        ("pass", "its last line is ''; print a number"),
        ("print(1, 2, 3)", "return a number, or a number and"),
        ("print(float(chr(110) + chr(97) + chr(110)))", "a score is finite"),
    ],
)
def test_a_command_that_gives_no_score_says_why_in_one_line(code: str, message: str) -> None:
    with pytest.raises(ObjectiveError, match=message) as error:
        score(load_objective(python(code)))
    assert "\n" not in str(error.value)


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "child"
    code = (
        "import subprocess, sys, time;"
        "c = subprocess.Popen([sys.executable, sys.argv[1]]);"
        "open(sys.argv[2], chr(119)).write(str(c.pid)); time.sleep(60)"
    )
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text("import time; time.sleep(60)")
    with pytest.raises(ObjectiveError, match=r"took longer than 1 s; make it faster"):
        score(load_objective(python(code, str(sleeper), str(note)), timeout_s=1.0))
    assert _is_gone(int(note.read_text()))


def _is_gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("proxies", "did you mean proxy"),
        ("", "objective: '' is none"),
        ("proxy:txt=1", "did you mean text"),
        ("proxy:text=-1", "is no weight"),
        ("proxy:text=much", "is no weight"),
        ("proxy:text=nan", "is no weight"),
        ("proxy:text=0", "all weights are 0"),
        ("perplexity:", "names no text"),
        ("perplexity:/no/such/file", "/no/such/file: cannot be read"),
        ("cmd:", "names no command"),
        ("cmd:no-such-program", "'no-such-program': no such program"),
        ("cmd:echo 'open", "No closing quotation"),
        ("no_such_module:quality", "No module named 'no_such_module'"),
        (":quality", "cannot be imported"),
    ],
)
def test_an_objective_that_is_none_says_so_in_one_line(source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_objective(source)
    assert "\n" not in str(error.value)


def test_the_built_in_ones_have_their_own_direction() -> None:
    with pytest.raises(UsageError, match="the objective proxy has its own"):
        load_objective("proxy", direction="minimize")


def test_the_users_own_have_one_stage(module) -> None:
    objective = load_objective(f"{module('def quality(config): return 1')}:quality")
    assert objective.stage("") == objective.final_stage
    with pytest.raises(UsageError, match="'thorough' is none"):
        objective.stage("thorough")
