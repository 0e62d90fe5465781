"""A session: builds what is missing, checks every cell's numerics, then measures in rounds of fresh processes.

Every result is in the store as soon as it exists; the same command again measures only what is still missing.
"""

import datetime
import logging
import random
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from edgeprof.bench.gate import tolerance
from edgeprof.bench.jobs import Item, Job, job_to_json
from edgeprof.bench.rings import filler_case, needs_filler, null_case, ring_groups, ring_slots, working_set_bytes
from edgeprof.core.types import ArtifactSpec, BenchCase, InstanceRecord, MeasureProtocol, Memory, Status
from edgeprof.devices.worker_process import Event, WorkerLost, run_worker
from edgeprof.runtimes.artifact import artifact_spec, cached_artifact
from edgeprof.runtimes.base import RUNTIMES, runtime_version

logger = logging.getLogger(__name__)

PARALLEL = 2
"""Builds and probes that run at once: nothing is timed in them."""

SILENCE_S = {"build": 900.0, "probe": 300.0, "measure": 300.0, "roof": 120.0}
"""Seconds without an event after which a worker is given up."""


class Reporter(Protocol):
    """Hears what a session does."""

    def stage(self, name: str, total: int) -> None:
        """A stage of ``total`` steps begins."""

    def step(self, label: str) -> None:
        """One step is done."""


class RecordStore(Protocol):
    """Where records go and come from."""

    def append(self, record: InstanceRecord) -> None:
        """Keeps one record for good."""

    def records(self, device_id: str) -> list[InstanceRecord]:
        """All records of a device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The device as a session sees it: who it is, what decides pooling, and how threads are placed."""

    device_id: str
    environment: dict[str, Any]
    fingerprint: str
    pick_cpus: Callable[[int], list[int]]


def same_conditions(record: InstanceRecord, case: BenchCase, protocol_version: int, fingerprint: str) -> bool:
    """Whether a stored record may be pooled with what is measured now for ``case``.

    It must have the same case, protocol version, environment fingerprint, runtime version, and artifact (so the same code).
    """
    spec = artifact_spec(case)
    return (
        record.case_key == case.key
        and record.protocol_version == protocol_version
        and record.fingerprint == fingerprint
        and record.runtime_version == spec.runtime_version
        and record.artifact_key == spec.key
    )


