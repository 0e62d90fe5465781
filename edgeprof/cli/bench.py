"""``edgeprof bench``: measures the selected cells and prints what they cost."""

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprof.bench.selection import Selection
from edgeprof.cli.options import EffortOption, JsonOption, ResultsOption, with_selection
from edgeprof.core.errors import ExitCode

if TYPE_CHECKING:
    from edgeprof.bench.report import Report

logger = logging.getLogger(__name__)

BAD_STATUSES = ("wrong_output", "error", "timeout", "missing")


@with_selection
def bench(
    selection: Selection,
    effort: EffortOption = "quick",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure anew; what is stored stays, but is not used.")
    ] = False,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure operators on a device and print the table.

    Without arguments: short convolution, sliding-window attention and GQA at LFM2-350M's sizes, in three runtimes, in about
    seven minutes. Every load is stored as soon as it is measured; the same command again measures only what is missing.
    """
    from edgeprof.bench.plan import plan
    from edgeprof.bench.protocol import protocol_for
    from edgeprof.bench.report import report_json
    from edgeprof.bench.run import run_bench
    from edgeprof.bench.suite import load_suite
    from edgeprof.cli.output import print_json
    from edgeprof.cli.progress import ProgressReporter
    from edgeprof.cli.table import print_report
    from edgeprof.devices.base import DEVICES
    from edgeprof.store import Store, results_root

    protocol = protocol_for(effort)
    cases = plan(load_suite(selection.suite), selection)
    device = DEVICES.get(selection.device)
    with ProgressReporter() as reporter:
        report = run_bench(
            cases, device=device, store=Store(results_root(results)), protocol=protocol, reporter=reporter, fresh=fresh
        )
    if as_json:
        print_json(report_json(report, device.profile()))
    else:
        print_report(report)
    raise typer.Exit(exit_code(report))


def exit_code(report: "Report") -> ExitCode:
    """0 when every cell is measured or known to be unsupported, 1 when one ended wrong or in an error."""
    bad = [m for m in report.measurements if m.status in BAD_STATUSES]
    for m in bad:
        logger.warning("%s %s %s: %s: %s", m.case.runtime, m.case.dtype, m.case.op, m.status, m.reason)
    return ExitCode.REGRESSION if bad else ExitCode.OK
