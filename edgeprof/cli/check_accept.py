"""``edgeprof check accept``: lets a regression pass that was made on purpose, with a reason and until a date."""

import datetime
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprof.cli.options import ResultsOption
from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from edgeprof.regress.project_file import Acceptance
    from edgeprof.regress.result import CheckResult, Row

DEFAULT_DAYS = 90
MAX_DAYS = 366
"""An acceptance is looked at again within a year: what nobody remembers the reason of should not pass."""


def accept(
    cases: Annotated[
        list[str],
        typer.Argument(
            metavar="CASE...", help="Keys of cases, their beginnings, or parts of their names; all: every one."
        ),
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why it is meant; what reviewers will read.")],
    expires: Annotated[
        str, typer.Option("--expires", metavar="DATE|DAYS", help="Until when: 2027-03-31, or 90d from today.")
    ] = f"{DEFAULT_DAYS}d",
    recording: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE.jsonl", help="The check's recording; by default the latest.", show_default=False
        ),
    ] = None,
    into: Annotated[Path, typer.Option("--into", metavar="FILE.toml", help="The file to add it to.")] = Path(
        "edgeprof-accepted.toml"
    ),
    results: ResultsOption = None,
) -> None:
    """Let regressions of a check pass that were made on purpose: adds a table for each to edgeprof-accepted.toml.

    Each holds up to the upper bound of what was measured, and until its date: beyond either, the check fails again and says so.
    Commit the file, so that it is reviewed with the change.
    """
    from edgeprof.cli.files import write_whole
    from edgeprof.cli.output import stdout_console
    from edgeprof.regress.formats import row_label
    from edgeprof.regress.project_file import load_project_file, with_acceptance
    from edgeprof.regress.run import replay
    from edgeprof.store import results_root

    until = parse_expiry(expires, datetime.datetime.now(datetime.UTC).date())
    if not reason.strip():
        raise UsageError("--reason: is empty; say why the regression is meant")
    load_project_file(into)
    result = replay(recording or latest_recording(results_root(results)))
    rows = regressed(result, cases)
    text = into.read_text(encoding="utf-8") if into.exists() else ""
    for row in rows:
        text = with_acceptance(text, acceptance_of(row, reason.strip(), until))
    write_whole(into, text.encode(), field="--into")
    for row in rows:
        stdout_console().print(
            f"accepted until {until}: {row_label(row)}, up to {max_ratio(row):.2f}x", markup=False, soft_wrap=True
        )


def parse_expiry(text: str, today: datetime.date) -> datetime.date:
    """The day that ``2027-03-31`` or ``90d`` means.

    Raises:
        UsageError: it is none, has passed, or is more than MAX_DAYS away.
    """
    days = re.fullmatch(r"([0-9]{1,4})d?", text.strip())
    try:
        until = today + datetime.timedelta(days=int(days[1])) if days else datetime.date.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"--expires: {text[:40]!r} is no day; write 2027-03-31, or 90d from today") from None
    if not today <= until <= today + datetime.timedelta(days=MAX_DAYS):
        raise UsageError(
            f"--expires: {until} is not within a year from today; choose a day that someone will look at it"
        )
    return until


def latest_recording(root: Path) -> Path:
    """The recording of the latest check.

    Raises:
        UsageError: there is none.
    """
    found = sorted(
        (p for p in root.glob("*/checks/*.jsonl") if not p.name.endswith("-session.jsonl")), key=lambda p: p.name
    )
    if not found:
        raise UsageError(f"--from: no recording of a check in {root}; run edgeprof check first, or name one")
    return found[-1]


def regressed(result: "CheckResult", wanted: list[str]) -> "list[Row]":
    """The regressed rows that are asked for.

    Raises:
        UsageError: a word names none of them: says which there are.
    """
    from edgeprof.regress.formats import row_label

    bad = [row for row in result.rows if row.verdict.outcome == "regressed"]
    if not bad:
        raise UsageError(f"{result.recording}: nothing regressed in this check, so there is nothing to accept")
    chosen: list[Row] = []
    for word in wanted:
        mine = [row for row in bad if word == "all" or row.case.key.startswith(word) or word in row_label(row)]
        if not mine:
            there = "; ".join(f"{row.case.key} {row_label(row)}" for row in bad)
            raise UsageError(f"CASE: {word[:80]!r} names no regressed case; there are: {there}")
        chosen += [row for row in mine if row not in chosen]
    return chosen


def max_ratio(row: "Row") -> float:
    """The most that is accepted: the upper bound of what was measured, rounded up to a per cent."""
    verdict = row.verdict
    assert verdict.ratio is not None
    high = verdict.ratio if verdict.ratio_ci95 is None else verdict.ratio_ci95[1]
    return math.ceil(high * 100) / 100


def acceptance_of(row: "Row", reason: str, until: datetime.date) -> "Acceptance":
    """The acceptance of a row."""
    from edgeprof.bench.plan import case_label
    from edgeprof.regress.project_file import Acceptance

    return Acceptance(
        case_key=row.case.key,
        case=case_label(row.case),
        quantity=row.quantity,
        max_ratio=max_ratio(row),
        reason=reason,
        expires=until,
    )
