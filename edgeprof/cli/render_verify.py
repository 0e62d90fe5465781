"""What ``edgeprof verify`` prints: predicted beside measured, and how good predictions are over all rows."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprof.predict.neighbours import PairResult
    from edgeprof.predict.types import TermError, VerifyRow
    from edgeprof.predict.verify import Failure

COLUMNS = "config pattern runtime dtype call cells predicted interval measured ci95 error A/A covered"
NUMBERS = "predicted measured error A/A"
MEMORY_COLUMNS = "config pattern runtime dtype call predicted interval measured error covered"

P90_FROM = 10
"""Rows from which the 90th percentile of their errors is told; of fewer, the largest error is."""

TAU_FROM = 3
"""Models from which their ranking is told."""


def rows_json(
    device: str, rows: "Sequence[VerifyRow]", failed: "Sequence[Failure]", pairs: "Sequence[PairResult]" = ()
) -> dict[str, Any]:
    """The rows and what they show together; a call that failed is a row whose times are null.

    ``terms`` and ``blame`` are null where the model was not traced; ``neighbours`` are the pairs measured in this run.
    """
    from dataclasses import asdict

    measured = [
        {"status": "ok", "reason": None} | asdict(row) | {"covered": row.covered, "inconclusive": row.inconclusive}
        for row in rows
    ]
    return {
        "device": device,
        "rows": measured + [_failure_json(f) for f in failed],
        "summary": summary(rows),
        "neighbours": [_pair_json(pair) for pair in pairs],
    }


def _pair_json(result: "PairResult") -> dict[str, Any]:
    from edgeprof.predict.plan import cell_label

    target, call, effect = result.target, result.call, result.effect
    return {
        "label": cell_label(result.pair),
        "runtime": target.runtime,
        "dtype": target.dtype,
        "kv_dtype": target.kv_dtype,
        "n_threads": target.n_threads,
        "phase": call.phase,
        "q_len": call.q_len,
        "context": call.kv_len,
        "ratio": None if effect is None else effect.ratio,
        "ci95": None if effect is None else effect.ci95,
        "is_term": result.is_term,
        "reason": result.reason,
    }


def _failure_json(failure: "Failure") -> dict[str, Any]:
    status, _, reason = failure.reason.partition(": ")
    target, call = failure.target, failure.call
    unknown = ("predicted_ns", "lo_ns", "hi_ns", "measured_ns", "measured_ci95_ns", "signed_error", "aa_spread")
    return {
        "status": status,
        "reason": reason,
        "config": target.config.name,
        "pattern": target.config.pattern,
        "runtime": target.runtime,
        "dtype": target.dtype,
        "kv_dtype": target.kv_dtype,
        "n_threads": target.n_threads,
        "phase": call.phase,
        "q_len": call.q_len,
        "context": call.kv_len,
        "paired": None,
        "covered": None,
        "terms": None,
        "blame": None,
        **dict.fromkeys(unknown),
    }


def summary(rows: "Sequence[VerifyRow]") -> list[dict[str, Any]]:
    """What the rows of each runtime, format, phase and kind show together."""
    import numpy as np

    found = []
    for key, same in grouped(rows, lambda r: (r.runtime, r.dtype, r.kv_dtype, r.n_threads, r.phase, r.paired)).items():
        errors = [abs(row.signed_error) for row in same]
        spreads = [row.aa_spread for row in same if row.aa_spread is not None]
        names = ("runtime", "dtype", "kv_dtype", "n_threads", "phase", "paired")
        found.append(
            dict(zip(names, key, strict=True))
            | {
                "n_rows": len(same),
                "n_models": len({row.config_hash for row in same}),
                "error_p50": float(np.median(errors)),
                "error_p90": float(np.quantile(errors, 0.9)) if len(errors) >= P90_FROM else None,
                "error_max": max(errors),
                "aa_spread_p50": float(np.median(spreads)) if spreads else None,
                "coverage": sum(row.covered for row in same) / len(same),
                "relative_width_p50": float(np.median([(r.hi_ns - r.lo_ns) / r.predicted_ns for r in same])),
                "kendall_tau": mean_tau(same),
            }
        )
    return found


def grouped(rows: "Sequence[VerifyRow]", key: Any) -> "dict[tuple[Any, ...], list[VerifyRow]]":
    """The rows by ``key``, in the order of their first."""
    groups: dict[tuple[Any, ...], list[VerifyRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def mean_tau(rows: "Sequence[VerifyRow]") -> float | None:
    """Kendall's tau-b of predicted with measured over the models, averaged over calls; None of too few models."""
    from scipy import stats

    taus = []
    for same in grouped(rows, lambda r: (r.q_len, r.context)).values():
        last = list({row.config_hash: row for row in same}.values())
        if len(last) >= TAU_FROM:
            taus.append(stats.kendalltau([r.predicted_ns for r in last], [r.measured_ns for r in last]).statistic)
    known = [float(tau) for tau in taus if not math.isnan(tau)]
    return sum(known) / len(known) if known else None


