"""Peak memory of a whole model from what its cells' probes saw."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeprof.core.types import BenchCase, InstanceRecord
from edgeprof.operators.registry import make_spec
from edgeprof.predict.evidence import Evidence
from edgeprof.predict.history import ErrorModel
from edgeprof.predict.plan import CellCount, cells
from edgeprof.predict.types import Estimate, ModelCall, PeakPrediction, Target
from edgeprof.runtimes.artifact import artifact_spec
from edgeprof.stats.intervals import exp_bounds

GRAIN_BYTES = 6 * 2**20
"""What a prediction may be off by whatever the size: heaps grow in steps, and code is paged in as it runs."""

TELLING_BYTES = 8 * GRAIN_BYTES
"""Verified peaks below this are decided by the grain, and say nothing of how cells add up."""

SHARED_TABLE_DTYPES = ("fp32", "bf16")
"""Formats in which a tied projection is the embedding's own table; in 4 bits each of the two has a packing of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes that a loaded cell keeps, what its calls need beside it, and what its loading needed on top for a while.

    What a call needs beside weights and state (activations, a runtime's arena) is used by one layer after another. Code is
    paged in once, however many cells run it.
    """

    kept: float
    shared: float
    passing: float
    code: float


def predict_peak(target: Target, calls: Sequence[ModelCall], evidence: Evidence, errors: ErrorModel) -> PeakPrediction:
    """The largest of the calls' peaks, or what is missing.

    A peak is what all cells keep, the most that one of them needs beside it, and the code: of the embedding, of one block,
    of the head.
    """
    peaks: list[float] = []
    missing: list[BenchCase] = []
    for call in calls:
        total, most = 0.0, 0.0
        code: dict[str, float] = defaultdict(float)
        for cell in cells(target, call):
            found = footprint_of(evidence, cell.case)
            if found is None:
                missing.append(cell.case)
                continue
            footprint = _in_model(target, cell, found)
            total += cell.count * footprint.kept
            most = max(most, footprint.shared + footprint.passing)
            code[cell.case.op] = max(code[cell.case.op], footprint.code)
        peaks.append(total + most + sum(code.values()))
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
    """A cell's footprint at its context.

    What the prefill of a block or a pair keeps beyond its decode, state apart, is what the call needs beside weights and
    state; rows of an embedding's table that a prompt has touched stay.
    """
    found = _without_state(evidence, case)
    if found is None:
        return None
    if case.phase == "prefill" and case.op in ("block", "pair"):
        of_decode = _without_state(evidence, replace(case, phase="decode", q_len=1))
        kept = found.kept if of_decode is None else min(found.kept, of_decode.kept)
        found = replace(found, kept=kept, shared=found.shared + found.kept - kept)
    return replace(found, kept=found.kept + _state_bytes(case))


def _without_state(evidence: Evidence, case: BenchCase) -> Footprint | None:
    """From the probed context that keeps least beside its state: state is known exactly, and is that of any other context.

    What grows with the context besides (tables of RoPE, which layers share) is left out with it.
    """
    found = []
    for kv_len in evidence.contexts(case):
        there = replace(case, kv_len=kv_len)
        state = _state_bytes(there)
        probed = _probed(evidence.probes(there), state)
        if probed is not None:
            found.append(replace(probed, kept=probed.kept - state))
    return min(found, key=lambda f: f.kept, default=None)


def _state_bytes(case: BenchCase) -> int:
    """State as it is allocated: for the context, or for the artifact's capacity where it has one."""
    rows = max(case.kv_len, artifact_spec(case).capacity)
    return make_spec(case.op, case.dims).state_bytes(batch=case.batch, kv_len=rows, kv_dtype=case.kv_dtype)


def _probed(probes: Sequence[InstanceRecord], state: int) -> Footprint | None:
    """The median over probes; None where no probe could tell all of its parts.

    A planned arena holds the state and, beside it, what the layers of a model share.
    """
    seen = []
    for probe in probes:
        memory = probe.memory
        if memory is None:
            continue
        anon, file, peak = memory.anon_delta_bytes, memory.file_delta_bytes, memory.peak_rss_delta_bytes
        if anon is not None and file is not None and peak is not None:
            code = max(0, memory.code_delta_bytes or 0)
            shared = min(max(0, (probe.arena_bytes or 0) - state), max(0, anon))
            seen.append((anon + file - code - shared, shared, max(0, peak - anon - file), code))
    if not seen:
        return None
    kept, shared, passing, code = (statistics.median(values) for values in zip(*seen, strict=True))
    return Footprint(kept=kept, shared=shared, passing=passing, code=code)
