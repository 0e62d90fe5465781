"""The frame of the program: commands found lazily, one-line errors, exit codes."""

import json
import logging
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprof.cli import app
from edgeprof.core.errors import BaselineError, DeviceError, UsageError

HEAVY = {
    "torch",
    "numpy",
    "pandas",
    "scipy",
    "onnx",
    "onnxruntime",
    "executorch",
    "optuna",
    "matplotlib",
    "pydantic",
    "rich",
}


def program(*args: str, env: dict[str, str] | None = None, **kwargs: Any) -> "subprocess.CompletedProcess[str]":
    """Runs ``edgeprof`` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "edgeprof", *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
        check=False,
        **kwargs,
    )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Makes a function the only command, ``probe``."""

    def install(function: Callable[[], None]) -> None:
        module = types.ModuleType("probe_command")
        module.probe = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "probe_command", module)
        monkeypatch.setattr(app, "COMMANDS", {"probe": ("probe_command:probe", "Probe.")})

    return install


def modules_imported_by(*args: str) -> set[str]:
    code = f"import sys\nfrom edgeprof.cli.app import run\ncode = run({list(args)!r})\nprint('\\n', *sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.splitlines()}


@pytest.mark.parametrize("args", [("--help",), ("--version",), ()])
def test_help_and_version_import_nothing_heavy(args: tuple[str, ...]) -> None:
    assert modules_imported_by(*args) & HEAVY == set()


@pytest.mark.parametrize("name", ["ops", "runtimes", "devices", "doctor", "bench", "new", "presets", "inspect"])
def test_the_help_of_a_command_imports_no_library_that_computes(name: str) -> None:
    assert modules_imported_by(name, "--help") & (HEAVY - {"pydantic", "rich"}) == set()


def test_help_lists_every_command_with_its_line() -> None:
    done = program("--help")
    assert done.returncode == 0
    told = " ".join(done.stdout.split())
    for name, (_, summary) in app.COMMANDS.items():
        assert f" {name} {summary}" in told


