"""Peak memory of a whole model from what its cells' probes saw."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeprof.core.types import BenchCase, InstanceRecord
from edgeprof.operators.registry import make_spec
from edgeprof.predict.evidence import Evidence
from edgeprof.predict.history import ErrorModel
from edgeprof.predict.plan import CellCount, cells
from edgeprof.predict.types import Estimate, ModelCall, PeakPrediction, Target
from edgeprof.stats.intervals import exp_bounds

GRAIN_BYTES = 6 * 2**20
"""What a prediction may be off by whatever the size: heaps grow by huge pages of 2 MiB, and code is paged in as it runs."""

TELLING_BYTES = 8 * GRAIN_BYTES
"""Verified peaks below this are decided by the grain, and say nothing of how cells add up."""

SHARED_TABLE_DTYPES = ("fp32", "bf16")
"""Formats in which a tied projection is the embedding's own table; in 4 bits each of the two has a packing of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes that a loaded cell keeps, what its calls need beside it, and what its loading needed on top for a while.

    What a call needs beside weights and state (activations, a runtime's arena) is used by one layer after another.
    """

    kept: float
    shared: float
    passing: float


def predict_peak(target: Target, calls: Sequence[ModelCall], evidence: Evidence, errors: ErrorModel) -> PeakPrediction:
    """The largest of the calls' peaks: what all cells keep, and the most that one needs beside it; or what is missing."""
    peaks: list[float] = []
    missing: list[BenchCase] = []
    for call in calls:
        total, most = 0.0, 0.0
        for cell in cells(target, call):
            found = footprint_of(evidence, cell.case)
            if found is None:
                missing.append(cell.case)
                continue
            footprint = _in_model(target, cell, found)
            total += cell.count * footprint.kept
            most = max(most, footprint.shared + footprint.passing)
        peaks.append(total + most)
    if missing:
        return PeakPrediction(bytes=None, missing=tuple(missing))
    plain = max(1.0, *peaks)
    value = plain * math.exp(errors.shift)
    lo, hi = exp_bounds(math.log(value), errors.half)
    return PeakPrediction(
        bytes=Estimate(
            value=value,
            lo=max(value / 10, value - math.hypot(value - lo, GRAIN_BYTES)),
            hi=value + math.hypot(hi - value, GRAIN_BYTES),
        ),
        uncorrected_bytes=plain,
        verified_rows=errors.n_rows,
        verified_models=errors.n_models,
    )


def _in_model(target: Target, cell: CellCount, alone: Footprint) -> Footprint:
    """A cell's footprint inside the model: a tied projection is made from the embedding's table, which is there anyway."""
    if not target.config.tied or target.dtype not in SHARED_TABLE_DTYPES:
        return alone
    if cell.label == "head":
        return replace(alone, passing=0.0)
    if cell.label == "embedding":
        table = make_spec(cell.case.op, cell.case.dims).weight_bytes(target.dtype)
        return replace(alone, kept=max(alone.kept, table))
    return alone


def footprint_of(evidence: Evidence, case: BenchCase) -> Footprint | None:
    """A cell's footprint, probed or between probed contexts.

    What a prefill keeps beyond a decode of the same cell is what its call needs beside weights and state.
    """
    found = _at_context(evidence, case)
    if found is None or case.phase == "decode":
        return found
    decode = replace(case, phase="decode", q_len=1)
    contexts = sorted(evidence.contexts(decode), key=lambda k: abs(k - case.kv_len))
    of_decode = next(filter(None, (_probed(evidence.probes(replace(decode, kv_len=k))) for k in contexts)), None)
    kept = found.kept if of_decode is None else min(found.kept, of_decode.kept)
    return Footprint(kept=kept, shared=found.kept - kept, passing=found.passing)


def _at_context(evidence: Evidence, case: BenchCase) -> Footprint | None:
    """Probed, or linear between the nearest contexts that were: state grows linearly with the context."""
    here = _probed(evidence.probes(case))
    if here is not None or case.kv_len == case.q_len:
        return here
    known = {
        kv_len: found
        for kv_len in evidence.contexts(case)
        if kv_len > case.q_len and (found := _probed(evidence.probes(replace(case, kv_len=kv_len)))) is not None
    }
    low = max((k for k in known if k < case.kv_len), default=None)
    high = min((k for k in known if k > case.kv_len), default=None)
    if low is None or high is None:
        return None
    share = (case.kv_len - low) / (high - low)
    return Footprint(
        kept=(1 - share) * known[low].kept + share * known[high].kept,
        shared=0.0,
        passing=max(known[low].passing, known[high].passing),
    )


def _probed(probes: Sequence[InstanceRecord]) -> Footprint | None:
    """The median over probes; None where no probe could tell all of its parts."""
    seen = []
    for probe in probes:
        memory = probe.memory
        if memory is None:
            continue
        anon, file, peak = memory.anon_delta_bytes, memory.file_delta_bytes, memory.peak_rss_delta_bytes
        if anon is not None and file is not None and peak is not None:
            seen.append((anon + file, max(0, peak - anon - file)))
    if not seen:
        return None
    return Footprint(
        kept=statistics.median(k for k, _ in seen), shared=0.0, passing=statistics.median(p for _, p in seen)
    )
