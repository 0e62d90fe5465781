"""The plot of a study: expected quality against a budget's predicted figure, with the front, the limit and the baselines."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeprof.cli.figures import GREY, PALETTE, Figure, Panel, Series, byte_ticks
from edgeprof.cli.model_options import printable
from edgeprof.cli.render_search import amount, unit_of
from edgeprof.core.errors import BaselineError

if TYPE_CHECKING:
    from edgeprof.search.budgets import Budget
    from edgeprof.search.report import Report, Tried

SCORED, BEST, *BASELINE_COLORS = PALETTE
LIMIT = "#D55E00"

MOST_TICKS = 8
STEPS = (1, 2, 5, 10)


def front_figure(report: "Report", budget: "Budget", winner: "Tried | None") -> Figure:
    """The layouts of a study by expected quality and a budget's figure; ``winner`` is the best one where it is None.

    The figure stands on the vertical axis with a whisker up to the upper end, which must keep the limit. Layouts that were
    ruled out have a quality too, although nobody trained them: what the surrogate expects.

    Raises:
        BaselineError: no layout was scored, or none has a figure.
    """
    series = [s for s in _series(report, budget, winner) if s.x]
    if not any(s.label == "scored" for s in series):
        raise BaselineError(
            f"nothing to draw: study {report.study} has no scored layout with a figure of {budget.name}"
        )
    better = "more" if report.maximise else "less"
    return Figure(
        title=f"Quality against {budget.name}, study {printable(report.study)}",
        subtitle="quality as expected after all trials; whiskers end where the limit must be kept",
        x_label=f"expected quality ({better} is better)",
        y_label=f"predicted {budget.name}",
        panels=(Panel(title="", series=tuple(series)),),
        x_log=False,
        y_ticks=_ticks(budget, series),
    )


def _series(report: "Report", budget: "Budget", winner: "Tried | None") -> Iterator[Series]:
    name = budget.name
    ruled_out = [one for one in report.tried if one.kind == "ruled_out"]
    yield _points("ruled out, quality only expected", ruled_out, name, color=GREY, marker="cross")
    yield _points("scored", [one for one in report.tried if one.kind == "scored"], name, color=SCORED)
    yield _points("pruned", [one for one in report.tried if one.kind == "pruned"], name, color=SCORED, marker="cross")
    on_front = _known(report.fronts[name], name)
    yield Series(label="front", kind="rule", x=_qualities(on_front), y=_figures(on_front, name), color=SCORED)
    best = winner or report.best
    label = "best expected" if winner is None else "winner"
    yield _points(label, [] if best is None else [best], name, color=BEST, marker="diamond")
    for i, one in enumerate(report.baselines):
        color = BASELINE_COLORS[i % len(BASELINE_COLORS)]
        yield _points(f"baseline {one.baseline}", [one], name, color=color, marker="triangle")
    everything = _qualities(_known([*report.tried, *report.baselines], name))
    if everything:
        ends = [min(everything), max(everything)]
        limit = f"limit {amount(budget, budget.limit)}"
        yield Series(label=limit, kind="rule", x=ends, y=[budget.limit] * 2, color=LIMIT)


def _points(label: str, tried: "Sequence[Tried]", name: str, *, color: str, marker: str = "circle") -> Series:
    known = _known(tried, name)
    return Series(
        label=label,
        kind="points",
        x=_qualities(known),
        y=_figures(known, name),
        low=[None] * len(known),
        high=[one.figures[name][1] for one in known],
        color=color,
        marker=marker,
    )


def _known(tried: "Sequence[Tried]", name: str) -> "list[Tried]":
    """The layouts that have a place in the plot."""
    return [one for one in tried if one.expected is not None and one.figures.get(name, (None, None))[0] is not None]


def _qualities(known: "Sequence[Tried]") -> list[float]:
    return [one.expected for one in known if one.expected is not None]


def _figures(known: "Sequence[Tried]", name: str) -> list[float]:
    return [value for one in known if (value := one.figures[name][0]) is not None]


def _ticks(budget: "Budget", series: Sequence[Series]) -> dict[float, str]:
    """Round values over the figures' range, in the unit that people read; bytes over a wide range have powers of four."""
    values = [y for s in series for y in (*s.y, *s.high) if y is not None]
    low, high = min(values), max(values)
    if unit_of(budget) == "bytes" and high > 16 * low:
        return byte_ticks(series)
    unit = 1024 ** int(math.log(high, 1024)) if unit_of(budget) == "bytes" else 1
    return {unit * tick: amount(budget, unit * tick) for tick in _round_values(low / unit, high / unit)}


def _round_values(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten around a range, few enough to read."""
    width = max(high - low, 0.1 * high)
    power = 10 ** math.floor(math.log10(width / MOST_TICKS))
    step = next(s * power for s in STEPS if width / (s * power) <= MOST_TICKS)
    return [n * step for n in range(max(1, math.floor(low / step)), math.ceil(high / step) + 1)]
