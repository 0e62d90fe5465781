"""A check as people read it: a table of its rows, what may explain them, and the files that CI shows."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprof.core.errors import ExitCode

if TYPE_CHECKING:
    from edgeprof.regress.result import CheckResult, Row

logger = logging.getLogger(__name__)

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"


def print_check(result: "CheckResult", code: ExitCode) -> None:
    """Prints the table, the explanations, and the verdict as the last line."""
    from edgeprof.cli.output import make_table, print_table, stdout_console
    from edgeprof.regress.formats import explanations, headline, interval_text, ratio_text, row_label, row_reason

    table = make_table(
        "", "case base head head/base 95_%_interval blocks outcome why", right="base head head/base blocks"
    )
    for row in result.rows:
        values = [written(row, value) for value in (row.base, row.head)]
        outcome = "accepted" if row.accepted is not None else row.verdict.outcome
        measures = [ratio_text(row), interval_text(row), str(row.verdict.n_blocks)]
        table.add_row(row_label(row), *values, *measures, outcome, row_reason(row))
    console = stdout_console()
    console.print(f"base {result.base}, head {result.head}, on {result.device_id}", markup=False, soft_wrap=True)
    print_table(table)
    for line in (*explanations(result), *_footer(result)):
        console.print(line, markup=False, soft_wrap=True)
    console.print(headline(result, code), markup=False, soft_wrap=True)


def _footer(result: "CheckResult") -> list[str]:
    where = f" All of it: {result.recording}" if result.recording is not None else ""
    blocks = f"{result.n_blocks} blocks in " if result.n_blocks else "Measured in "
    return [f"{blocks}{result.seconds:.0f} s; floor {result.plan.floor:.1%}.{where}"]


def written(row: "Row", value: float | None) -> str:
    """A time or a size for people."""
    from edgeprof.cli.table import duration
    from edgeprof.core.units import format_bytes

    if value is None:
        return "-"
    return duration(value) if row.quantity == "time" else format_bytes(value)


def write_for_ci(result: "CheckResult", code: ExitCode, pass_inconclusive: bool, junit: Path | None) -> None:
    """Writes JUnit XML where it was asked for, and appends to the step's summary where GitHub gave a file for it.

    Raises:
        UsageError: the JUnit file cannot be written.
    """
    from edgeprof.cli.files import write_whole
    from edgeprof.cli.table import duration
    from edgeprof.regress.formats import junit_xml, markdown_summary

    if junit is not None:
        write_whole(junit, junit_xml(result, code, pass_inconclusive=pass_inconclusive), field="--junit")
    summary = os.environ.get(SUMMARY_VARIABLE)
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(markdown_summary(result, code, duration))
        except OSError as error:  # the verdict stands whether or not its summary is shown
            logger.warning("%s: %s cannot be written (%s)", SUMMARY_VARIABLE, summary, error.strerror)
