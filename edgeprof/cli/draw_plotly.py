"""Draws a figure as one HTML file that needs nothing from the network."""

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

if TYPE_CHECKING:
    from edgeprof.cli.figures import Figure, Series

MARKERS = {"circle": "circle", "square": "square", "triangle": "triangle-up", "diamond": "diamond", "cross": "x"}

MAX_COLUMNS = 3
PANEL_HEIGHT = 340
"""Pixels."""


def html(figure: "Figure") -> bytes:
    """The figure as a page, plotly's own code included."""
    n_columns = min(MAX_COLUMNS, len(figure.panels))
    n_rows = -(-len(figure.panels) // n_columns)
    plot = make_subplots(
        rows=n_rows,
        cols=n_columns,
        subplot_titles=[panel.title for panel in figure.panels],
        shared_yaxes="all",
        shared_xaxes="all",
        x_title=figure.x_label,
        y_title=figure.y_label,
        horizontal_spacing=0.03,
        vertical_spacing=0.16 / n_rows,
    )
    shown: set[str] = set()
    for index, panel in enumerate(figure.panels):
        place = {"row": index // n_columns + 1, "col": index % n_columns + 1}
        for series in panel.series:
            plot.add_trace(_trace(series, show_legend=series.label not in shown), **place)
            shown.add(series.label)
        if panel.band is not None:
            plot.add_hrect(*panel.band, fillcolor="#BBBBBB", opacity=0.35, line_width=0, layer="below", **place)
    plot.update_yaxes(type="log", showticklabels=True, **_ticks(figure.y_ticks))
    if figure.x_log:
        plot.update_xaxes(type="log", **_ticks(figure.x_ticks))
    plot.update_xaxes(showticklabels=True)
    plot.update_layout(
        title={"text": f"<b>{figure.title}</b><br><sup>{figure.subtitle}</sup>"},
        template="plotly_white",
        height=180 + PANEL_HEIGHT * n_rows,
        margin={"t": 110, "b": 90, "l": 90},
        legend={"orientation": "v"},
        barmode="group",
    )
    page: str = plot.to_html(include_plotlyjs=True, full_html=True, div_id="edgeprof")
    return page.encode()


def _ticks(ticks: dict[float, str]) -> dict[str, Any]:
    return {"tickvals": list(ticks), "ticktext": list(ticks.values())} if ticks else {"exponentformat": "none"}


def _trace(series: "Series", *, show_legend: bool) -> Any:
    common = {"name": series.label, "legendgroup": series.label, "showlegend": show_legend, "x": list(series.x)}
    if series.kind == "bars":
        heights = [y - 1 for y in series.y]
        labels = [f"{y:.2f}x" for y in series.y]
        return go.Bar(
            **common, y=heights, base=1, marker_color=series.color, error_y=_errors(series), customdata=labels,
            hovertemplate="%{x}: %{customdata}",
        )  # fmt: skip
    if series.kind == "rule":
        return go.Scatter(**common, y=list(series.y), mode="lines", line={"color": series.color, "width": 1.5})
    return go.Scatter(
        **common,
        y=list(series.y),
        mode="lines+markers" if series.kind == "line" else "markers",
        marker={"color": series.color, "symbol": MARKERS[series.marker], "size": 8},
        error_y=_errors(series),
    )


def _errors(series: "Series") -> dict[str, Any] | None:
    if not series.low:
        return None
    pairs = list(zip(series.y, series.low, series.high, strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": [0.0 if high is None else high - y for y, _, high in pairs],
        "arrayminus": [0.0 if low is None else y - low for y, low, _ in pairs],
        "thickness": 1.2,
    }
