"""What each plot shows, as plain data: panels of lines, bars and points, before any library draws them."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgeprof.bench.report import BASELINE_OP, COMPUTE_DTYPE, Measurement, Report
from edgeprof.cli.table import dims_label, op_label, runtime_label
from edgeprof.core.canonical import short_hash
from edgeprof.core.errors import BaselineError, UsageError
from edgeprof.core.types import BenchCase, Roof
from edgeprof.core.units import format_bytes, format_tokens
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.registry import OPERATORS, make_spec

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
"""Colours that people with any colour vision tell apart. Source: Okabe and Ito, Color Universal Design (2008)."""

MARKERS = ("circle", "square", "triangle", "diamond", "cross")

GREY = "#666666"

TIME_UNITS = ((1e3, "ns", 1.0), (1e6, "µs", 1e3), (1e9, "ms", 1e6), (float("inf"), "s", 1e9))

Value = float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values under one label. ``low`` and ``high`` bound ``y`` where an interval is known, None where it is not.

    Bars stand on 1, as ratios do. A ``rule`` is a thin line that explains the others.
    """

    label: str
    kind: Literal["line", "bars", "points", "rule"]
    x: Sequence[Value]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    color: str = GREY
    marker: str = "circle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One of the small multiples; ``band`` shades what lies within it on the y axis."""

    title: str
    series: tuple[Series, ...]
    band: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot. All panels share their axes; ``x_ticks`` and ``y_ticks`` name values where numbers alone read badly."""

    title: str
    subtitle: str
    x_label: str
    y_label: str
    panels: tuple[Panel, ...]
    x_log: bool = True
    x_ticks: dict[float, str] = field(default_factory=dict)
    y_ticks: dict[float, str] = field(default_factory=dict)

    def labels(self) -> list[str]:
        """What the legend lists, each label once, in the order of the fullest panels."""
        fullest = sorted(self.panels, key=lambda panel: -len(panel.series))
        return list(dict.fromkeys(series.label for panel in fullest for series in panel.series))

    def x_values(self) -> list[float]:
        """Every number on the x axis."""
        return [x for panel in self.panels for s in panel.series for x in s.x if not isinstance(x, str)]

    def y_values(self) -> list[float]:
        """Every number on the y axis: values, bounds, bands, and the 1 that bars stand on."""
        found: list[float] = [1.0] if self.categories() else []
        for panel in self.panels:
            found += panel.band or ()
            for s in panel.series:
                found += [y for y in (*s.y, *s.low, *s.high) if y is not None]
        return found

    def categories(self) -> list[str]:
        """The names on the axis of the bars, sorted."""
        return sorted({str(x) for panel in self.panels for s in panel.series if s.kind == "bars" for x in s.x})


def latency_figure(report: Report) -> Figure:
    """The time of a call against the context: a panel for each runtime and format, a line for each operator.

    Raises:
        BaselineError: nothing is measured.
        UsageError: the rows are of several phases or cache states, which no axis tells apart.
    """
    rows = _measured(report)
    phase, state = _one_of(rows, "phase"), _one_of(rows, "cache_state")
    unit, size = _time_unit(max(m.time.estimate for m in rows if m.time is not None))
    suffixes = _call_suffixes([m.case for m in rows])
    panels = []
    for title, members in _by(rows, lambda m: runtime_label(m.case)).items():
        lines = _by(members, lambda m: _series_label(m.case, suffixes))
        panels.append(Panel(title=title, series=tuple(_time_line(label, line, size) for label, line in lines.items())))
    prefill = phase == "prefill"
    return Figure(
        title=f"Time of a {'prefill' if prefill else 'decode step'}, {_state_text(rows, state)}",
        subtitle=subtitle(report),
        x_label="prompt (tokens)" if prefill else "context (tokens)",
        y_label=f"p50 of a call, 95 % interval ({unit})",
        panels=tuple(panels),
        x_ticks=token_ticks(m.case.kv_len for m in rows),
    )


def _time_line(label: str, rows: list[Measurement], size: float) -> Series:
    ordered = [m for m in sorted(rows, key=lambda m: m.case.kv_len) if m.time is not None]
    bounds = [m.time.bounds if m.time is not None and m.time.bounds else (None, None) for m in ordered]
    op = ordered[0].case.op
    return Series(
        label=label,
        kind="line",
        x=[m.case.kv_len for m in ordered],
        y=[m.time.estimate / size for m in ordered if m.time is not None],
        low=[None if low is None else low / size for low, _ in bounds],
        high=[None if high is None else high / size for _, high in bounds],
        color=op_color(op),
        marker=op_marker(op),
    )


def state_figure(specs: Sequence[OperatorSpec], kv_lens: Sequence[int], kv_dtypes: Sequence[str]) -> Figure:
    """Bytes of state against the context, from the operators' own formulas. Those that carry none have no line.

    Raises:
        UsageError: no operator carries state.
    """
    series = []
    stateless = []
    for spec in specs:
        for kv_dtype in kv_dtypes:
            y = [spec.state_bytes(batch=1, kv_len=n, kv_dtype=kv_dtype) for n in kv_lens]
            label = _spec_label(spec, specs) + (f", KV {kv_dtype}" if len(kv_dtypes) > 1 else "")
            if not all(y):
                stateless.append(label)
                continue
            op = spec.name
            series.append(
                Series(label=label, kind="line", x=list(kv_lens), y=y, color=op_color(op), marker=op_marker(op))
            )
    if not series:
        raise UsageError(f"--op: {', '.join(stateless)} carry no state; choose short_conv, swa or gqa")
    formats = f", KV {kv_dtypes[0]}" if len(kv_dtypes) == 1 else ""
    none = f"; no state: {', '.join(stateless)}" if stateless else ""
    return Figure(
        title="State that a layer carries from token to token",
        subtitle=f"counted from the dimensions, not measured; batch 1{formats}{none}",
        x_label="context (tokens)",
        y_label="state (bytes)",
        panels=(Panel(title="", series=tuple(series)),),
        x_ticks=token_ticks(kv_lens),
        y_ticks=byte_ticks(series),
    )


def byte_ticks(series: Sequence[Series]) -> dict[float, str]:
    """Powers of four between the series' bytes, named."""
    highest, lowest = max(max(s.y) for s in series), min(min(s.y) for s in series)
    return {float(4**n): format_bytes(4**n) for n in range(40) if lowest / 4 <= 4**n <= 4 * highest}


