"""``edgeprof plot``: latency, state, ratios and the roofline as PNG, SVG or HTML."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprof.bench.selection import Selection
from edgeprof.cli.filters import DeviceFilter, SuiteFilter, with_filters
from edgeprof.cli.options import ResultsOption, completer
from edgeprof.core.errors import BaselineError, UsageError

if TYPE_CHECKING:
    from edgeprof.bench.report import Report
    from edgeprof.cli.figures import Figure
    from edgeprof.store import Store

KINDS = ("latency", "state", "ratio", "roofline")
FORMATS = {".png": "png", ".svg": "svg", ".html": "html"}

STATE_KV_LENS = tuple(2**n for n in range(8, 16))
"""Contexts of the state plot where none are asked for: 256 to 32K."""

STATE_OPS = ("short_conv", "swa", "gqa")


@with_filters
def plot(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="latency, state, ratio, roofline.", autocompletion=completer(lambda: list(KINDS))
        ),
    ],
    selection: Selection,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .png, .svg or .html; replaced if it is there.")],
    suite: SuiteFilter = None,
    device: DeviceFilter = None,
    results: ResultsOption = None,
) -> None:
    """Draw latency, state and roofline from the results.

    latency: time against context, a panel for each runtime and format. state: bytes of state against context, counted from
    the suite's dimensions. ratio: time over short_conv's. roofline: FLOP/s against arithmetic intensity under the measured
    roofs. Of phases and cache states, latency and ratio show decode and streaming where nothing else is asked for.
    """
    from edgeprof.cli.files import check_target, write_whole
    from edgeprof.store import Store, results_root

    check_kind(kind)
    file_format = format_of(out)
    check_target(out, field="--out", force=True)
    if kind == "state":
        figure = _state(selection, suite)
    else:
        figure = _measured(kind, Store(results_root(results)), selection, suite, device)
    write_whole(out, drawn(figure, file_format), field="--out")
    typer.echo(f"{out}: {figure.title}", err=True)


def check_kind(kind: str) -> None:
    """Checks the kind of a plot.

    Raises:
        UsageError: it is unknown.
    """
    from edgeprof.core.registry import did_you_mean

    if kind not in KINDS:
        raise UsageError(f"unknown plot {kind!r}: {did_you_mean(kind, list(KINDS))}")


def format_of(out: Path, field: str = "--out") -> str:
    """The format that a file's name asks for.

    Raises:
        UsageError: none that can be drawn.
    """
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"{field}: {out} does not tell its format; end it in {', '.join(FORMATS)}")
    return FORMATS[out.suffix.lower()]


def drawn(figure: "Figure", file_format: str) -> bytes:
    """The content of the file."""
    if file_format == "html":
        from edgeprof.cli.draw_plotly import html

        return html(figure)
    from edgeprof.cli.draw_matplotlib import image

    return image(figure, file_format)


def _state(selection: Selection, suite: str | None) -> "Figure":
    from edgeprof.bench.plan import check_dims_used, check_names, specs_of
    from edgeprof.bench.suite import load_suite
    from edgeprof.cli.figures import state_figure

    check_names(selection)
    ops = selection.ops or STATE_OPS
    check_dims_used(selection, set(ops))
    dims = load_suite(suite or selection.suite).dims
    specs = [spec for op in ops for spec in specs_of(op, dims, selection.dims)]
    return state_figure(specs, selection.kv_lens or STATE_KV_LENS, selection.kv_dtypes or ("fp32",))


def _measured(kind: str, store: "Store", selection: Selection, suite: str | None, device: str | None) -> "Figure":
    from edgeprof.bench.stored import single_operators, stored_reports
    from edgeprof.cli import figures

    stored = stored_reports(store, selection, suite=suite, device=device)
    reports = [single_operators(report, selection) for report in stored]
    if not reports:
        raise BaselineError(f"no results in {store.root} yet: run edgeprof bench")
    if len(reports) > 1:
        raise UsageError(f"--device: a plot shows one device; choose {' or '.join(r.device_id for r in reports)}")
    if kind == "roofline":
        return figures.roofline_figure(reports[0])
    report = _narrowed(reports[0], selection)
    return figures.latency_figure(report) if kind == "latency" else figures.ratio_figure(report)


def _narrowed(report: "Report", selection: Selection) -> "Report":
    """Decode and streaming alone, where nothing else is asked for and there are such rows."""
    rows = [m for m in report.measurements if m.time is not None]
    for field, asked, first in (
        ("phase", selection.phases, "decode"),
        ("cache_state", selection.cache_states, "streaming"),
    ):
        preferred = [m for m in rows if getattr(m.case, field) == first]
        rows = preferred if asked is None and preferred else rows
    return replace(report, measurements=tuple(rows))
