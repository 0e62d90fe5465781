"""Errors a user can act on; each carries the exit code it ends the program with."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What every command's exit code means."""

    OK = 0
    REGRESSION = 1
    USAGE = 2
    INCONCLUSIVE = 3
    DEVICE = 4
    BASELINE = 5


class EdgeprofError(Exception):
    """A problem that is told in one line: what was wrong, where, and what to do."""

    exit_code: ExitCode = ExitCode.USAGE


class UsageError(EdgeprofError):
    """Bad input: an option, a file or a name that cannot be used (exit 2)."""


class DeviceError(EdgeprofError):
    """The device is lost or unusable (exit 4)."""

    exit_code = ExitCode.DEVICE


class BaselineError(EdgeprofError):
    """What is compared against is missing or incompatible (exit 5)."""

    exit_code = ExitCode.BASELINE
