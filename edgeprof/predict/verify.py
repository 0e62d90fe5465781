"""``verify``: the whole model measured beside its cells, and what the prediction was off by."""

import datetime
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgeprof.core.canonical import short_hash
from edgeprof.core.types import InstanceRecord, RingPlan
from edgeprof.models.config import config_to_json
from edgeprof.models.model import model_of
from edgeprof.models.pair import PairSpec
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.registry import make_spec
from edgeprof.predict.blame import candidates, scaled_parts, term_errors, to_blame
from edgeprof.predict.evidence import Evidence, Process
from edgeprof.predict.memory import predict_peak
from edgeprof.predict.plan import cell_rings, cells, decode_call, model_case, model_ring, places
from edgeprof.predict.predict import Knowledge, predict_calls
from edgeprof.predict.types import CallPrediction, ModelCall, Target, VerifyRow
from edgeprof.runtimes.trace import OTHER, TraceRun
from edgeprof.stats.intervals import interval
from edgeprof.stats.quantiles import log_median, quantiles

MODEL_LOADS = 2
"""Separate loads of the whole model in a process: their difference is the spread that no prediction can undercut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A whole model's own p50 in ns with its interval, the spread of its loads, and its p90 over its p50.

    ``p90_ratio`` is taken over the samples of all loads, each in units of its load's median, and is None where they are too
    few to know a p90.
    """

    ns: float
    bounds: tuple[float, float] | None
    aa_spread: float | None
    p90_ratio: float | None
    runtime_version: str


def verify_calls(contexts: Sequence[int], prompts: Sequence[int]) -> list[ModelCall]:
    """A decoded token at each context, and each prompt as a single call."""
    prefills = [ModelCall(phase="prefill", q_len=n, kv_len=n) for n in prompts]
    return [*map(decode_call, contexts), *prefills]


def verify_rings(targets: Sequence[Target], calls: Sequence[ModelCall]) -> list[RingPlan]:
    """The whole models and their cells: all of one target's in the same processes."""
    rings: list[RingPlan] = []
    for target in targets:
        group = group_of(target)
        for call in calls:
            rings += [*cell_rings(target, call, group), model_ring(target, call, group, MODEL_LOADS)]
    return rings


def group_of(target: Target) -> str:
    """What names the processes that measure a target."""
    return f"{config_hash(target)}-{target.dtype}-{target.kv_dtype}"


def config_hash(target: Target) -> str:
    """Names what the configuration computes."""
    return short_hash(config_to_json(target.config))


def measured_session(target: Target, calls: Sequence[ModelCall], evidence: Evidence, rounds: int) -> str | None:
    """The last session that measured the whole model and its cells in every call in so many processes, if there is one."""
    complete: list[set[str]] = []
    order: dict[str, None] = {}
    for call in calls:
        for case in (model_case(target, call), *(cell.case for cell in cells(target, call))):
            processes: dict[str, set[int]] = defaultdict(set)
            for record in evidence.loads(case):
                processes[record.session_id].add(record.round)
                order[record.session_id] = None
            complete.append({session for session, seen in processes.items() if len(seen) >= rounds})
    shared = set.intersection(*complete)
    return next((session for session in reversed(order) if session in shared), None)


def verify_rows(
    targets: Sequence[Target],
    calls: Sequence[ModelCall],
    knowledge: Knowledge,
    session_id: str,
    traced: Mapping[str, TraceRun] | None = None,
) -> list[VerifyRow]:
    """A row for each target and call that was measured in the session, paired; and one from earlier cells where there are any.

    Each row's interval comes from the history without the config's own rows. ``traced`` are traces of the whole models, by
    case key: rows that have one say which term is to blame.
    """
    evidence = knowledge.evidence()
    rows: list[VerifyRow] = []
    for target in targets:
        known = replace(knowledge, without=config_hash(target))
        for call in calls:
            run = (traced or {}).get(model_case(target, call).key)
            rows += _rows_of(target, call, known, evidence, session_id, run)
    return rows


def untold(calls: Sequence[ModelCall], rows: Sequence[VerifyRow], *, every: bool) -> list[ModelCall]:
    """The calls to trace: those of which a row is off, or ``every`` one, unless it was traced."""
    wanted = {
        (row.phase, row.q_len, row.context)
        for row in rows
        if row.phase != "memory" and row.terms is None and (every or row.off)
    }
    return [call for call in calls if (call.phase, call.q_len, call.kv_len) in wanted]


