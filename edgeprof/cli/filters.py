"""The options that commands over stored results share: what narrows the rows, and where these come from."""

import inspect
from typing import Annotated

import typer

from edgeprof.cli.options import CELLS, make_selection, with_options

with_filters = with_options(
    *(name for name in inspect.signature(make_selection).parameters if name not in ("suite", "device"))
)
"""Gives a command the options that pick cells; here they filter what is stored."""

SuiteFilter = Annotated[
    str | None,
    typer.Option("--suite", metavar="NAME|FILE.toml", help="Exactly that suite's cells.", rich_help_panel=CELLS),
]
DeviceFilter = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="ID", help="One device of those with results; local is this machine.", rich_help_panel=CELLS
    ),
]
