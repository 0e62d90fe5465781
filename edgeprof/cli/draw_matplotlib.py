"""Draws a figure as PNG or SVG. Nothing is left in pyplot's global state."""

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

if TYPE_CHECKING:
    from edgeprof.cli.figures import Figure, Panel, Series

MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "cross": "X"}

MAX_COLUMNS = 3
PANEL_WIDTH, PANEL_HEIGHT = 3.9, 3.2
MIN_WIDTH = 7.0
HEAD_HEIGHT, LEGEND_LINE, NAMES_HEIGHT = 0.75, 0.22, 0.5
"""Inches."""

LEGEND_COLUMNS = 3

STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "edgeprof",  # the same figure gives the same file
}


def image(figure: "Figure", file_format: str) -> bytes:
    """The figure as ``png`` or ``svg``."""
    with mpl.rc_context(STYLE):
        canvas = _draw(figure)
        buffer = io.BytesIO()
        metadata = {"Date": None} if file_format == "svg" else None
        canvas.savefig(buffer, format=file_format, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _draw(figure: "Figure") -> Canvas:
    n_columns = min(MAX_COLUMNS, len(figure.panels))
    n_rows = -(-len(figure.panels) // n_columns)
    foot = LEGEND_LINE * -(-len(figure.labels()) // LEGEND_COLUMNS) + (NAMES_HEIGHT if figure.categories() else 0)
    width = max(MIN_WIDTH, PANEL_WIDTH * n_columns)
    height = HEAD_HEIGHT + foot + n_rows * (4.0 if len(figure.panels) == 1 else PANEL_HEIGHT)
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - HEAD_HEIGHT / height), h_pad=0.06, w_pad=0.06)
    canvas = Canvas(figsize=(width, height), layout=layout)
    FigureCanvasAgg(canvas)
    grid = canvas.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index >= len(figure.panels):
            axes.set_visible(False)
            continue
        _draw_panel(axes, figure, figure.panels[index])
        if index + n_columns >= len(figure.panels):
            axes.set_xlabel(figure.x_label)
            axes.tick_params(axis="x", labelbottom=True)
        if index % n_columns == 0:
            axes.set_ylabel(figure.y_label)
    plain: dict[str, Any] = {"ha": "left", "va": "top", "parse_math": False}  # a model's name may hold dollar signs
    canvas.text(0.02, 1 - 0.12 / height, figure.title, fontsize=13, fontweight="bold", **plain)
    canvas.text(0.02, 1 - 0.42 / height, figure.subtitle, fontsize=9, color="#444444", **plain)
    _draw_legend(canvas, grid, figure.labels())
    return canvas


def _draw_panel(axes: Any, figure: "Figure", panel: "Panel") -> None:
    axes.set_title(panel.title, loc="left")
    axes.grid(visible=True, which="both")
    axes.set_yscale("log")
    if figure.x_log:
        axes.set_xscale("log")
    labels, categories = figure.labels(), figure.categories()
    for series in panel.series:
        if series.kind == "bars":
            _draw_bars(axes, series, categories, place=labels.index(series.label), n_places=len(labels))
        else:
            _draw_points(axes, series)
    if panel.band is not None:
        axes.axhspan(*panel.band, color="#BBBBBB", alpha=0.35, linewidth=0, zorder=0)
    if categories:
        axes.axhline(1, color="#333333", linewidth=0.8)
        axes.set_xticks(range(len(categories)), categories, fontsize=8, rotation=30, ha="right", rotation_mode="anchor")
        axes.grid(visible=False, axis="x", which="both")
    axes.set_ylim(_limits(figure.y_values()))
    _set_ticks(axes.yaxis, figure.y_ticks)
    if figure.x_log:
        axes.set_xlim(_limits(figure.x_values()))
        _set_ticks(axes.xaxis, figure.x_ticks)


def _limits(values: list[float]) -> tuple[float, float]:
    """Limits of a logarithmic axis with room beyond the values; wide enough even for a single one."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.08, 1.3)
    return low / room, high * room


def _draw_points(axes: Any, series: "Series") -> None:
    if series.kind == "rule":
        axes.plot(series.x, series.y, color=series.color, linewidth=1.3, label=series.label, zorder=1)
        return
    axes.errorbar(
        series.x,
        series.y,
        yerr=_errors(series),
        color=series.color,
        marker=MARKERS[series.marker],
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linestyle="-" if series.kind == "line" else "none",
        linewidth=1.6,
        elinewidth=1.1,
        capsize=2.5,
        label=series.label,
        zorder=3,
    )


def _draw_bars(axes: Any, series: "Series", categories: list[str], *, place: int, n_places: int) -> None:
    width = 0.8 / n_places
    x = [categories.index(str(name)) + (place - (n_places - 1) / 2) * width for name in series.x]
    axes.bar(x, [y - 1 for y in series.y], width, bottom=1, color=series.color, label=series.label, zorder=2)
    axes.errorbar(
        x, series.y, yerr=_errors(series), fmt="none", ecolor="#222222", elinewidth=1.1, capsize=2.5, zorder=3
    )
    highs = series.high or [None] * len(series.y)
    for at, y, high in zip(x, series.y, highs, strict=True):
        top = max(y, high or y, 1.0)
        axes.annotate(
            f"{y:.2f}" if y < 10 else f"{y:.1f}",
            (at, top),
            (0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7,
        )


def _errors(series: "Series") -> "list[list[float]] | None":
    """Distances to the bounds, as matplotlib wants them; 0 where there is none."""
    if not series.low:
        return None
    pairs = list(zip(series.y, series.low, series.high, strict=True))
    return [
        [0.0 if low is None else y - low for y, low, _ in pairs],
        [0.0 if high is None else high - y for y, _, high in pairs],
    ]


def _set_ticks(axis: Any, ticks: dict[float, str]) -> None:
    """Named ticks where there are some; else plain numbers instead of powers of ten."""
    if ticks:
        axis.set_major_locator(FixedLocator(list(ticks)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: ticks.get(value, f"{value:g}")))
        axis.set_minor_locator(NullLocator())
        return
    axis.set_major_locator(LogLocator(base=10, subs=(1.0,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(LogLocator(base=10, subs=(2.0, 5.0), numticks=12))
    low, high = axis.get_view_interval()
    narrow = high / low < 1000 if low > 0 else False
    axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}") if narrow else NullFormatter())


def _draw_legend(canvas: Canvas, grid: Any, labels: list[str]) -> None:
    """One legend for all panels; each label once."""
    found: dict[str, Any] = {}
    for axes in grid.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found[label] = handle
    canvas.legend(
        [found[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=min(len(found), LEGEND_COLUMNS),
        frameon=False,
        fontsize=9,
    )
