"""``edgeprof results``: what has been measured, listed, filtered and exported."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprof.bench.selection import Selection
from edgeprof.cli.filters import DeviceFilter, SuiteFilter, with_filters
from edgeprof.cli.options import JsonOption, ResultsOption
from edgeprof.core.errors import BaselineError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from edgeprof.bench.report import Report
    from edgeprof.store import Store

OUTPUT = "Output"

INSTANCE_COLUMNS = (
    "started_at kind op phase q_len kv_len runtime dtype n_threads cache_state status session_id round p50_ns load_ns"
)
"""What a terminal shows of an instance; the exports hold every column."""


@with_filters
def results(
    selection: Selection,
    suite: SuiteFilter = None,
    device: DeviceFilter = None,
    instances: Annotated[
        bool, typer.Option("--instances", help="A row for each load that was measured.", rich_help_panel=OUTPUT)
    ] = False,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="table|csv|json|parquet|markdown",
            help="As what; by default what --out's name says, or a table.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write to a file.", rich_help_panel=OUTPUT)
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            metavar="FILE.md",
            help="Put Markdown between the file's lines <!-- results:begin --> and <!-- results:end -->.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file of --out.", rich_help_panel=OUTPUT)
    ] = False,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """List, filter and export what has been measured.

    A row is a measurement: all loads of a cell that may be pooled, of its latest conditions. Ratios and the noise floor
    are those of the device's whole store, whatever is filtered.
    """
    from edgeprof.bench.stored import stored_reports
    from edgeprof.cli.export import format_of
    from edgeprof.cli.files import check_target
    from edgeprof.store import Store, results_root

    chosen = _checked_format(format_of(out, file_format or ("markdown" if into else None), as_json), instances, out, into)
    if out is not None:
        check_target(out, field="--out", force=force)
    store = Store(results_root(results))
    reports = stored_reports(store, selection, suite=suite, device=device)
    nothing = _why_empty(store, reports)
    if nothing and into is not None:
        raise BaselineError(f"--into: {nothing}; {into} was left as it is")
    if nothing:
        (sys.stdout if chosen == "table" else sys.stderr).write(f"{nothing}\n")
    elif instances and chosen == "table":
        _print_instances(instances_frame(store, reports, device))
        return
    _deliver(store, reports, chosen, instances_frame(store, reports, device) if instances else None, out, into)


def _checked_format(chosen: str, instances: bool, out: Path | None, into: Path | None) -> str:
    if into is not None and chosen != "markdown":
        raise UsageError(f"--into: takes Markdown, not {chosen}; leave --format away")
    if into is not None and out is not None:
        raise UsageError("--into: goes without --out; give one of them")
    if instances and chosen == "markdown":
        raise UsageError("--instances: has no Markdown form; use --format csv, json or parquet")
    return chosen
