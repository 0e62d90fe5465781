"""``edgeprof baseline``: what this device takes now, kept for later checks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprof.cli.options import JsonOption, ResultsOption, VerboseOption
from edgeprof.core.errors import BaselineError, ExitCode, UsageError

if TYPE_CHECKING:
    from edgeprof.regress.baselines import Stored

FileArgument = Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="A baseline file.")]

MAX_PROCESSES = 200


def save(
    suite: Annotated[str, typer.Option("--suite", metavar="NAME|FILE.toml", help="The cells to measure.")] = "ci",
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE.jsonl",
            help="The file to add the session to.",
            show_default="SUITE.jsonl in the results",
        ),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", help="Fresh processes of a case.")] = 12,
    results: ResultsOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Measure a suite and add the session to a baseline file.

    A check against the file tells something from three sessions on, as how sessions differ is part of its intervals: save at
    different times, on different days if you can.
    """
    from edgeprof.cli.check_session import planned
    from edgeprof.cli.files import check_target, write_whole
    from edgeprof.cli.output import start_logging, stdout_console
    from edgeprof.cli.progress import ProgressReporter
    from edgeprof.devices.base import DEVICES
    from edgeprof.regress.baseline_check import Laboratory
    from edgeprof.regress.baselines import baseline_text, read_baseline
    from edgeprof.store import results_root

    if verbose:
        start_logging(verbose)
    if not 1 <= processes <= MAX_PROCESSES:
        raise UsageError(f"--processes: {processes} is not a number of processes; use 1 to {MAX_PROCESSES}")
    path = to or results_root(results) / f"{Path(suite).stem}.jsonl"
    if to is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    check_target(path, field="--to", force=True)
    before = read_baseline(path) if path.exists() and path.stat().st_size else []
    cases = planned(suite)
    with ProgressReporter() as reporter:
        lab = Laboratory(cases, device=DEVICES.get("local"), reporter=reporter)
        run = lab.session(lab.cases, processes)
    write_whole(path, baseline_text([*before, *run.stored.values()]).encode(), field="--to")
    console = stdout_console()
    for key, why in run.failures.items():
        console.print(f"not measured: {key}: {why}", markup=False, soft_wrap=True)
    console.print(f"{path}: {len(run.stored)} cases of {len(cases)} added", markup=False, soft_wrap=True)
    raise typer.Exit(ExitCode.REGRESSION if run.failures else ExitCode.OK)


def list_(results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """List the baseline files in the results folder."""
    from edgeprof.cli.output import make_table, print_json, print_table
    from edgeprof.regress.baselines import read_baseline
    from edgeprof.store import results_root

    root = results_root(results)
    files = {path: read_baseline(path) for path in sorted(root.glob("*.jsonl")) if path.stat().st_size}
    if not files:
        raise BaselineError(f"no baseline in {root}; edgeprof baseline save measures one")
    rows = [
        {
            "file": str(path),
            "cases": len({one.case_key for one in stored}),
            "sessions": len({one.session for one in stored}),
            "latest": max(one.at for one in stored),
            "devices": sorted({str(one.conditions["device_id"]) for one in stored}),
        }
        for path, stored in files.items()
    ]
    if as_json:
        print_json({"baselines": rows})
        return
    table = make_table("", "file cases sessions latest devices", right="cases sessions")
    for row in rows:
        table.add_row(*(", ".join(value) if isinstance(value, list) else str(value) for value in row.values()))
    print_table(table)


def show(file: FileArgument, as_json: JsonOption = False) -> None:
    """Show what a baseline file holds: each case with its sessions, and the conditions they share."""
    from edgeprof.cli.output import make_table, print_json, print_table, stdout_console
    from edgeprof.regress.baselines import read_baseline

    stored = read_baseline(file)
    if as_json:
        print_json({"file": str(file), "lines": stored})
        return
    table = make_table(
        str(file), "case sessions latest p50 between_sessions commit", right="sessions p50 between_sessions"
    )
    groups: dict[tuple[str, str], list[Stored]] = {}
    for one in stored:
        groups.setdefault((one.case_key, str(one.conditions)), []).append(one)
    for sessions in groups.values():
        table.add_row(*_shown(sessions))
    print_table(table)
    for conditions in dict.fromkeys(str(sorted(_shared(one).items())) for one in stored):
        stdout_console().print(conditions, markup=False, soft_wrap=True)


def _shared(stored: "Stored") -> dict[str, Any]:
    return {name: value for name, value in stored.conditions.items() if name not in ("runtime_version", "affinity")}


def _shown(sessions: "list[Stored]") -> list[str]:
    import statistics

    from edgeprof.bench.plan import case_label
    from edgeprof.cli.table import duration

    p50 = [statistics.median(min(loads) for loads in one.processes) for one in sessions]
    spread = f"{(max(p50) - min(p50)) / statistics.median(p50):.1%}" if len(p50) > 1 else "-"
    latest = max(sessions, key=lambda one: one.at)
    commit = f"{(latest.commit or 'unknown')[:9]}{' dirty' if latest.dirty else ''}"
    return [case_label(latest.case), str(len(sessions)), latest.at, duration(statistics.median(p50)), spread, commit]


def prune(
    file: FileArgument,
    keep: Annotated[int, typer.Option("--keep", help="Sessions of each case to keep, the latest ones.")] = 5,
) -> None:
    """Remove all but the latest sessions of each case from a baseline file."""
    from edgeprof.cli.files import write_whole
    from edgeprof.cli.output import stdout_console
    from edgeprof.regress.baselines import baseline_text, read_baseline
    from edgeprof.regress.baselines import prune as pruned

    if keep < 1:
        raise UsageError(f"--keep: {keep} would leave nothing; use 1 or more, or remove the file")
    stored = read_baseline(file)
    kept = pruned(stored, keep)
    write_whole(file, baseline_text(kept).encode(), field="FILE")
    stdout_console().print(
        f"{file}: {len(stored) - len(kept)} of {len(stored)} lines removed", markup=False, soft_wrap=True
    )