def suspects(target: Target, call: ModelCall, rows: Sequence[VerifyRow], run: TraceRun) -> list[PairSpec]:
    """Pairs of neighbours whose cells are worth measuring after a trace; those that are known already are not."""
    if not run.traces:
        return []
    blamed = next((row.blame for row in rows_of_call(rows, call) if row.off), None)
    specs = {cell.label: make_spec(cell.case.op, cell.case.dims) for cell in cells(target, call)}
    of_blame: OperatorSpec | None = None if blamed is None else specs.get(blamed)
    known = [pair for phase, pair in target.pairs if phase == call.phase]
    return candidates(target.config.layers, run.traces, of_blame, known)


def rows_of_call(rows: Sequence[VerifyRow], call: ModelCall) -> list[VerifyRow]:
    """The rows of one call's time, the paired one first."""
    return [row for row in rows if (row.phase, row.q_len, row.context) == (call.phase, call.q_len, call.kv_len)]


def noise_of(rows: Sequence[VerifyRow], call: ModelCall) -> float:
    """How far the model differs from itself in a call, as the largest share that its rows tell."""
    return max((row.aa_spread or 0.0 for row in rows_of_call(rows, call)), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A call of a target that has no row, and why: as ``status: reason``."""

    target: Target
    call: ModelCall
    reason: str


UNUSUAL_SPEED = 1.15
"""Cells that take so many times what the same cells took before say that the host is slow now, not that the model is."""


def host_speed(rows: Sequence[VerifyRow]) -> float:
    """How many times longer than in the sessions before the cells took beside this model: that of the call it tells most of.

    1 where there are no rows of both kinds to tell it from.
    """
    stored = {(row.phase, row.q_len, row.context): row.uncorrected_ns for row in rows if not row.paired}
    ratios = [
        row.uncorrected_ns / stored[key]
        for row in rows
        if row.paired and row.phase != "memory" and (key := (row.phase, row.q_len, row.context)) in stored
    ]
    return max(ratios, key=lambda ratio: abs(math.log(ratio)), default=1.0)


def failures(target: Target, calls: Sequence[ModelCall], failed: Mapping[str, str]) -> list[Failure]:
    """The calls whose model or cells failed in a session; ``failed`` says of case keys why."""
    found = []
    for call in calls:
        rings = verify_rings([target], [call])
        # the model comes last and is what matters most: its own reason is told before a cell's
        reasons = [failed[case.key] for ring in reversed(rings) for case in ring.cases if case.key in failed]
        if reasons:
            found.append(Failure(target=target, call=call, reason=reasons[0]))
    return found


def _rows_of(
    target: Target,
    call: ModelCall,
    knowledge: Knowledge,
    evidence: Evidence,
    session_id: str,
    run: TraceRun | None,
) -> Iterator[VerifyRow]:
    mine = replace(knowledge.conditions, only_session=session_id)
    measured = measure_of(evidence.under(mine).loads(model_case(target, call)))
    if measured is None:
        return
    for paired in (True, False):
        conditions = mine if paired else replace(knowledge.conditions, before_session=session_id)
        known = replace(knowledge, conditions=conditions, paired=paired)
        found = predict_calls(target, known, evidence.under(conditions), (call,))
        if found.ns is not None:
            yield _row(
                target,
                call,
                session_id,
                device_id=knowledge.device_id,
                runtime_version=measured.runtime_version,
                paired=paired,
                predicted_ns=found.ns.value,
                uncorrected_ns=found.uncorrected_ns,
                lo_ns=found.ns.lo,
                hi_ns=found.ns.hi,
                measured_ns=measured.ns,
                measured_ci95_ns=measured.bounds,
                signed_error=found.ns.value / measured.ns - 1,
                aa_spread=measured.aa_spread,
                p90_ratio=measured.p90_ratio,
                **_blame(target, call, found, measured.ns, run),
            )
    yield from _memory_row(target, call, knowledge, evidence, session_id, measured.runtime_version)


def _blame(
    target: Target, call: ModelCall, found: CallPrediction, measured_ns: float, run: TraceRun | None
) -> dict[str, object]:
    """A row's terms beside their traces, the one to blame, and its warnings: also why there are no terms, if it was tried."""
    if run is None:
        return {"warnings": found.warnings}
    if not run.traces:
        return {"warnings": (*found.warnings, f"which term is to blame cannot be told: {run.reason}")}
    assert found.ns is not None
    assert found.uncorrected_ns is not None
    parts = scaled_parts(run.traces, measured_ns)
    terms = term_errors(
        found.terms,
        places(target, call),
        parts,
        predicted_ns=found.ns.value,
        uncorrected_ns=found.uncorrected_ns,
    )
    return {"terms": terms, "blame": to_blame(terms), "warnings": (*found.warnings, *_vague(run, parts, measured_ns))}


VAGUE = 0.1
"""Share of a call that a trace may leave unassigned before that is said."""


def _vague(run: TraceRun, parts: Mapping[str, float], measured_ns: float) -> Iterator[str]:
    """How much of the call the trace could give to no part."""
    last, share = run.traces[-1], parts.get(OTHER, 0.0) / measured_ns
    if last.unassigned and share > VAGUE:
        yield (
            f"{last.unassigned} of {last.events} events of the trace lie in no single part; with the call's own boundary they "
            f"are {share:.0%} of its time"
        )


def _memory_row(
    target: Target,
    call: ModelCall,
    knowledge: Knowledge,
    evidence: Evidence,
    session_id: str,
    runtime_version: str,
) -> Iterator[VerifyRow]:
    """The model's own peak in its last probe beside what its cells' probes tell."""
    probed = (p.memory.peak_rss_delta_bytes for p in evidence.probes(model_case(target, call)) if p.memory is not None)
    peaks = [peak for peak in probed if peak is not None and peak > 0]  # 0: it fitted into what was there
    found = predict_peak(target, (call,), evidence, knowledge.errors(target, "memory"))
    if peaks and found.bytes is not None:
        yield _row(
            target,
            call,
            session_id,
            device_id=knowledge.device_id,
            runtime_version=runtime_version,
            phase="memory",
            paired=True,
            predicted_ns=found.bytes.value,
            uncorrected_ns=found.uncorrected_bytes,
            lo_ns=found.bytes.lo,
            hi_ns=found.bytes.hi,
            measured_ns=float(peaks[-1]),
            measured_ci95_ns=None,
            signed_error=found.bytes.value / peaks[-1] - 1,
            aa_spread=None,
            p90_ratio=None,
        )


def _row(target: Target, call: ModelCall, session_id: str, **facts: object) -> VerifyRow:
    model = model_of(target.config)
    common: dict[str, object] = {
        "config": target.config.name,
        "config_hash": config_hash(target),
        "pattern": target.config.pattern,
        "runtime": target.runtime,
        "dtype": target.dtype,
        "kv_dtype": target.kv_dtype,
        "n_threads": target.n_threads,
        "phase": call.phase,
        "q_len": call.q_len,
        "context": call.kv_len,
        "session_id": session_id,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "parameters": model.params(),
        "flops": model.flops(batch=target.batch, q_len=call.q_len, kv_len=call.kv_len),
    }
    return VerifyRow(**(common | facts))  # type: ignore[arg-type]


def measure_of(loads: Iterable[InstanceRecord]) -> Measured | None:
    """What the whole model took in its loads, or None if there are none."""
    processes: dict[Process, list[InstanceRecord]] = defaultdict(list)
    for record in loads:
        processes[record.session_id, record.round].append(record)
    if not processes:
        return None
    logs, of, spreads, relative = [], [], [], []
    for process, found in processes.items():
        own = [log_median(record.samples_ns) for record in found]
        logs += own
        of += [process] * len(own)
        spreads += [abs(a - b) for a, b in itertools.pairwise(own)]
        relative += [ns / math.exp(log) for record, log in zip(found, own, strict=True) for ns in record.samples_ns]
    p50 = interval(logs, of)
    return Measured(
        ns=p50.estimate,
        bounds=p50.bounds,
        aa_spread=statistics.median(spreads) if spreads else None,
        p90_ratio=quantiles(relative).p90,
        runtime_version=found[0].runtime_version,
    )