def print_rows(
    device: str, rows: "Sequence[VerifyRow]", failed: "Sequence[Failure]", pairs: "Sequence[PairResult]" = ()
) -> None:
    """Prints times, memory, failures, and the sentences below them."""
    from edgeprof.cli.output import make_table, print_table, stdout_console
    from edgeprof.cli.table import duration
    from edgeprof.core.units import format_bytes

    times, peaks = [r for r in rows if r.phase != "memory"], [r for r in rows if r.phase == "memory"]
    if times:
        table = make_table(f"predicted and measured on {device}", COLUMNS, NUMBERS)
        for row in times:
            interval = f"{duration(row.lo_ns)} to {duration(row.hi_ns)}"
            ci95 = "-" if row.measured_ci95_ns is None else " to ".join(map(duration, row.measured_ci95_ns))
            values = (duration(row.predicted_ns), interval, duration(row.measured_ns), ci95, f"{row.signed_error:+.1%}")
            spread = "-" if row.aa_spread is None else f"{row.aa_spread:.1%}"
            kind = "paired" if row.paired else "stored"
            table.add_row(*_what(row), kind, *values, spread, _verdict(row))
        print_table(table)
    if peaks:
        table = make_table("peak memory", MEMORY_COLUMNS, NUMBERS)
        for row in peaks:
            interval = f"{format_bytes(row.lo_ns)} to {format_bytes(row.hi_ns)}"
            sizes = (
                format_bytes(row.predicted_ns),
                interval,
                format_bytes(row.measured_ns),
                f"{row.signed_error:+.1%}",
            )
            table.add_row(*_what(row), *sizes, _verdict(row))
        print_table(table)
    console = stdout_console()
    for line in (*sentences(rows, failed), *map(pair_sentence, pairs)):
        console.print(line, soft_wrap=True, markup=False)


def _what(row: "VerifyRow") -> tuple[str, ...]:
    """The columns that say which row it is; a name is printed as it is written."""
    from rich.markup import escape

    from edgeprof.bench.plan import default_kv_dtype

    kv = "" if row.kv_dtype == default_kv_dtype(row.dtype) else f"/{row.kv_dtype}"
    threads = "" if row.n_threads == 1 else f", {row.n_threads} threads"
    phase = row.phase if row.phase != "memory" else ("decode" if row.q_len == 1 else "prefill")
    pattern = row.pattern if len(row.pattern) <= 24 else f"{row.pattern[:23]}…"
    return escape(row.config), pattern, row.runtime, f"{row.dtype}{kv}{threads}", f"{phase} {row.q_len}@{row.context}"


def _verdict(row: "VerifyRow") -> str:
    if row.inconclusive:
        return "inconclusive"
    return "yes" if row.covered else "NO"