def ratio_figure(report: Report) -> Figure:
    """The ratio of each operator to the short convolution: a panel for each context, bars by runtime and format.

    Raises:
        BaselineError: no row has a ratio.
        UsageError: the rows are of several phases or cache states.
    """
    rows = _in_order(m for m in report.measurements if m.ratio is not None and m.case.op != BASELINE_OP)
    if not rows:
        raise BaselineError("nothing to draw: no operator was measured beside short_conv; run edgeprof bench")
    phase, state = _one_of(rows, "phase"), _one_of(rows, "cache_state")
    suffixes = _call_suffixes([m.case for m in rows])
    floor = report.noise_floor.pooled if report.noise_floor is not None else None
    panels = []
    by_context = sorted(rows, key=lambda m: m.case.kv_len)
    for title, members in _by(by_context, lambda m: f"{phase} at {format_tokens(m.case.kv_len)}").items():
        bars = _by(members, lambda m: _series_label(m.case, suffixes))
        band = None if floor is None else (max(1 - floor, 0.01), 1 + floor)
        panels.append(
            Panel(title=title, series=tuple(_ratio_bars(label, bar) for label, bar in bars.items()), band=band)
        )
    return Figure(
        title=f"Time over short_conv's, {_state_text(rows, state)}",
        subtitle=subtitle(report) + ("; grey: within the noise floor" if floor is not None else ""),
        x_label="runtime and weight format",
        y_label="ratio to short_conv, 95 % interval",
        panels=tuple(panels),
        x_log=False,
        y_ticks=_ratio_ticks(rows),
    )


def _ratio_bars(label: str, rows: list[Measurement]) -> Series:
    bounds = [m.ratio.bounds if m.ratio is not None and m.ratio.bounds else (None, None) for m in rows]
    return Series(
        label=label,
        kind="bars",
        x=[runtime_label(m.case) for m in rows],
        y=[m.ratio.estimate for m in rows if m.ratio is not None],
        low=[low for low, _ in bounds],
        high=[high for _, high in bounds],
        color=op_color(rows[0].case.op),
    )


