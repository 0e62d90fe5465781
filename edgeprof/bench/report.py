"""From stored records to measurements: pooled instances, intervals, ratios, shares of the roof. Nothing here is stored."""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from edgeprof.core.types import BenchCase, InstanceRecord, Roof
from edgeprof.models.composite import composite_ops
from edgeprof.operators.registry import make_spec
from edgeprof.stats.intervals import Interval, interval
from edgeprof.stats.quantiles import log_median, quantiles
from edgeprof.stats.ratios import NoiseFloor, Ratio, different, noise_floor, paired_ratio

COMPUTE_DTYPE = {"fp32": "fp32", "bf16": "bf16", "int4": "int8", "8da4w": "int8"}
"""What the products of a weight format are computed in."""

STABLE_SHARE = 0.75
"""A row is stable when at least this share of its loads settled."""

BASELINE_OP = "short_conv"

MIN_DRIFT_SESSIONS = 3
"""Fewest sessions whose spread says anything."""

Rounds = dict[tuple[str, int], list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """All pooled instances of one case, summarised. ``time`` and ``p10_ns`` are None unless the status is ``ok``.

    ``rounds`` holds the logarithms of the load medians by session and round, for paired comparison. ``of_model``: it was
    measured for the sake of whole models, in sessions over their blocks.
    """

    case: BenchCase
    status: str
    reason: str | None
    runtime_version: str
    time: Interval | None = None
    p10_ns: float | None = None
    instances: tuple[InstanceRecord, ...] = ()
    probe: InstanceRecord | None = None
    stable: bool | None = None
    roof_share: float | None = None
    ratio: Ratio | None = None
    rounds: Rounds = field(default_factory=dict)
    of_model: bool = False

    @property
    def p50_ns(self) -> float | None:
        """The estimate of the median call."""
        return None if self.time is None else self.time.estimate

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens a second that the operator alone would pass."""
        return None if self.time is None else 1e9 * self.case.batch * self.case.q_len / self.time.estimate

    @property
    def state_bytes(self) -> int:
        """Bytes of carried state after the case's context."""
        c = self.case
        return make_spec(c.op, c.dims).state_bytes(batch=c.batch, kv_len=c.kv_len, kv_dtype=c.kv_dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """SD of the logarithm of what the host's drift adds to a whole session, and how many sessions told."""

    sd: float
    n_sessions: int

    @property
    def in_intervals(self) -> float:
        """What intervals are widened by: nothing before there are enough sessions.

        Drift between the rounds of a session already shows as spread between its processes; what one session cannot see is
        how sessions differ.
        """
        return self.sd if self.n_sessions >= MIN_DRIFT_SESSIONS else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Measurements of one device, with what the figures are worth: the A/A noise floor and the host's drift."""

    device_id: str
    measurements: tuple[Measurement, ...]
    noise_floor: NoiseFloor | None
    drift: Drift
    roofs: dict[int, Roof]


def build_report(
    device_id: str,
    records: Iterable[InstanceRecord],
    cases: list[BenchCase] | None = None,
    poolable: Callable[[InstanceRecord, BenchCase], bool] | None = None,
) -> Report:
    """Summarises records of one device: of the given ``cases``, or of every case that is stored.

    Records that ``poolable`` refuses are left out. Where a case was measured under several conditions (runtime version,
    environment, protocol, code), only the latest of them is shown: different conditions are never pooled.
    """
    by_case: dict[str, list[InstanceRecord]] = {}
    everything = list(records)
    for record in everything:
        if record.case is not None and (poolable is None or poolable(record, record.case)):
            by_case.setdefault(record.case_key, []).append(record)
    if cases is None:
        cases = [rs[0].case for rs in by_case.values() if rs[0].case is not None]
    pools = {case.key: _latest_conditions(by_case.get(case.key, [])) for case in cases}
    sessions = {r.session_id for pool in pools.values() for r in pool}
    drift = host_drift(r for r in everything if r.session_id in sessions)
    roofs = _roofs(everything, pools.values())
    model_sessions = {r.session_id for r in everything if r.case is not None and r.case.op in composite_ops()}
    rows = [
        replace(
            _measurement(case, pools[case.key], drift.in_intervals, roofs),
            of_model=bool(pools[case.key]) and all(r.session_id in model_sessions for r in pools[case.key]),
        )
        for case in cases
    ]
    single = [row for row in rows if not row.of_model]
    floor = noise_floor({row.case.key: row.rounds for row in single or rows if row.rounds})
    return Report(
        device_id=device_id,
        measurements=tuple(_with_ratio(row, rows) for row in rows),
        noise_floor=floor,
        drift=drift,
        roofs=roofs,
    )


def _conditions(record: InstanceRecord) -> tuple[object, ...]:
    return record.protocol_version, record.runtime_version, record.artifact_key, record.fingerprint


def _latest_conditions(records: list[InstanceRecord]) -> list[InstanceRecord]:
    if not records:
        return []
    newest = max(records, key=lambda r: r.started_at)
    return [r for r in records if _conditions(r) == _conditions(newest)]


def host_drift(records: Iterable[InstanceRecord]) -> Drift:
    """How the host's own speed drifts from session to session, read from the sentinel.

    A round counts with the median over its processes, so that one disturbed process does not pass for the host. From three
    sessions on, the SD of their means, less what the sentinel's own spread within sessions explains. With fewer, the standard
    error of a session's mean over its rounds, which stands in for it.
    """
    rounds: Rounds = {}
    for record in records:
        if record.kind == "sentinel":
            rounds.setdefault((record.session_id, record.round), []).append(log_median(record.samples_ns))
    sessions: dict[str, list[float]] = {}
    for (session, _), values in rounds.items():
        sessions.setdefault(session, []).append(statistics.median(values))
    errors = [statistics.variance(v) / len(v) for v in sessions.values() if len(v) >= 2]
    variance = max(errors, default=0.0)
    if len(sessions) >= MIN_DRIFT_SESSIONS:
        between = statistics.variance(statistics.fmean(values) for values in sessions.values())
        variance = max(0.0, between - (statistics.fmean(errors) if errors else 0.0))
    return Drift(sd=math.sqrt(variance), n_sessions=len(sessions))


def _roofs(records: list[InstanceRecord], pools: Iterable[list[InstanceRecord]]) -> dict[int, Roof]:
    """The latest roof for each number of threads, measured in an environment that some shown record shares."""
    fingerprints = {r.fingerprint for pool in pools for r in pool}
    found = [r for r in records if r.roof is not None and r.fingerprint in fingerprints]
    found.sort(key=lambda r: r.started_at)
    return {r.roof.n_threads: r.roof for r in found if r.roof is not None}


def _measurement(case: BenchCase, pool: list[InstanceRecord], drift: float, roofs: dict[int, Roof]) -> Measurement:
    loads = [r for r in pool if r.kind == "latency" and r.status == "ok"]
    probes = sorted((r for r in pool if r.kind == "probe"), key=lambda r: r.started_at)
    version = pool[0].runtime_version if pool else "unknown"
    last = probes[-1] if probes else None
    if last is not None and last.status != "ok" and not (last.status in ("error", "timeout") and loads):
        return Measurement(case=case, status=last.status, reason=last.reason, runtime_version=version, probe=last)
    good = next((p for p in reversed(probes) if p.status == "ok"), None)
    if not loads:
        reason = "not measured yet; run the same command again"
        return Measurement(case=case, status="missing", reason=reason, runtime_version=version, probe=good)
    rounds: Rounds = {}
    for r in loads:
        rounds.setdefault((r.session_id, r.round), []).append(log_median(r.samples_ns))
    processes = [(r.session_id, r.round) for r in loads]
    time = interval([log_median(r.samples_ns) for r in loads], processes, drift)
    p10 = interval([math.log(quantiles(r.samples_ns).p10) for r in loads], processes).estimate
    return Measurement(
        case=case,
        status="ok",
        reason=None,
        runtime_version=version,
        time=time,
        p10_ns=p10,
        instances=tuple(loads),
        probe=good,
        stable=sum(bool(r.settled) for r in loads) >= STABLE_SHARE * len(loads),
        roof_share=_roof_share(case, time.estimate, roofs.get(case.n_threads)),
        rounds=rounds,
    )


def _roof_share(case: BenchCase, p50_ns: float, roof: Roof | None) -> float | None:
    """How near a case comes to what binds it: the longer of its least transfer and least compute time, over its time.

    None without a roof, and for hot decode, whose weights may lie in a cache that the memory roof does not describe.
    Source: Williams, Waterman, Patterson: Roofline, CACM 52 (2009).
    """
    if roof is None or (case.cache_state == "hot" and case.phase == "decode"):
        return None
    spec = make_spec(case.op, case.dims)
    moved = spec.bytes_moved(
        batch=case.batch, q_len=case.q_len, kv_len=case.kv_len, dtype=case.dtype, kv_dtype=case.kv_dtype
    )
    flops = spec.flops(batch=case.batch, q_len=case.q_len, kv_len=case.kv_len)
    rate = roof.flops_per_s.get(COMPUTE_DTYPE[case.dtype])
    if rate is None:
        return None
    return max(moved / roof.bytes_per_s, flops / rate) / (p50_ns / 1e9)


def _with_ratio(row: Measurement, rows: list[Measurement]) -> Measurement:
    base = None if row.case.op in (BASELINE_OP, *composite_ops()) else baseline_of(row, rows)
    if base is None or not row.rounds:
        return row
    return replace(row, ratio=paired_ratio(row.rounds, base.rounds))


def baseline_of(row: Measurement, rows: list[Measurement]) -> Measurement | None:
    """The measured short convolution with the row's width, shape, runtime, precision and cache state; smallest kernel first.

    It has no KV cache: where the row's is rounded, the one with full-precision state stands in.
    """
    width = make_spec(row.case.op, row.case.dims).width()
    found = [
        r
        for r in rows
        if r.case.op == BASELINE_OP
        and r.rounds
        and r.case.dims["d_model"] == width
        and _shape(r.case) == _shape(row.case)
        and r.case.kv_dtype in (row.case.kv_dtype, "bf16" if row.case.dtype == "bf16" else "fp32")
    ]
    return min(found, key=lambda r: (r.case.kv_dtype != row.case.kv_dtype, r.case.dims["kernel_size"]), default=None)


def _shape(case: BenchCase) -> tuple[object, ...]:
    c = case
    return c.runtime, c.dtype, c.phase, c.q_len, c.kv_len, c.batch, c.n_threads, c.cache_state, c.ring_bytes


def report_json(report: Report, device: object) -> dict[str, Any]:
    """The report as the documented JSON: times in ns, sizes in bytes, None where there is nothing to say."""
    floor = report.noise_floor
    return {
        "device": device,
        "noise_floor": None if floor is None else floor.pooled,
        "drift_sd": report.drift.sd,
        "measurements": [measurement_json(m, floor) for m in report.measurements],
    }


def measurement_json(m: Measurement, floor: NoiseFloor | None) -> dict[str, Any]:
    """One measurement as plain data, under the names of the scripting contract."""
    c, probe = m.case, m.probe
    memory = probe.memory if probe is not None else None
    bounds = m.time.bounds if m.time is not None else None
    ratio = m.ratio
    return {
        "case_key": c.key,
        "op": c.op,
        "op_version": c.op_version,
        "phase": c.phase,
        "dims": c.dims,
        "batch": c.batch,
        "q_len": c.q_len,
        "kv_len": c.kv_len,
        "runtime": c.runtime,
        "runtime_version": m.runtime_version,
        "dtype": c.dtype,
        "kv_dtype": c.kv_dtype,
        "n_threads": c.n_threads,
        "cache_state": c.cache_state,
        "ring_bytes": median_of(r.ring_bytes for r in m.instances),
        "status": m.status,
        "reason": m.reason,
        "p10_ns": m.p10_ns,
        "p50_ns": m.p50_ns,
        "ci95_ns": None if bounds is None else list(bounds),
        "n_instances": len(m.instances),
        "n_samples": sum(len(r.samples_ns) for r in m.instances),
        "instance_ids": [r.id for r in m.instances],
        "stable": m.stable,
        "load_ns": median_of(r.load_ns for r in m.instances),
        "first_call_ns": median_of(r.first_call_ns for r in m.instances),
        "call_overhead_ns": median_of(r.call_overhead_ns for r in m.instances),
        "tokens_per_s": m.tokens_per_s,
        "roof_share": m.roof_share,
        "delegated_share": probe.delegated_share if probe is not None else None,
        "ratio_to_short_conv": 1.0 if c.op == BASELINE_OP and m.time else None if ratio is None else ratio.estimate,
        "ratio_ci95": None if ratio is None or ratio.bounds is None else list(ratio.bounds),
        "differs_from_short_conv": None if ratio is None or floor is None else different(ratio, floor.pooled),
        "state_bytes": m.state_bytes,
        "weight_bytes": probe.weight_bytes if probe is not None else None,
        "arena_bytes": probe.arena_bytes if probe is not None else None,
        "peak_rss_delta_bytes": memory.peak_rss_delta_bytes if memory is not None else None,
        "anon_delta_bytes": memory.anon_delta_bytes if memory is not None else None,
        "file_delta_bytes": memory.file_delta_bytes if memory is not None else None,
        "max_rel_error": probe.max_rel_error if probe is not None else None,
        "quantization_error": probe.quantization_error if probe is not None else None,
    }


def median_of(values: Iterable[int | None]) -> int | None:
    """The median of what is known, rounded to a whole number."""
    known = [v for v in values if v is not None]
    return round(statistics.median(known)) if known else None
