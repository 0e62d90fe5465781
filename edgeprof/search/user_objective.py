"""The user's own measure of quality: a Python function, or a command that prints a number.

Either gets an architecture and returns one number, or a number and its standard error.
"""

import importlib
import logging
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.models.config import ArchConfig, to_toml
from edgeprof.search.objective import Direction, ObjectiveError, Report, Score, Stage, find_stage

logger = logging.getLogger(__name__)

ONLY_STAGE = Stage(name="whole")
"""The user's measure has one thoroughness: its own."""

CONFIG_PLACE = "{config}"
"""Where a command wants the path of the architecture's TOML file; without it the path comes last."""

MOST_OUTPUT = 65_536
"""Bytes of the end of a command's output that its number is looked for in."""

Raw = Callable[[ArchConfig], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserObjective:
    """An objective that asks the user's code."""

    name: str
    direction: Direction
    ask: Raw

    @property
    def final_stage(self) -> Stage:
        """The only stage."""
        return ONLY_STAGE

    def stage(self, name: str) -> Stage:
        """The only stage.

        Raises:
            UsageError: another one is asked for.
        """
        return find_stage(self.name, name, (ONLY_STAGE,))

    def score(self, config: ArchConfig, *, seed: int, budget: Stage, report: Report) -> Score:
        """What the user's code says; its seed is its own, and it reports nothing on the way.

        Raises:
            ObjectiveError: it fails, or says no number.
        """
        begin = time.perf_counter()
        value, se = _value_and_error(self.ask(config), self.name)
        return Score(value=value, se=se, seconds=time.perf_counter() - begin, parts={})


def _value_and_error(answer: object, name: str) -> tuple[float, float | None]:
    """A number, or a number and its standard error.

    Raises:
        ObjectiveError: the answer is neither, or not finite.
    """
    numbers = answer if isinstance(answer, (tuple, list)) else (answer,)
    try:
        found = [float(number) for number in numbers if not isinstance(number, str)]
    except (TypeError, ValueError):
        found = []
    if len(found) != len(numbers) or len(found) not in (1, 2):
        raise ObjectiveError(
            f"objective {name:.200}: returned {answer!r:.80}; return a number, or a number and its standard error"
        )
    value, se = found[0], found[1] if len(found) == 2 else None
    if not all(map(math.isfinite, found)) or (se is not None and se < 0):
        raise ObjectiveError(f"objective {name:.200}: returned {answer!r:.80}; a score is finite, an error 0 or more")
    return value, se


def load_function(module: str, function: str, direction: Direction | None) -> UserObjective:
    """The objective of a Python function that takes an ``ArchConfig``; its module may lie in the current folder.

    A function's attribute ``direction`` says whether more is better, where the caller does not.

    Raises:
        UsageError: the module cannot be imported, or has no such function.
    """
    name = f"{module}:{function}"
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last: nothing of the user's may stand in for a library
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise UsageError(f"objective {name:.200}: cannot be imported: {_one_line(error)}") from None
    except AttributeError:
        raise UsageError(f"objective {name:.200}: {module:.80} has no {function[:80]!r}") from None
    except Exception as error:  # the module's own code runs when it is imported
        raise UsageError(f"objective {name:.200}: cannot be imported: {_told(error)}") from error
    if not callable(found):
        raise UsageError(f"objective {name:.200}: is no function")
    own: Any = direction or getattr(found, "direction", "maximize")
    if own not in get_args(Direction):
        raise UsageError(f"objective {name:.200}: direction: {did_you_mean(f'{own!s:.80}', list(get_args(Direction)))}")

    def ask(config: ArchConfig) -> object:
        try:
            return found(config)
        except Exception as error:
            logger.debug("objective %s", name, exc_info=True)
            raise ObjectiveError(f"objective {name:.200}: {config.pattern:.80}: raised {_told(error)}") from error

    return UserObjective(name=name, direction=own, ask=ask)


def load_command(command: str, direction: Direction, timeout_s: float) -> UserObjective:
    """The objective of a command, run without a shell, whose last line of output is its number.

    Raises:
        UsageError: the command cannot be split into arguments, or there is no such program.
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"objective cmd: {command!r:.200}: {error}; close the quotation") from None
    if not arguments:
        raise UsageError("objective cmd: names no command; write cmd:COMMAND ARGUMENTS")
    if shutil.which(arguments[0]) is None:
        raise UsageError(f"objective cmd: {arguments[0]!r:.200}: no such program")
    if not any(CONFIG_PLACE in argument for argument in arguments):
        arguments.append(CONFIG_PLACE)
    name = f"cmd:{command}"

    def ask(config: ArchConfig) -> object:
        with tempfile.TemporaryDirectory(prefix="edgeprof-") as folder:
            path = Path(folder) / "config.toml"
            path.write_text(to_toml(config))
            filled = [argument.replace(CONFIG_PLACE, str(path)) for argument in arguments]
            return _number_of(_run(filled, Path(folder), timeout_s, f"{name:.200}: {config.pattern:.80}"), name)

    return UserObjective(name=name, direction=direction, ask=ask)


def _run(arguments: list[str], folder: Path, timeout_s: float, what: str) -> str:
    """The end of a command's output. It has a process group of its own, which ends with it, whatever ends it.

    Output goes to files: a pipe that a left-over child holds open would be waited for.

    Raises:
        ObjectiveError: the command cannot be started, fails, or takes too long.
    """
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        try:
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
            )
        except OSError as error:
            raise ObjectiveError(f"objective {what}: cannot be started: {error.strerror}") from None
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ObjectiveError(f"objective {what}: took longer than {timeout_s:g} s; make it faster") from None
        finally:
            _end(process)
    if code:
        raise ObjectiveError(f"objective {what}: exit code {code}: {_last_line(err) or 'nothing on stderr'}")
    return _last_line(out)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process and all that it started and left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _last_line(path: Path) -> str:
    """The last line with something in it, of the end of a file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MOST_OUTPUT))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _number_of(line: str, name: str) -> object:
    """One or two numbers of a line.

    Raises:
        ObjectiveError: there are others, or none.
    """
    try:
        return tuple(float(word) for word in line.split() or [line])
    except ValueError:
        raise ObjectiveError(
            f"objective {name:.200}: its last line is {line!r:.80}; print a number, or a number and its standard error"
        ) from None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {_one_line(error)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