def _ratio_ticks(rows: list[Measurement]) -> dict[float, str]:
    values = [v for m in rows if m.ratio is not None for v in (m.ratio.estimate, *(m.ratio.bounds or ()))]
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    return {tick: f"{tick:g}x" for tick in ticks if min(values) / 2 <= tick <= 2 * max(values) or tick == 1}


def roofline_figure(report: Report) -> Figure:
    """Achieved FLOP/s against arithmetic intensity under the device's measured roofs, by runtime, format and threads.

    Shows what must come from memory: streaming decode, and prefill. Intensity is FLOPs over the bytes that a call must move
    at least once.

    Source: Williams, Waterman, Patterson: Roofline, CACM 52 (2009).

    Raises:
        BaselineError: there is no roof, or no such row.
    """
    rows = _in_order(m for m in report.measurements if m.roof_share is not None and _intensity(m.case) > 0)
    if not rows:
        raise BaselineError("nothing to draw: no streaming or prefill row and a roof of its device; run edgeprof bench")
    many_threads = len({m.case.n_threads for m in rows}) > 1
    panels = []
    for title, members in _by(rows, lambda m: _roof_title(m.case, many_threads)).items():
        case = members[0].case
        reach = [_intensity(m.case) for m in rows]
        roof = _roof_line(report.roofs[case.n_threads], COMPUTE_DTYPE[case.dtype], min(reach) / 2, max(reach) * 2)
        points = _by(members, lambda m: f"{op_label(m.case)} {m.case.phase}")
        panels.append(Panel(title=title, series=(roof, *(_roof_points(n, p) for n, p in points.items()))))
    return Figure(
        title="Roofline: streaming decode and prefill",
        subtitle=subtitle(report),
        x_label="arithmetic intensity (FLOP/byte)",
        y_label="achieved (GFLOP/s)",
        panels=tuple(panels),
    )


def _roof_title(case: BenchCase, many_threads: bool) -> str:
    return runtime_label(case) + (f", {case.n_threads} threads" if many_threads else "")


def _roof_line(roof: Roof, dtype: str, low: float, high: float) -> Series:
    """The slope of the memory roof up to the ridge, and the flat compute roof behind it, in GFLOP/s."""
    peak, read = roof.flops_per_s[dtype], roof.bytes_per_s
    ridge = peak / read
    low, high = min(low, ridge / 2), max(high, ridge * 2)
    return Series(
        label="measured roof",
        kind="rule",
        x=[low, ridge, high],
        y=[low * read / 1e9, peak / 1e9, peak / 1e9],
    )


def _roof_points(label: str, rows: list[Measurement]) -> Series:
    times = [(m, m.time) for m in rows if m.time is not None]
    flops = [_flops(m.case) for m, _ in times]
    bounds = [t.bounds or (None, None) for _, t in times]
    case = rows[0].case
    return Series(
        label=label,
        kind="points",
        x=[_intensity(m.case) for m, _ in times],
        y=[f / t.estimate for f, (_, t) in zip(flops, times, strict=True)],  # FLOP/ns is GFLOP/s
        low=[None if high is None else f / high for f, (_, high) in zip(flops, bounds, strict=True)],
        high=[None if low is None else f / low for f, (low, _) in zip(flops, bounds, strict=True)],
        color=op_color(case.op),
        marker="circle" if case.phase == "decode" else "square",
    )


def _flops(case: BenchCase) -> int:
    return make_spec(case.op, case.dims).flops(batch=case.batch, q_len=case.q_len, kv_len=case.kv_len)


def _intensity(case: BenchCase) -> float:
    """FLOPs for each byte that the call must move."""
    moved = make_spec(case.op, case.dims).bytes_moved(
        batch=case.batch, q_len=case.q_len, kv_len=case.kv_len, dtype=case.dtype, kv_dtype=case.kv_dtype
    )
    return _flops(case) / moved


def subtitle(report: Report) -> str:
    """The device, and what its figures are worth."""
    floor = report.noise_floor
    noise = "unknown (too few rounds)" if floor is None else f"{floor.pooled:.1%}"
    return f"{report.device_id}; A/A noise floor {noise}"


