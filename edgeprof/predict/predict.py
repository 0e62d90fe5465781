"""``predict``: TPOT, TTFT and peak memory of a model on a device, from stored cells, or the cells that are missing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeprof.core.types import BenchCase, InstanceRecord, RingPlan
from edgeprof.predict.estimate import TermCost, add_up, look_up
from edgeprof.predict.evidence import Conditions, Evidence
from edgeprof.predict.history import ErrorModel, error_model
from edgeprof.predict.memory import TELLING_BYTES, predict_peak
from edgeprof.predict.neighbours import Neighbours
from edgeprof.predict.plan import cell_rings, cells, decode_call, prefill_calls, working_set
from edgeprof.predict.types import CallPrediction, ModelCall, Prediction, Target, VerifyRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What predictions on a device rest on: its records, its error history, and which of the records count.

    ``paired`` predictions rest on the very processes that also ran the model. ``without`` is the hash of a config whose own
    verified rows are left out, ``corrected`` whether the history's mean error is corrected for. ``neighbours`` are the pairs
    of blocks that were found there not to be additive.
    """

    device_id: str
    records: Sequence[InstanceRecord]
    history: Sequence[VerifyRow]
    conditions: Conditions
    paired: bool = False
    corrected: bool = True
    without: str | None = None
    neighbours: Sequence[Neighbours] = ()

    def with_pairs(self, target: Target) -> Target:
        """The target with the pairs that are known of its runtime, format and threads."""
        return replace(target, pairs=tuple((n.phase, n.pair) for n in self.neighbours if n.met_in(target)))

    def evidence(self) -> Evidence:
        """The records by cell; worth keeping, as it looks at every record."""
        return Evidence(self.records, self.conditions)

    def errors(self, target: Target, phase: str) -> ErrorModel:
        """The error to expect in a phase, or of peak memory (which has no processes to be paired in)."""
        return error_model(
            [row for row in self.history if row.phase != "memory" or row.measured_ns >= TELLING_BYTES],
            runtime=target.runtime,
            dtype=target.dtype,
            phase=phase,
            paired=self.paired or phase == "memory",
            corrected=self.corrected,
            without=self.without,
        )


def predict(
    target: Target, knowledge: Knowledge, *, context: int, prompt: int | None = None, chunk: int | None = None
) -> Prediction:
    """What the model will take on the device: a token at ``context``, a prompt of ``prompt`` tokens, and memory.

    A missing cell makes its part None; ``rings`` are what would have to be measured. Known pairs of neighbours are cells.
    """
    target = knowledge.with_pairs(target)
    evidence = knowledge.evidence()
    decode = decode_call(context)
    tpot = predict_calls(target, knowledge, evidence, (decode,))
    prefill = prefill_calls(prompt, chunk) if prompt is not None else ()
    ttft = predict_calls(target, knowledge, evidence, prefill) if prefill else None
    peak = predict_peak(target, (decode, *prefill), evidence, knowledge.errors(target, "memory"))
    found = Prediction(target=target, device_id=knowledge.device_id, tpot=tpot, ttft=ttft, peak=peak)
    lacking = {case.key for case in found.missing}
    return replace(found, rings=tuple(_missing_rings(target, (decode, *prefill), lacking)))


def predict_calls(
    target: Target, knowledge: Knowledge, evidence: Evidence, calls: tuple[ModelCall, ...]
) -> CallPrediction:
    """The time of all ``calls`` together; of a prompt's chunks only the last one has a head."""
    costs: list[TermCost] = []
    missing: list[BenchCase] = []
    for call in calls:
        size = working_set(target, call)
        for cell in cells(target, call, with_head=call is calls[-1]):
            cost = look_up(evidence, cell, size)
            if cost is None:
                missing.append(cell.case)
            else:
                costs.append(cost)
    name = "tpot" if calls[0].phase == "decode" else "ttft"
    if missing:
        return CallPrediction(name=name, calls=calls, ns=None, missing=tuple(missing))  # type: ignore[arg-type]
    total = add_up(costs, len(calls))
    errors = knowledge.errors(target, calls[0].phase)
    estimate = total.widened(errors.half, errors.shift)
    return CallPrediction(
        name=name,  # type: ignore[arg-type]
        calls=calls,
        ns=estimate,
        uncorrected_ns=total.ns,
        p90_ns=None if errors.p90_ratio is None else estimate.value * errors.p90_ratio,
        verified_rows=errors.n_rows,
        verified_models=errors.n_models,
        terms=total.terms,
        warnings=total.warnings,
    )


def _missing_rings(target: Target, calls: Sequence[ModelCall], lacking: set[str]) -> list[RingPlan]:
    """The rings of every call that lacks a cell."""
    rings = []
    for call in calls:
        if any(cell.case.key in lacking for cell in cells(target, call)):
            rings += cell_rings(target, call)
    return rings