class Session:
    """One run of ``edgeprof bench`` on one host."""

    def __init__(
        self, *, store: RecordStore, host: Host, protocol: MeasureProtocol, reporter: Reporter, fresh: bool = False
    ) -> None:
        self.store = store
        self.host = host
        self.protocol = protocol
        self.reporter = reporter
        self.fresh = fresh
        self.id = uuid.uuid4().hex[:12]
        self.random = random.Random(self.id)  # noqa: S311 - an order of measurements, not a secret
        self.failed: set[str] = set()

    def run(self, cases: list[BenchCase]) -> None:
        """Brings every case to its number of instances, or to a record that says why it has none."""
        stored = [] if self.fresh else self.store.records(self.host.device_id)
        able = self._refuse_unsupported(cases)
        missing = self._missing(able, stored)
        todo = [case for case in able if missing[case.key] > 0]
        self._build(todo)
        todo = [case for case in todo if case.key not in self.failed]
        self._probe(todo, stored)
        self._measure([case for case in todo if case.key not in self.failed], missing)

    def _refuse_unsupported(self, cases: list[BenchCase]) -> list[BenchCase]:
        able = []
        for case in cases:
            reason = RUNTIMES.get(case.runtime).unsupported(case)
            if reason is None:
                able.append(case)
            else:
                self._append(case, kind="probe", status="unsupported", reason=reason)
        return able

    def _missing(self, cases: list[BenchCase], stored: list[InstanceRecord]) -> dict[str, int]:
        """Instances that each case still lacks. Loads that share a process count one by one; a ring counts as a load."""
        by_key: dict[str, list[InstanceRecord]] = {}
        for record in stored:
            if record.kind == "latency" and record.status == "ok":
                by_key.setdefault(record.case_key, []).append(record)
        missing = {}
        for case in cases:
            mine = [r for r in by_key.get(case.key, []) if self._poolable(r, case)]
            if case.cache_state == "hot":
                missing[case.key] = max(0, self.protocol.rounds * self.protocol.loads - len(mine))
            else:
                missing[case.key] = max(0, self.protocol.rounds - len({(r.session_id, r.round) for r in mine}))
        return missing

    def _poolable(self, record: InstanceRecord, case: BenchCase) -> bool:
        return same_conditions(record, case, self.protocol.version, self.host.fingerprint)

    # -- building --------------------------------------------------------------------------------------------------------

    def _build(self, cases: list[BenchCase]) -> None:
        users: dict[str, list[BenchCase]] = {}
        specs: dict[str, ArtifactSpec] = {}
        for case in cases:
            for needed in self._needed(case):
                spec = artifact_spec(needed)
                if cached_artifact(spec.key) is None:
                    specs[spec.key] = spec
                    users.setdefault(spec.key, []).append(case)
        if not specs:
            return
        self.reporter.stage("build", len(specs))
        with ThreadPoolExecutor(PARALLEL) as pool:
            for spec, reason, status in pool.map(self._build_one, specs.values()):
                self.reporter.step(f"{spec.runtime} {spec.dtype} {spec.op} q{spec.q_len}")
                if reason is not None:
                    for case in users[spec.key]:
                        self._fail(case, status, f"build of {spec.op} failed: {reason}")

    def _needed(self, case: BenchCase) -> list[BenchCase]:
        """The case itself, the null operator beside it, and for a ring the filler."""
        needed = [case, null_case(case)]
        if case.cache_state == "streaming" and needs_filler(case):
            needed.append(filler_case(case))
        return needed

    def _build_one(self, spec: ArtifactSpec) -> tuple[ArtifactSpec, str | None, Status]:
        outcome = self._alone(Item(kind="build", spec=spec), runtime=spec.runtime, n_threads=1, kind="build")
        return spec, outcome.reason, outcome.status

    # -- memory and numerics ---------------------------------------------------------------------------------------------

    def _probe(self, cases: list[BenchCase], stored: list[InstanceRecord]) -> None:
        passed = {r.case_key: r for r in stored if r.kind == "probe" and r.status == "ok"}
        todo = []
        for case in cases:
            known = passed.get(case.key)
            if known is None or not self._poolable(known, case):
                todo.append(case)
        if not todo:
            return
        by_shape = self._by_shape(todo)
        self.reporter.stage("check", len(by_shape))
        with ThreadPoolExecutor(PARALLEL) as pool:
            for same, outcome in pool.map(self._probe_one, by_shape):
                self.reporter.step(describe(same[0]))
                for case in same:
                    self._append_probe(case, outcome)

    def _by_shape(self, cases: list[BenchCase]) -> list[list[BenchCase]]:
        """Cases that differ only in cache state, which neither memory nor numerics depend on."""
        groups: dict[tuple[str, int, int], list[BenchCase]] = {}
        for case in cases:
            groups.setdefault((artifact_spec(case).key, case.kv_len, case.n_threads), []).append(case)
        return list(groups.values())

    def _probe_one(self, same: list[BenchCase]) -> "tuple[list[BenchCase], Outcome]":
        case = same[0]
        item = Item(
            kind="probe",
            case=case,
            artifact_key=artifact_spec(case).key,
            null_artifact_key=artifact_spec(null_case(case)).key,
        )
        return same, self._alone(item, runtime=case.runtime, n_threads=case.n_threads, kind="probe")

    def _append_probe(self, case: BenchCase, outcome: "Outcome") -> None:
        if outcome.result is None:
            self._fail(case, outcome.status, outcome.reason)
            return
        artifact = cached_artifact(artifact_spec(case).key)
        assert artifact is not None
        error, limit = outcome.result["max_rel_error"], tolerance(case)
        right = error is not None and error <= limit
        said = "is not finite" if error is None else f"is {error:.2g}"
        self._append(
            case,
            kind="probe",
            status="ok" if right else "wrong_output",
            reason=None if right else f"relative error {said}, more than {limit:.2g}: not timed",
            memory=Memory(**outcome.result["memory"]),
            max_rel_error=error,
            quantization_error=outcome.result["quantization_error"],
            weight_bytes=artifact.weight_bytes,
            arena_bytes=artifact.arena_bytes,
            delegated_share=artifact.delegated_share,
        )
        if not right:
            self.failed.add(case.key)

    # -- timing ----------------------------------------------------------------------------------------------------------

    def _measure(self, cases: list[BenchCase], missing: dict[str, int]) -> None:
        rounds = [self._round_items(cases, missing, number) for number in range(self.protocol.rounds)]
        total = sum(len(items) for round_items in rounds for items in round_items.values())
        if total == 0:
            return
        self.reporter.stage("measure", total)
        for number, round_items in enumerate(rounds):
            groups = list(round_items)
            self.random.shuffle(groups)
            for runtime, n_threads in groups:
                items = round_items[runtime, n_threads]
                self.random.shuffle(items)
                self._run_group(items, runtime, n_threads, number)

    def _round_items(
        self, cases: list[BenchCase], missing: dict[str, int], number: int
    ) -> dict[tuple[str, int], list[Item]]:
        """The items of one round by process: each hot case's loads, and each ring that some case still needs."""
        items: dict[tuple[str, int], list[Item]] = {}
        for case in cases:
            if case.cache_state != "hot":
                continue
            loads = min(self.protocol.loads, missing[case.key] - number * self.protocol.loads)
            for _ in range(loads):
                item = Item(kind="hot", seed=self._seed(), case=case, artifact_key=artifact_spec(case).key)
                items.setdefault((case.runtime, case.n_threads), []).append(item)
        for group in ring_groups(c for c in cases if c.cache_state == "streaming"):
            if max(missing[c.key] for c in group) > number:
                first = group[0]
                ring = Item(kind="ring", seed=self._seed(), slots=ring_slots(group))
                items.setdefault((first.runtime, first.n_threads), []).append(ring)
        return items

    def _seed(self) -> int:
        return self.random.randrange(1, 2**31)

    def _run_group(self, items: list[Item], runtime: str, n_threads: int, number: int) -> None:
        """Does the items in one fresh process; if it is lost, the item in flight fails and the rest get a new one."""
        left = [item for item in items if not self._spoilt(item)]
        for _ in range(len(items) - len(left)):
            self.reporter.step("skipped after a failure")
        while left:
            done = 0
            job = self._job(left, runtime, n_threads, sentinel=True)
            ready: Event = {}
            try:
                for event in run_worker(job_to_json(job), n_threads=n_threads, silence_s=SILENCE_S["measure"]):
                    if event["event"] == "ready":
                        ready = event
                        self._append_sentinel(event, runtime, number)
                    elif event["event"] in ("done", "failed"):
                        self._append_timing(left[done], event, ready, number)
                        self.reporter.step(_label(left[done]))
                        done += 1
                    elif event["event"] == "end":
                        self._append_sentinel(event, runtime, number)
                        return
            except WorkerLost as lost:
                logger.warning("%s worker lost: %s", runtime, lost)
                if done == len(left):
                    return
                self._fail_item(left[done], "timeout" if lost.timed_out else "error", str(lost))
                self.reporter.step(_label(left[done]))
                done += 1
            left = [item for item in left[done:] if not self._spoilt(item)]

    def _spoilt(self, item: Item) -> bool:
        """Whether every case of the item has already failed in this session."""
        keys = _case_keys(item)
        return bool(keys) and all(k in self.failed for k in keys)

    def _fail_item(self, item: Item, status: Status, reason: str | None) -> None:
        for case in _cases(item):
            self._fail(case, status, reason)

    def _append_timing(self, item: Item, event: Event, ready: Event, number: int) -> None:
        if event["event"] == "failed":
            self._fail_item(item, "error", event["reason"])
            return
        seen = {"n_threads_seen": ready["n_threads_seen"], "affinity_seen": ready["affinity_seen"]}
        if item.kind == "hot":
            assert item.case is not None
            facts = {k: event[k] for k in ("load_ns", "first_call_ns", "samples_ns", "settled", "warmup_calls")}
            self._append(item.case, kind="latency", status="ok", number=number, **facts, **seen)
            return
        null_samples = [s for slot, row in zip(item.slots, event["slots"], strict=True) if slot.case.op == "identity" for s in row["samples_ns"]]
        overhead = sorted(null_samples)[len(null_samples) // 2]
        ring = [slot.case_key or f"({slot.case.op})" for slot in item.slots]
        size = working_set_bytes(item.slots)
        for slot, row in zip(item.slots, event["slots"], strict=True):
            if slot.case_key is not None:
                self._append(
                    slot.case,
                    kind="latency",
                    status="ok",
                    number=number,
                    call_overhead_ns=overhead,
                    ring=ring,
                    ring_bytes=size,
                    **row,
                    **seen,
                )

    def _append_sentinel(self, event: Event, runtime: str, number: int) -> None:
        if event["sentinel_ns"]:
            record = self._record(None, kind="sentinel", status="ok", runtime=runtime, number=number, samples_ns=event["sentinel_ns"])
            self.store.append(record)

    # -- records and workers ---------------------------------------------------------------------------------------------

    def _fail(self, case: BenchCase, status: Status, reason: str | None) -> None:
        self.failed.add(case.key)
        self._append(case, kind="probe", status=status, reason=reason)

    def _append(self, case: BenchCase, **facts: Any) -> None:
        self.store.append(self._record(case, **facts))

    def _record(self, case: BenchCase | None, *, number: int = 0, runtime: str | None = None, **facts: Any) -> InstanceRecord:
        name = case.runtime if case is not None else runtime
        assert name is not None
        return InstanceRecord(
            id=uuid.uuid4().hex[:16],
            session_id=self.id,
            round=number,
            case_key=case.key if case is not None else "sentinel",
            case=case,
            protocol_version=self.protocol.version,
            runtime_version=runtime_version(RUNTIMES.get(name)),
            artifact_key=artifact_spec(case).key if case is not None else None,
            device_id=self.host.device_id,
            environment=self.host.environment,
            fingerprint=self.host.fingerprint,
            started_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            **facts,
        )

    def _job(self, items: list[Item], runtime: str, n_threads: int, *, sentinel: bool = False) -> Job:
        return Job(
            runtime=runtime,
            n_threads=n_threads,
            cpus=self.host.pick_cpus(n_threads) if sentinel else [],
            items=items,
            protocol=self.protocol,
            sentinel=sentinel,
        )

    def _alone(self, item: Item, *, runtime: str, n_threads: int, kind: str) -> "Outcome":
        """Does one item in a process of its own."""
        job = self._job([item], runtime, n_threads)
        try:
            for event in run_worker(job_to_json(job), n_threads=n_threads, silence_s=SILENCE_S[kind]):
                if event["event"] == "failed":
                    return Outcome(status="error", reason=event["reason"], result=None)
                if event["event"] == "done":
                    return Outcome(status="ok", reason=None, result=event)
        except WorkerLost as lost:
            return Outcome(status="timeout" if lost.timed_out else "error", reason=str(lost), result=None)
        return Outcome(status="error", reason="the worker ended without a result", result=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one item done alone came to."""

    status: Status
    reason: str | None
    result: Event | None


def describe(case: BenchCase) -> str:
    """A case in a few words, for progress."""
    shape = f"q{case.q_len}" if case.phase == "prefill" else f"kv{case.kv_len}"
    return f"{case.runtime} {case.dtype} {case.op} {case.phase} {shape}"


def _label(item: Item) -> str:
    if item.case is not None:
        return f"{describe(item.case)} hot"
    first = item.slots[0].case
    return f"{first.runtime} {first.dtype} ring of {len(item.slots)} {first.phase}"


def _cases(item: Item) -> Iterator[BenchCase]:
    if item.case is not None:
        yield item.case
    yield from {s.case_key: s.case for s in item.slots if s.case_key is not None}.values()


def _case_keys(item: Item) -> list[str]:
    return [case.key for case in _cases(item)]