def op_color(op: str) -> str:
    """The colour of an operator, the same in every plot."""
    return PALETTE[list(OPERATORS).index(op) % len(PALETTE)]


def op_marker(op: str) -> str:
    """The marker of an operator, so that lines can be told apart without colour."""
    return MARKERS[list(OPERATORS).index(op) % len(MARKERS)]


def _measured(report: Report) -> list[Measurement]:
    rows = _in_order(m for m in report.measurements if m.time is not None)
    if not rows:
        raise BaselineError("nothing to draw: no measured row matches; see edgeprof results, or run edgeprof bench")
    return rows


def _in_order(rows: Iterable[Measurement]) -> list[Measurement]:
    """Rows as panels and legends list them: by runtime and format, then by operator, then along the axis."""
    return sorted(
        rows, key=lambda m: (runtime_label(m.case), list(OPERATORS).index(m.case.op), m.case.phase, m.case.kv_len)
    )


def _one_of(rows: list[Measurement], name: str) -> str:
    """The one value that the rows have of a field.

    Raises:
        UsageError: they have several.
    """
    values = sorted({str(getattr(m.case, name)) for m in rows})
    if len(values) > 1:
        raise UsageError(f"--{name.replace('_', '-')}: this plot shows one at a time; choose {' or '.join(values)}")
    return values[0]


def _by(rows: list[Measurement], key: Callable[[Measurement], str]) -> dict[str, list[Measurement]]:
    groups: dict[str, list[Measurement]] = {}
    for m in rows:
        groups.setdefault(key(m), []).append(m)
    return groups


def _call_suffixes(cases: list[BenchCase]) -> dict[str, Callable[[BenchCase], str]]:
    """What the labels of lines must tell besides the operator: every field of the call that varies between cases."""
    texts: dict[str, Callable[[BenchCase], str]] = {
        "batch": lambda c: f"batch {c.batch}",
        "n_threads": lambda c: f"{c.n_threads} thread{'s' if c.n_threads > 1 else ''}",
        "new": lambda c: f"{c.q_len} new" if c.phase == "decode" else f"onto {c.past_len}" if c.past_len else "",
        "ring": lambda c: f"ring {format_bytes(c.ring_bytes)}" if c.ring_bytes else "",
    }
    varying = {name: text for name, text in texts.items() if len({text(c) for c in cases}) > 1}
    names = {name for c in cases for name in c.dims if _differs(name, [o for o in cases if op_label(o) == op_label(c)])}
    for name in sorted(names):
        varying[name] = functools.partial(_dim_text, name)
    return varying


def _differs(name: str, cases: list[BenchCase]) -> bool:
    return len({c.dims.get(name) for c in cases}) > 1


def _dim_text(name: str, case: BenchCase) -> str:
    if name not in case.dims:
        return ""
    value = case.dims[name]
    return f"{name} {short_hash(value)[:4] if isinstance(value, str) else value}"


def _series_label(case: BenchCase, suffixes: dict[str, Callable[[BenchCase], str]]) -> str:
    return ", ".join([op_label(case), *(text for make in suffixes.values() if (text := make(case)))])


def _spec_label(spec: OperatorSpec, specs: Sequence[OperatorSpec]) -> str:
    """The operator with the dimensions in which it differs from others of its kind."""
    label = dims_label(spec.name, spec.dims())
    kin = [s.dims() for s in specs if dims_label(s.name, s.dims()) == label]
    varying = [f"{name} {value}" for name, value in spec.dims().items() if any(d.get(name) != value for d in kin)]
    return ", ".join([label, *varying])


def _state_text(rows: list[Measurement], state: str) -> str:
    if state == "hot":
        return "hot weights"
    if rows[0].case.phase == "prefill":
        return "in a ring of all operators"
    rings = {m.case.ring_bytes for m in rows}
    return "streaming" + (f" (ring of {format_bytes(rings.pop() or 0)})" if len(rings) == 1 else "")


def token_ticks(kv_lens: Iterable[int]) -> dict[float, str]:
    """Contexts as an axis names them."""
    return {float(n): format_tokens(n) for n in sorted(set(kv_lens))}


def _time_unit(longest_ns: float) -> tuple[str, float]:
    return next((unit, size) for limit, unit, size in TIME_UNITS if longest_ns < limit)
