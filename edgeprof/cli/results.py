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
    "started_at kind op phase q_len kv_len runtime dtype n_threads cache_state status session_id round p50 load"
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

    A row is a measurement: all loads of a cell that may be pooled, of its latest conditions. Filters change no figure:
    ratios and the noise floor are those of everything stored, or of the suite. Tables leave out blocks, models and what was
    measured in a ring with them, unless --op names them; the other formats hold every row.
    """
    from edgeprof.bench.stored import single_operators, stored_reports
    from edgeprof.cli.export import format_of
    from edgeprof.cli.files import check_target, write_whole
    from edgeprof.store import Store, results_root

    chosen = format_of(out, file_format or ("markdown" if into else None), as_json)
    _check_together(chosen, instances, out, into)
    if out is not None:
        check_target(out, field="--out", force=force)
    store = Store(results_root(results))
    reports = stored_reports(store, selection, suite=suite, device=device)
    shown = [single_operators(report, selection) for report in reports]
    nothing = why_empty(store, shown if chosen == "markdown" else reports)
    if nothing and into is not None:
        raise BaselineError(f"--into: {nothing}; {into} is as it was")
    if nothing:
        (sys.stdout if chosen == "table" else sys.stderr).write(f"{nothing}\n")
    frame = instances_frame(store, reports, selection, suite) if instances else None
    if chosen == "table":
        _print_tables(reports, shown, frame)
    elif into is not None:
        _replace_in(into, shown)
    else:
        content = exported(store, shown if chosen == "markdown" else reports, frame, chosen)
        if out is None:
            sys.stdout.write(content.decode())
        else:
            write_whole(out, content, field="--out")


def _check_together(chosen: str, instances: bool, out: Path | None, into: Path | None) -> None:
    """Refuses options that cannot be meant together.

    Raises:
        UsageError: names them.
    """
    if into is not None and chosen != "markdown":
        raise UsageError(f"--into: takes Markdown, not {chosen}; leave --format away")
    if into is not None and out is not None:
        raise UsageError("--into: goes without --out; give one of them")
    if instances and chosen == "markdown":
        raise UsageError("--instances: has no Markdown form; use csv, json or parquet")


def why_empty(store: "Store", reports: "list[Report]") -> str | None:
    """One line that says why there is no row, and what to do; None where there are rows."""
    if any(report.measurements for report in reports):
        return None
    if not reports:
        return f"no results in {store.root} yet: run edgeprof bench"
    return f"none of the results in {store.root} matches: use fewer filters, or measure the cells with edgeprof bench"


def instances_frame(store: "Store", reports: "list[Report]", selection: Selection, suite: str | None) -> "pd.DataFrame":
    """The store's rows of the devices in ``reports``: all of them, or where something is filtered those of its cases."""
    import pandas as pd

    from edgeprof.store import load

    if not reports:
        return load(store.root)
    frame = pd.concat([load(store.root, report.device_id) for report in reports], ignore_index=True)
    if selection == Selection() and suite is None:
        return frame
    keys = {m.case.key for report in reports for m in report.measurements}
    return frame[frame["case_key"].isin(keys)].reset_index(drop=True)


def _print_tables(reports: "list[Report]", shown: "list[Report]", frame: "pd.DataFrame | None") -> None:
    """The instances, or the tables of each device; what is not shown of what is stored is counted above them."""
    from edgeprof.cli.output import make_table, print_table, stdout_console
    from edgeprof.cli.table import duration, print_report

    if frame is not None:
        table = make_table(f"{len(frame)} instances", INSTANCE_COLUMNS, right="q_len kv_len n_threads round p50 load")
        for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
            times = [None if row[f"{name}_ns"] is None else duration(row[f"{name}_ns"]) for name in ("p50", "load")]
            cells = [*(row[name] for name in INSTANCE_COLUMNS.split()[:-2]), *times]
            table.add_row(*("-" if c is None else f"{c:g}" if isinstance(c, float) else str(c) for c in cells))
        print_table(table)
        return
    for stored, report in zip(reports, shown, strict=True):
        left_out = len(stored.measurements) - len(report.measurements)
        more = f", and {left_out} for models, which --op block,model,embedding,head shows" if left_out else ""
        if stored.measurements:
            stdout_console().print(f"{report.device_id}: {len(report.measurements)} measurements{more}", soft_wrap=True)
        if report.measurements:
            print_report(report)


def _replace_in(into: Path, reports: "list[Report]") -> None:
    from edgeprof.cli.markdown import replace_marked, report_markdown

    replace_marked(into, "\n".join(report_markdown(report) for report in reports))


def exported(store: "Store", reports: "list[Report]", frame: "pd.DataFrame | None", chosen: str) -> bytes:
    """The measurements, or the instances in ``frame``, in the format ``chosen``."""
    from edgeprof.bench.report import report_json
    from edgeprof.cli.export import frame_bytes, frame_rows, measurements_frame
    from edgeprof.cli.markdown import report_markdown
    from edgeprof.cli.output import json_text

    if chosen == "markdown":
        return "\n".join(report_markdown(report) for report in reports).encode()
    if chosen != "json":
        return frame_bytes(measurements_frame(reports) if frame is None else frame.convert_dtypes(), chosen)
    document: dict[str, object] = {"results": str(store.root)}
    if frame is None:
        document["devices"] = [report_json(report, {"id": report.device_id}) for report in reports]
    else:
        document["instances"] = frame_rows(frame)
    return json_text(document).encode()
