"""``edgeprof doctor``: what works here, what is missing, and the line that fixes it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeprof.cli.options import JsonOption, ResultsOption
from edgeprof.core.errors import ExitCode

if TYPE_CHECKING:
    from edgeprof.devices.checks import Check

STYLES = {"ok": "green", "degraded": "yellow", "missing": "red"}


def doctor(results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """Check what works here, and say what fixes the rest.

    Exit 0 when something can be measured, 4 when no runtime starts.
    """
    from edgeprof.cli.output import print_json
    from edgeprof.store import results_root

    checks = run_checks(results_root(results))
    usable = any(c.status != "missing" for c in checks if c.name.startswith("runtime "))
    if as_json:
        print_json({"usable": usable, "checks": checks})
    else:
        _print(checks, usable)
    if not usable:
        raise typer.Exit(ExitCode.DEVICE)


def run_checks(results: Path) -> "list[Check]":
    """Every check, in the order shown."""
    from edgeprof.devices import checks
    from edgeprof.devices.local import LOCAL

    # the load average comes first: starting the runtimes raises it
    process = list(checks.check_process(len(LOCAL.allowed_cpus())))
    return [
        *checks.check_runtimes(),
        checks.check_packages(),
        checks.check_compiler(),
        *checks.check_system(LOCAL.facts),
        *process,
        check_results(results),
    ]


def check_results(folder: Path) -> "Check":
    """Whether results can be written: the folder, or the nearest one above it that exists."""
    from edgeprof.devices.checks import Check

    nearest = next(p for p in (folder, *folder.absolute().parents) if os.access(p, os.F_OK))
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return Check(name="results folder", status="ok", found=str(folder))
    fix = "give a folder that you own: --results DIR, or EDGEPROF_RESULTS"
    return Check(name="results folder", status="missing", found=f"{nearest} cannot be written", fix=fix)


def _print(checks: "list[Check]", usable: bool) -> None:
    from rich.text import Text

    from edgeprof.cli.output import make_table, print_table, stdout_console

    table = make_table("", "check status found fix")
    for c in checks:
        table.add_row(c.name, Text(c.status, style=STYLES[c.status]), Text(c.found), Text(c.fix or ""))
    print_table(table)
    count = sum(c.status == "ok" for c in checks)
    verdict = "this machine can be measured" if usable else "nothing can be measured: no runtime starts"
    stdout_console().print(f"{count} of {len(checks)} checks are ok; {verdict}.", soft_wrap=True)
