"""The table of a report and the sentences under it."""

from typing import TYPE_CHECKING

from edgeprof.bench.report import BASELINE_OP, MIN_DRIFT_SESSIONS, Measurement, Report
from edgeprof.core.types import BenchCase
from edgeprof.core.units import format_bytes
from edgeprof.models.block import BlockSpec
from edgeprof.models.composite import composite_ops
from edgeprof.models.model import ModelSpec
from edgeprof.models.pair import PairSpec
from edgeprof.operators.base import Dims, OperatorSpec
from edgeprof.operators.registry import make_spec
from edgeprof.stats.ratios import different

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = "op runtime time tok/s vs_short_conv state peak_RSS roof notes"
NUMBERS = "time tok/s state peak_RSS roof"

MAX_PATTERN = 24
"""Mixers of a model that a label spells out."""


def print_report(report: Report) -> None:
    """Prints one table for each phase, shape and cache state, and what the figures show."""
    from edgeprof.cli.output import print_table, stdout_console

    for table in report_tables(report):
        print_table(table)
    console = stdout_console()
    for line in sentences(report):
        console.print(line, soft_wrap=True)


def report_tables(report: Report) -> "list[Table]":
    """One table for each phase, shape, thread count and cache state, in the order of the measurements."""
    from edgeprof.cli.output import make_table

    tables = []
    for title, rows in grouped(report).items():
        table = make_table(title, COLUMNS, right=NUMBERS)
        for m in rows:
            table.add_row(*row_cells(m, report))
        if report.noise_floor is not None:
            table.caption = f"A/A noise floor {report.noise_floor.pooled:.1%}"
            table.caption_justify = "left"
        tables.append(table)
    return tables


def grouped(report: Report) -> dict[str, list[Measurement]]:
    """The rows of each table by its title: tables in the order of the measurements, rows by runtime and format."""
    groups: dict[str, list[Measurement]] = {}
    for m in report.measurements:
        groups.setdefault(group_title(m.case), []).append(m)
    return {
        title: sorted(rows, key=lambda m: (m.case.runtime, m.case.dtype, m.case.kv_dtype))
        for title, rows in groups.items()
    }


def group_title(case: BenchCase) -> str:
    """What the rows of a table have in common."""
    threads = f"{case.n_threads} thread{'s' if case.n_threads > 1 else ''}"
    batch = f", batch {case.batch}" if case.batch > 1 else ""
    if case.phase == "prefill":
        past = f" onto {case.past_len}" if case.past_len else ""
        shape = f"prefill of {case.q_len} tokens{past}"
    else:
        shape = (
            f"decode of {case.q_len} at context {case.kv_len}" if case.q_len > 1 else f"decode at context {case.kv_len}"
        )
    state = "hot weights" if case.cache_state == "hot" else f"streaming, ring of {format_bytes(case.ring_bytes or 0)}"
    if case.phase == "prefill" and case.cache_state == "streaming" and case.op not in composite_ops():
        state = "in a ring of all operators"
    return f"{shape}{batch}, {threads}, {state}"


def row_cells(m: Measurement, report: Report) -> list[str]:
    """One row, as text."""
    start = [op_label(m.case), runtime_label(m.case)]
    if m.time is None:
        return [*start, *["-"] * 6, f"{m.status}: {m.reason}"]
    memory = m.probe.memory if m.probe is not None else None
    peak = None if memory is None else memory.peak_rss_delta_bytes
    return [
        *start,
        f"{duration(m.time.estimate)} {spread(m)}",
        f"{m.tokens_per_s:,.0f}",
        ratio_cell(m, report),
        format_bytes(m.state_bytes),
        "-" if peak is None else format_bytes(peak),
        "-" if m.roof_share is None else f"{m.roof_share:.0%}",
        notes(m),
    ]


def runtime_label(case: BenchCase) -> str:
    """The runtime with its formats; a cache that goes without saying is not said."""
    usual = "bf16" if case.dtype == "bf16" else "fp32"
    kv = "" if case.kv_dtype == usual else f" KV {case.kv_dtype}"
    return f"{case.runtime} {case.dtype}{kv}"


def notes(m: Measurement) -> str:
    """What a reader must know about a row: that it never settled, that a backend did not take all of it."""
    said = [] if m.stable else ["unstable"]
    share = m.probe.delegated_share if m.probe is not None else None
    if share is not None:
        said.append(f"{share:.0%} delegated")
    return ", ".join(said)


def op_label(case: BenchCase) -> str:
    """The operator with the dimension that tells it from others of its kind."""
    return dims_label(case.op, case.dims)


def dims_label(op: str, dims: Dims) -> str:
    """Likewise, of an operator that has no case; a block shows its parts, a model its pattern of mixers."""
    if op in composite_ops():
        spec = make_spec(op, dims)
        return f"{_parts_label(spec)} d{spec.width()}"
    name = TELLING_DIMS.get(op)
    return op if name is None else f"{op} {name.split('_')[0][0]}{dims[name]}"


