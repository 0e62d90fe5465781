"""What ``edgeprof predict`` prints: the figures, the terms they are made of, and what is missing."""

from typing import TYPE_CHECKING, Any

from edgeprof.cli.targets import target_label

if TYPE_CHECKING:
    from edgeprof.cli.predict import Lengths
    from edgeprof.core.types import BenchCase
    from edgeprof.predict.types import CallPrediction, Estimate, ModelCall, PeakPrediction, Prediction, Term

MOST_MISSING = 10
"""Missing cells that are told one by one."""


def prediction_json(found: "Prediction", lengths: "Lengths") -> dict[str, Any]:
    """The prediction as plain data; times in ns, ``ttft_ns`` null where no prompt was asked for."""
    tpot, ttft = found.tpot, found.ttft
    assert tpot.ns is not None
    parts = [part for part in (ttft, tpot) if part is not None]
    return _about(found) | {
        "context": lengths.context,
        "prompt": lengths.prompt,
        "prefill_chunk": lengths.chunk,
        "ttft_ns": None if ttft is None else _call_json(ttft),
        "tpot_ns": _call_json(tpot),
        "tokens_per_s": 1e9 / tpot.ns.value,
        "peak_bytes": _peak_json(found.peak),
        "terms": [_term_json(part, term) for part in parts for term in part.terms],
        "warnings": all_warnings(found),
        "missing": [],
    }


def missing_json(found: "Prediction", command: str) -> dict[str, Any]:
    """What a prediction lacks, and the command that measures it."""
    missing = [{"label": case_label(case), "case_key": case.key, "case": case} for case in found.missing]
    return _about(found) | {"missing": missing, "command": command}


def _about(found: "Prediction") -> dict[str, Any]:
    target = found.target
    return {
        "config": target.config.name,
        "device": found.device_id,
        "runtime": target.runtime,
        "dtype": target.dtype,
        "kv_dtype": target.kv_dtype,
        "n_threads": target.n_threads,
    }


def _call_json(call: "CallPrediction") -> dict[str, Any]:
    assert call.ns is not None
    return _estimate_json(call.ns) | {
        "p90": call.p90_ns,
        "uncorrected": call.uncorrected_ns,
        "verified_rows": call.verified_rows,
        "verified_models": call.verified_models,
    }


def _peak_json(peak: "PeakPrediction") -> dict[str, Any] | None:
    if peak.bytes is None:
        return None
    return _estimate_json(peak.bytes) | {
        "uncorrected": peak.uncorrected_bytes,
        "verified_rows": peak.verified_rows,
        "verified_models": peak.verified_models,
    }


def _estimate_json(estimate: "Estimate") -> dict[str, Any]:
    return {"value": estimate.value, "lo": estimate.lo, "hi": estimate.hi}


def _term_json(part: "CallPrediction", term: "Term") -> dict[str, Any]:
    return {
        "figure": part.name,
        "call": call_label(term.call),
        "label": term.label,
        "case_key": term.case.key,
        "count": term.count,
        "ns": term.ns,
        "total_ns": term.total_ns,
        "how": term.how,
    }


def print_prediction(found: "Prediction", lengths: "Lengths") -> None:
    """Prints the figures, a table of terms for each of them, and what to know about them."""
    from rich.markup import escape

    from edgeprof.cli.output import make_table, print_table, stdout_console

    table = make_table(
        escape(f"{target_label(found.target)} on {found.device_id}"), "figure value 95%_interval p90 rests_on", "value"
    )
    tpot, ttft, peak = found.tpot, found.ttft, found.peak
    table.add_row(f"TPOT at context {lengths.context}", *_time_cells(tpot, per_token=True))
    if ttft is not None:
        chunks = f" in chunks of {lengths.chunk}" if lengths.chunk else ""
        table.add_row(f"TTFT of {lengths.prompt} tokens{chunks}", *_time_cells(ttft))
    table.add_row("peak memory", *_peak_cells(peak))
    print_table(table)
    for part in (tpot, ttft):
        if part is not None:
            _print_terms(part)
    console = stdout_console()
    for line in all_warnings(found):
        console.print(f"warning: {line}", soft_wrap=True)
    if tpot.verified_models == 0:
        console.print(
            "No model was verified in this runtime and format yet: the intervals are what is granted beforehand. "
            "edgeprof verify narrows them.",
            soft_wrap=True,
        )


