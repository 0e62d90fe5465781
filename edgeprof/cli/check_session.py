"""What ``edgeprof check`` does between its options and its table: plan, measure or replay, accept, budgets, explain."""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from edgeprof.cli.check_options import Against, Effort, Gate
    from edgeprof.core.types import BenchCase
    from edgeprof.regress.result import CheckResult
    from edgeprof.regress.run import Asked


def check_junit(path: Path | None) -> None:
    """Checks, before minutes are spent, that the file can be written; an old one is replaced, as CI runs again and again.

    Raises:
        UsageError: it cannot.
    """
    from edgeprof.cli.files import check_target

    if path is not None:
        check_target(path, field="--junit", force=True)


def run_check(suite: str, against: "Against", effort: "Effort", gate: "Gate", results: Path | None) -> "CheckResult":
    """The result of one check, with what the project accepts and its budgets.

    Raises:
        UsageError: an option, a file or an environment cannot be used.
        BaselineError: there is nothing to compare with.
    """
    from edgeprof.regress.project_file import PROJECT_FILE, load_project_file
    from edgeprof.regress.result import accept

    project = load_project_file(gate.accepted or Path(PROJECT_FILE))
    if against.replay is not None:
        from edgeprof.regress.run import replay

        result = replay(against.replay)
    else:
        result = _measured(suite, against, effort, gate, results)
        if gate.budgets and project.budgets:
            from edgeprof.cli.check_budgets import measure_budgets

            result = replace(result, budgets=tuple(measure_budgets(project.budgets, results)))
    today = datetime.datetime.now(datetime.UTC).date()
    return replace(result, rows=tuple(accept(result.rows, project.accepted, today)))


def planned(suite: str) -> "list[BenchCase]":
    """The suite's cases, all of which fit this machine.

    Raises:
        UsageError: the suite is unknown or empty, or a case does not fit.
    """
    from edgeprof.bench.plan import plan
    from edgeprof.bench.selection import Selection
    from edgeprof.bench.suite import load_suite

    return plan(load_suite(suite), Selection(suite=suite))


def _measured(suite: str, against: "Against", effort: "Effort", gate: "Gate", results: Path | None) -> "CheckResult":
    from edgeprof.cli.progress import ProgressReporter
    from edgeprof.devices.base import DEVICES
    from edgeprof.regress.run import Wanted, run_side_by_side
    from edgeprof.store import results_root

    cases = planned(suite)
    device = DEVICES.get("local")
    root = results_root(results)
    wanted = Wanted(
        cases=tuple(cases),
        plan=gate.plan(len(cases)),
        budget_s=effort.budget_s,
        seed=effort.seed,
        with_memory=effort.memory,
        only_changed=effort.only_changed,
    )
    if against.baseline is not None:
        from edgeprof.regress.baseline_check import run_against_baseline

        with ProgressReporter() as reporter:
            folder = root / device.profile().id
            return run_against_baseline(against.baseline, wanted, device=device, folder=folder, reporter=reporter)
    asked = _both_sides(against, cases)
    with ProgressReporter() as reporter:
        return run_side_by_side(
            asked, wanted, device=device, folder=root / asked.facts["head"].device_id, reporter=reporter
        )


def _both_sides(against: "Against", cases: "list[BenchCase]") -> "Asked":
    """Both sides, made where they have to be, and asked what they are.

    Raises:
        UsageError: one cannot be had.
    """
    from edgeprof.regress.environments import base_side, checkout, head_side, python_side
    from edgeprof.regress.run import ask_both

    if against.base is not None:
        top = checkout()
        return ask_both(base_side(top, against.base), head_side(top), cases)
    if against.base_python is None or against.head_python is None:
        raise UsageError("give --base, or --base-python and --head-python")
    return ask_both(python_side("base", against.base_python), python_side("head", against.head_python), cases)