TELLING_DIMS = {
    "short_conv": "kernel_size",
    "swa": "window",
    "swiglu": "d_ff",
    "geglu": "d_ff",
    "head": "vocab",
    "embedding": "vocab",
}
"""The dimension that tells an operator from others of its kind."""


def _parts_label(spec: OperatorSpec) -> str:
    if isinstance(spec, BlockSpec):
        return f"{spec.mixer.name}+{spec.ffn.name}"
    if isinstance(spec, PairSpec):
        return " > ".join(map(_parts_label, spec.blocks()))
    assert isinstance(spec, ModelSpec)
    pattern = spec.arch.pattern
    return pattern if len(pattern) <= MAX_PATTERN else f"{pattern[:MAX_PATTERN]}...({len(pattern)})"


def duration(ns: float) -> str:
    """Nanoseconds with three significant digits in the unit that suits."""
    for limit, unit, size in ((1e3, "ns", 1.0), (1e6, "µs", 1e3), (1e9, "ms", 1e6)):
        if ns < limit:
            return f"{ns / size:.3g} {unit}" if ns / size < 100 else f"{ns / size:.0f} {unit}"
    return f"{ns / 1e9:.3g} s"


def spread(m: Measurement) -> str:
    """Half of the 95 % interval's width, in per cent of the estimate."""
    width = None if m.time is None else m.time.relative_width
    return "± ?" if width is None else f"± {100 * width / 2:.1f} %"


def ratio_cell(m: Measurement, report: Report) -> str:
    """The ratio to the short convolution with its interval; "=" marks one that cannot be told from 1 in this noise."""
    if m.case.op == BASELINE_OP:
        return "1"
    if m.ratio is None:
        return "-"
    if m.ratio.bounds is None:
        return f"{m.ratio.estimate:.2f}x"
    low, high = m.ratio.bounds
    floor = report.noise_floor.pooled if report.noise_floor else 0.0
    mark = "" if different(m.ratio, floor) else " ="
    return f"{m.ratio.estimate:.2f}x [{low:.2f}, {high:.2f}]{mark}"


def sentences(report: Report) -> list[str]:
    """What the figures are worth and what they show."""
    measured = [m for m in report.measurements if m.time is not None]
    lines = []
    known = report.drift.n_sessions >= MIN_DRIFT_SESSIONS
    drift = (
        f"{report.drift.sd:.1%}, part of every interval" if known else f"unknown before {MIN_DRIFT_SESSIONS} are stored"
    )
    if report.noise_floor is not None:
        lines.append(
            f"A/A noise floor of this device: {report.noise_floor.pooled:.1%} (95 % of cells measured against themselves come "
            f"closer than that to 1). Drift of the host between sessions: {drift}. "
            f"{sum(len(m.instances) for m in measured)} loads in {len(measured)} rows; ± is half of the 95 % interval of p50."
        )
    else:
        lines.append("Too few rounds to measure this device's A/A noise floor; no two rows can be called different.")
    lines += [line for op in ("swa", "gqa") for line in comparison(report, op)]
    unstable = sum(m.stable is False for m in measured)
    if unstable:
        lines.append(f"{unstable} rows never settled: read them with care, or measure again on a quieter machine.")
    return lines


def comparison(report: Report, op: str) -> list[str]:
    """How an operator compares with the short convolution, over all runtimes and precisions, by phase and context."""
    floor = report.noise_floor.pooled if report.noise_floor else 0.0
    groups: dict[str, list[Measurement]] = {}
    for m in report.measurements:
        if m.case.op == op and m.ratio is not None and m.case.cache_state == "streaming":
            groups.setdefault(f"{m.case.phase} at {m.case.kv_len}", []).append(m)
    lines = []
    for where, rows in groups.items():
        ordered = sorted((m for m in rows if m.ratio is not None), key=lambda m: m.ratio.estimate if m.ratio else 0.0)
        low, high = ordered[0], ordered[-1]
        assert low.ratio is not None
        assert high.ratio is not None
        told = sum(m.ratio is not None and different(m.ratio, floor) for m in ordered)
        span = (
            f"{low.ratio.estimate:.2f}x ({low.case.runtime} {low.case.dtype}) to "
            f"{high.ratio.estimate:.2f}x ({high.case.runtime} {high.case.dtype})"
            if len(ordered) > 1
            else f"{low.ratio.estimate:.2f}x ({low.case.runtime} {low.case.dtype})"
        )
        lines.append(
            f"{where}, streaming: {op} takes {span} the time of short_conv; {told} of {len(ordered)} differ beyond the noise."
        )
    return lines