def _time_cells(part: "CallPrediction", *, per_token: bool = False) -> list[str]:
    from edgeprof.cli.table import duration

    ns = part.ns
    assert ns is not None
    value = f"{duration(ns.value)}, {1e9 / ns.value:,.1f} tok/s" if per_token else duration(ns.value)
    p90 = "-" if part.p90_ns is None else duration(part.p90_ns)
    return [value, f"{duration(ns.lo)} to {duration(ns.hi)}", p90, rests_on(part.verified_rows, part.verified_models)]


def _peak_cells(peak: "PeakPrediction") -> list[str]:
    from edgeprof.core.units import format_bytes

    if peak.bytes is None:
        return ["-"] * 4
    bounds = f"{format_bytes(peak.bytes.lo)} to {format_bytes(peak.bytes.hi)}"
    return [format_bytes(peak.bytes.value), bounds, "-", rests_on(peak.verified_rows, peak.verified_models)]


def rests_on(rows: int, models: int) -> str:
    """How much was verified, in words."""
    return f"{rows} rows of {models} models" if rows else "nothing verified"


def _print_terms(part: "CallPrediction") -> None:
    from edgeprof.cli.output import make_table, print_table
    from edgeprof.cli.table import duration

    assert part.uncorrected_ns is not None
    table = make_table(
        f"{part.name.upper()}: its terms", "cell call count each total share how", "count each total share"
    )
    for term in part.terms:
        share = f"{term.total_ns / part.uncorrected_ns:.1%}"
        cells = (term.label, call_label(term.call), str(term.count), duration(term.ns), duration(term.total_ns), share)
        table.add_row(*cells, term.how)
    rest = part.uncorrected_ns - sum(term.total_ns for term in part.terms)
    table.add_row(
        "call boundary, averaging",
        "",
        str(len(part.calls)),
        "",
        signed_duration(rest),
        f"{rest / part.uncorrected_ns:.1%}",
        "",
    )
    if part.ns is not None and abs(part.ns.value / part.uncorrected_ns - 1) > 1e-9:
        shift = part.ns.value - part.uncorrected_ns
        share = f"{shift / part.uncorrected_ns:.1%}"
        table.add_row("correction", "", "", "", signed_duration(shift), share, "mean error of verified models")
    print_table(table)


def signed_duration(ns: float) -> str:
    """A duration that may be negative."""
    from edgeprof.cli.table import duration

    return f"-{duration(-ns)}" if ns < 0 else duration(ns)


def all_warnings(found: "Prediction") -> list[str]:
    """What to know about every figure, each said once."""
    parts = [part for part in (found.tpot, found.ttft) if part is not None]
    lines = [f"{part.name.upper()}: {warning}" for part in parts for warning in part.warnings]
    if found.peak.bytes is None:
        unknown = ", ".join(case_label(case) for case in found.peak.missing[:1])
        lines.append(
            f"peak memory is unknown: the device could not tell that of {unknown} and of {len(found.peak.missing)} cells in all"
        )
    return lines


def print_missing(found: "Prediction", command: str) -> None:
    """Says on stderr which cells are missing and what measures them."""
    from edgeprof.cli.output import stderr_console

    console = stderr_console()
    missing = found.missing
    console.print(
        f"edgeprof: error: {len(missing)} cells of {target_label(found.target)} are not measured:",
        soft_wrap=True,
        markup=False,
    )
    for case in missing[:MOST_MISSING]:
        console.print(f"  {case_label(case)}", soft_wrap=True, markup=False)
    if len(missing) > MOST_MISSING:
        console.print(f"  and {len(missing) - MOST_MISSING} more")
    console.print(f"this measures them: {command}", soft_wrap=True, markup=False)


def case_label(case: "BenchCase") -> str:
    """A cell in a few words: ``gqa 16/8x64 + swiglu 4608, decode 1@1024``."""
    from edgeprof.operators.registry import make_spec
    from edgeprof.predict.plan import cell_label

    return f"{cell_label(make_spec(case.op, case.dims))}, {case.phase} {case.q_len}@{case.kv_len}"


def call_label(call: "ModelCall") -> str:
    """A call in a few words: ``decode 1@1024``."""
    return f"{call.phase} {call.q_len}@{call.kv_len}"