def sentences(rows: "Sequence[VerifyRow]", failed: "Sequence[Failure]") -> list[str]:
    """What the rows show together, what failed, and what to know about single rows."""
    from edgeprof.cli.render_predict import call_label
    from edgeprof.cli.targets import target_label

    lines = [_summary_line(group) for group in summary(rows)]
    for row in rows:
        name = f"{row.config} {row.runtime} {row.dtype} {row.phase} {row.q_len}@{row.context}"
        lines += [f"warning: {name}: {warning}" for warning in row.warnings]
        if row.inconclusive:
            lines.append(
                f"warning: {name}: two loads of the model differ by {row.aa_spread:.1%}, more than the interval can tell"
            )
        elif not row.covered:
            lines.append(f"warning: {name}: measured outside of the interval, {row.signed_error:+.1%} off")
        if row.terms:
            kind = "" if row.paired else ", from stored cells"
            lines.append(f"{'to blame' if row.off else 'terms'}: {name}{kind}: {blame_sentence(row, row.terms)}")
    lines += [f"failed: {target_label(f.target)}, {call_label(f.call)}: {f.reason}" for f in failed]
    return lines or ["nothing was verified on this device yet: edgeprof verify CONFIG does"]


def blame_sentence(row: "VerifyRow", terms: "Sequence[TermError]") -> str:
    """The term to blame, what was predicted for it and what it took inside the model; without one, the term that is most off.

    Traced times are shares of a traced call, which is slower, times what the model took.
    """
    from edgeprof.cli.table import duration

    worst = max(terms, key=lambda term: term.share_of_error)
    times = "" if worst.count == 1 else f" (x{worst.count})"
    told = (
        f"{worst.label}{times} predicted {duration(max(0.0, worst.predicted_ns))}, inside the model about "
        f"{duration(worst.traced_ns)}: {(worst.predicted_ns - worst.traced_ns) / row.measured_ns:+.1%} of the model's time"
    )
    if not row.off:
        return f"the prediction holds; most off in its direction is {told}"
    if row.blame == worst.label:
        return f"{told}, {worst.share_of_error:.0%} of the error"
    return f"{row.blame}; most off is {told}"


def pair_sentence(result: "PairResult") -> str:
    """What was found of two neighbours."""
    from edgeprof.cli.render_predict import call_label
    from edgeprof.cli.targets import target_label
    from edgeprof.predict.plan import cell_label

    name = f"neighbours: {target_label(result.target)}, {call_label(result.call)}: {cell_label(result.pair)}"
    if result.effect is None:
        return f"{name} was not measured as a pair: {result.reason}"
    lo, hi = result.effect.ci95
    cost = f"costs {result.effect.ratio:.3g} times the sum of its blocks ({lo:.3g} to {hi:.3g})"
    if result.is_term:
        return f"{name} {cost}: not additive, a term of its own from now on; verify again to see what that does"
    return f"{name} {cost}: additive within the noise"


def _summary_line(group: dict[str, Any]) -> str:
    kind = (
        ""
        if group["phase"] == "memory"
        else (" from cells of the same processes" if group["paired"] else " from stored cells")
    )
    threads = "" if group["n_threads"] == 1 else f", {group['n_threads']} threads"
    far = f"p90 {group['error_p90']:.1%}" if group["error_p90"] is not None else f"largest {group['error_max']:.1%}"
    spread = "" if group["aa_spread_p50"] is None else f"; A/A {group['aa_spread_p50']:.1%}"
    tau = "" if group["kendall_tau"] is None else f"; Kendall tau {group['kendall_tau']:.2f}"
    return (
        f"{group['runtime']} {group['dtype']}{threads} {group['phase']}{kind}: |error| p50 {group['error_p50']:.1%}, {far} over "
        f"{group['n_rows']} rows of {group['n_models']} models{spread}; {group['coverage']:.0%} in the interval, whose width is "
        f"{group['relative_width_p50']:.1%}{tau}"
    )
