"""What every command prints with: tables for people, one JSON document for programs."""

import json
import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeprof.core.canonical import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

JSON_SCHEMA_VERSION = 1
"""Version of the documents that ``--json`` prints; changes when a field is removed or means something else."""

MAX_WIDTH = 1000
"""Columns that a table may take where no terminal bounds it."""


def print_json(document: Mapping[str, Any]) -> None:
    """Prints one JSON document; see ``json_text``."""
    sys.stdout.write(json_text(document))


def json_text(document: Mapping[str, Any]) -> str:
    """One JSON document, its schema_version first; dataclasses become objects."""
    whole = {"schema_version": JSON_SCHEMA_VERSION, **document}
    return json.dumps(plain(whole), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def stdout_console() -> "Console":
    """The console for results; plain text where stdout is no terminal or NO_COLOR is set."""
    from rich.console import Console

    class ResultConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich would exit with 1, which here means a regression

    return ResultConsole(highlight=False)


def stderr_console() -> "Console":
    """The console for progress and warnings."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def start_logging(verbose: bool) -> None:
    """Sends log records to stderr: warnings and worse, or all of this program's."""
    logging.basicConfig(stream=sys.stderr, format="edgeprof: %(levelname)s: %(message)s", force=True)
    logging.getLogger("edgeprof").setLevel(logging.DEBUG if verbose else logging.WARNING)


def make_table(title: str, columns: str, right: str = "") -> "Table":
    """An empty table with space-separated ``columns``; those also named in ``right`` hold numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns.split():
        table.add_column(column.replace("_", " "), justify="right" if column in right.split() else "left")
    return table


def print_table(table: "Table") -> None:
    """Prints a table below its title; in a pipe or a file it takes the width it needs, and nothing is cut."""
    console = stdout_console()
    if not console.is_terminal:
        console.width = max(
            console.width, console.measure(table, options=console.options.update(max_width=9999)).maximum
        )
    title, table.title = table.title, None  # rich would break a title at the width of the table
    if title:
        console.print(title, soft_wrap=True, style="bold")
    console.print(table)