def test_no_arguments_show_the_help_and_version_its_number() -> None:
    assert program().stdout == program("--help").stdout
    assert program("--version").stdout.startswith("edgeprof ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("bnch",), "unknown command 'bnch': did you mean bench?"),
        (("--verbos",), "No such option: --verbos"),
        (("-v",), "Missing command."),
        (("ops", "gqqa"), "unknown operator 'gqqa': did you mean gqa?"),
        (("ops", "--kv-len", "-4"), "--kv-len: -4 is not a length; use 1 or more"),
        (("ops", "--dtype", "fp31"), "unknown dtype 'fp31': did you mean fp32"),
        (
            ("ops", "--suite", "my.toml"),
            "my.toml: no such suite file; shipped suites: ci, lfm2-1.2b, lfm2-350m, quick, talk",
        ),
        (("ops", "--n-kv-heads", "5"), "swa.n_kv_heads: 5 does not divide n_heads = 16; use a divisor"),
        (("ops", "--d-model", "1-9*1"), "--d-model: 1-9*1 never ends; use a factor of 2 or more"),
        (("ops", "gqa", "swa"), "Got unexpected extra argument"),
        (("ops", "--kv-len"), "Option '--kv-len' requires an argument."),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_2(args: tuple[str, ...], message: str) -> None:
    done = program(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"edgeprof: error: {message}")


@pytest.mark.parametrize(("error", "code"), [(UsageError, 2), (DeviceError, 4), (BaselineError, 5)])
def test_each_kind_of_error_has_its_exit_code(
    command: Any, capsys: pytest.CaptureFixture[str], error: type[Exception], code: int
) -> None:
    def probe() -> None:
        raise error("my.toml: cells[0]: wrong\nand on two lines")

    command(probe)
    assert app.run(["probe"]) == code
    assert capsys.readouterr().err == "edgeprof: error: my.toml: cells[0]: wrong and on two lines\n"


def test_an_interrupt_exits_130_and_says_what_is_kept(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def probe() -> None:
        raise KeyboardInterrupt

    command(probe)
    assert app.run(["probe"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == f"edgeprof: interrupted; {app.WHAT_IS_KEPT}\n"


def test_a_command_may_say_itself_what_an_interrupt_kept(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def probe() -> None:
        raise KeyboardInterrupt("12 of 90 cells are stored")

    command(probe)
    assert app.run(["probe"]) == 130
    assert capsys.readouterr().err == "edgeprof: interrupted; 12 of 90 cells are stored\n"


def test_a_bug_keeps_its_traceback(command: Any) -> None:
    def probe() -> None:
        raise ZeroDivisionError

    command(probe)
    with pytest.raises(ZeroDivisionError):
        app.run(["probe"])


def test_an_exit_code_of_a_command_is_the_programs(command: Any) -> None:
    import typer

    def probe() -> None:
        raise typer.Exit(3)

    command(probe)
    assert app.run(["probe"]) == 3


def test_a_broken_pipe_that_is_not_stdout_is_a_bug(command: Any, capfd: pytest.CaptureFixture[str]) -> None:
    def probe() -> None:
        raise BrokenPipeError

    command(probe)
    with pytest.raises(BrokenPipeError):
        app.run(["probe"])


@pytest.mark.parametrize("args", [("--help",), ("ops", "--json"), ("ops",)])
def test_a_reader_that_goes_away_is_no_error(args: tuple[str, ...]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgeprof", *args], stdout=write_end, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


def test_logs_go_to_stderr_at_the_level_asked_for(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def probe() -> None:
        logging.getLogger("edgeprof.probe").info("measured %d", 1)
        logging.getLogger("edgeprof.probe").warning("drifting")

    command(probe)
    assert app.run(["probe"]) == 0
    assert capsys.readouterr() == ("", "edgeprof: WARNING: drifting\n")
    assert app.run(["-v", "probe"]) == 0
    assert capsys.readouterr() == ("", "edgeprof: INFO: measured 1\nedgeprof: WARNING: drifting\n")


def test_verbose_may_stand_behind_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger("edgeprof")
    for args, level in ((["ops", "gqa"], logging.WARNING), (["ops", "gqa", "-v"], logging.DEBUG)):
        assert app.run(args) == 0
        assert root.level == level


def test_a_reader_that_goes_away_before_a_command_exits_by_itself_is_no_error() -> None:
    program_text = (
        "import sys, types, typer\nfrom edgeprof.cli import app\n"
        "def probe():\n    print('x')\n    raise typer.Exit(1)\n"
        "sys.modules['probe_command'] = types.SimpleNamespace(probe=probe)\n"
        "app.COMMANDS['probe'] = ('probe_command:probe', 'Probe.')\nsys.argv = ['edgeprof', 'probe']\napp.main()"
    )
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", program_text], stdout=pipe, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


def complete(line: str) -> list[str]:
    """What the shell offers after ``line``."""
    words = line.split(" ")
    env = {"_EDGEPROF_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return program(env=env).stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("edgeprof d", ["distill", "data", "devices", "doctor"]),
        ("edgeprof ops sw", ["swa", "swiglu"]),
        ("edgeprof bench --op short_conv,gq", ["short_conv,gqa"]),
        ("edgeprof bench --op mo", []),  # a model is no operator to choose dimensions for
        ("edgeprof bench --runtime torch", ["torch_eager", "torch_compile"]),
        ("edgeprof bench --dtype b", ["bf16"]),
        ("edgeprof bench --suite t", ["talk"]),
        ("edgeprof bench --kv-l", ["--kv-len"]),
        ("edgeprof inspect tiny-h", ["tiny-hybrid"]),
        ("edgeprof presets lfm2-3", ["lfm2-350m"]),
    ],
)
def test_commands_options_and_values_complete(line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_completion_can_be_installed(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = program("--install-completion", "bash", env=env)
    assert done.returncode == 0, done.stderr
    assert "_EDGEPROF_COMPLETE" in (tmp_path / ".bash_completions/edgeprof.sh").read_text()


def test_no_color_is_respected(tmp_path: Path) -> None:
    coloured = program("runtimes", env={"FORCE_COLOR": "1", "NO_COLOR": ""}).stdout
    plain = program("runtimes", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
    assert "\x1b[" in coloured
    assert "\x1b[3" not in plain


@pytest.mark.parametrize("name", ["ops", "runtimes", "devices"])
def test_json_is_one_document_and_nothing_else(name: str, tmp_path: Path) -> None:
    done = program(name, "--json", env={"EDGEPROF_RESULTS": str(tmp_path)})
    assert done.returncode == 0
    assert json.loads(done.stdout)["schema_version"] == 1
    assert done.stderr == ""


@pytest.fixture
def commands_of_two_words(monkeypatch):
    monkeypatch.setattr(
        app,
        "COMMANDS",
        {
            "inspect": ("edgeprof.cli.inspect:inspect", "One."),
            "inspect presets": ("edgeprof.cli.presets:presets", "Two."),
            "pair presets": ("edgeprof.cli.presets:presets", "Three."),
        },
    )


def test_a_command_of_two_words_is_found(commands_of_two_words, capsys):
    assert app.run(["inspect", "presets", "--json"]) == 0
    assert "lfm2-350m" in capsys.readouterr().out


def test_its_first_word_alone_is_the_shorter_command(commands_of_two_words, capsys):
    assert app.run(["inspect", "tiny-hybrid", "--json"]) == 0
    assert "embedding_share" in capsys.readouterr().out


def test_the_first_word_of_longer_commands_alone_says_what_they_are(commands_of_two_words, capsys):
    assert app.run(["pair"]) == 2
    assert "name what to do: pair presets" in capsys.readouterr().err
