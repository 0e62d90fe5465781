"""A session: builds what is missing, checks every cell's numerics, then measures in rounds of fresh processes.

Every result is in the store as soon as it exists; the same command again measures only what is still missing.
"""

import logging
import random
from collections.abc import Iterator

from edgeprof.bench.jobs import Item, Job, job_to_json
from edgeprof.bench.prepare import Reporter, build_missing, describe, find_roof, probe_missing
from edgeprof.bench.recorder import Recorder
from edgeprof.bench.rings import ring_groups, ring_slots, working_set_bytes
from edgeprof.core.types import BenchCase, InstanceRecord, Status
from edgeprof.devices.worker_process import Event, WorkerLostError, run_worker
from edgeprof.runtimes.artifact import artifact_spec
from edgeprof.runtimes.base import RUNTIMES

logger = logging.getLogger(__name__)

SILENCE_S = 300.0
"""Seconds without an event after which a worker that measures is given up."""

Group = tuple[str, int]
"""A runtime and a number of threads: what one worker process serves."""


class MisplacedError(Exception):
    """A worker does not run with the threads or on the CPUs that it was given."""


class Session:
    """One run of ``edgeprof bench`` on one host. With ``fresh``, what is stored is not counted."""

    def __init__(self, recorder: Recorder, reporter: Reporter, *, fresh: bool = False) -> None:
        self.recorder = recorder
        self.protocol = recorder.protocol
        self.reporter = reporter
        self.fresh = fresh
        self.random = random.Random(recorder.session_id)  # noqa: S311 - an order of measurements, not a secret

    def run(self, cases: list[BenchCase]) -> None:
        """Brings every case to its number of instances, or to a record that says why it has none."""
        stored = self.recorder.store.records(self.recorder.host.device_id)
        counted = [] if self.fresh else stored
        able = self._refuse_unsupported(cases, counted)
        missing = self._missing(able, counted)
        todo = _with_ring_mates([case for case in able if missing[case.key] > 0], able)
        if todo:
            self.recorder.check_writable()
        build_missing(todo, self.recorder, self.reporter)
        probe_missing(self._alive(todo), counted, self.recorder, self.reporter)
        find_roof(self._alive(todo), self.recorder, self.reporter)
        self._measure(self._alive(todo), missing)

    def _alive(self, cases: list[BenchCase]) -> list[BenchCase]:
        return [case for case in cases if case.key not in self.recorder.failed]

    def _refuse_unsupported(self, cases: list[BenchCase], stored: list[InstanceRecord]) -> list[BenchCase]:
        """The cases that their runtime can run; why it cannot run one is recorded once."""
        told = {(r.case_key, r.reason): r for r in stored if r.status == "unsupported"}
        able = []
        for case in cases:
            reason = RUNTIMES.get(case.runtime).unsupported(case)
            if reason is None:
                able.append(case)
                continue
            before = told.get((case.key, reason))
            if before is None or not self.recorder.poolable(before, case):
                self.recorder.append(case, kind="probe", status="unsupported", reason=reason)
        return able

    def _missing(self, cases: list[BenchCase], stored: list[InstanceRecord]) -> dict[str, int]:
        """Instances that each case still lacks: loads of hot cases, rings of streaming ones."""
        by_key: dict[str, list[InstanceRecord]] = {}
        for record in stored:
            if record.kind == "latency" and record.status == "ok":
                by_key.setdefault(record.case_key, []).append(record)
        missing = {}
        for case in cases:
            mine = [r for r in by_key.get(case.key, []) if self.recorder.poolable(r, case)]
            if case.cache_state == "hot":
                missing[case.key] = max(0, self.protocol.rounds * self.protocol.loads - len(mine))
            else:
                missing[case.key] = max(0, self.protocol.rounds - len({(r.session_id, r.round) for r in mine}))
        return missing

    def _measure(self, cases: list[BenchCase], missing: dict[str, int]) -> None:
        rounds = [self._round(cases, missing, number) for number in range(self.protocol.rounds)]
        total = sum(len(items) for groups in rounds for items in groups.values())
        if total == 0:
            return
        self.reporter.stage("measure", total)
        for number, groups in enumerate(rounds):
            order = list(groups)
            self.random.shuffle(order)
            for group in order:
                self.random.shuffle(groups[group])
                self._run_group(groups[group], group, number)

    def _round(self, cases: list[BenchCase], missing: dict[str, int], number: int) -> dict[Group, list[Item]]:
        """The items of one round by process: each hot case's loads, and each ring that some case still needs."""
        items: dict[Group, list[Item]] = {}
        for case in cases:
            if case.cache_state == "hot":
                loads = min(self.protocol.loads, missing[case.key] - number * self.protocol.loads)
                for _ in range(loads):
                    item = Item(kind="hot", seed=self._seed(), case=case, artifact_key=artifact_spec(case).key)
                    items.setdefault((case.runtime, case.n_threads), []).append(item)
        for group in ring_groups(c for c in cases if c.cache_state == "streaming"):
            if max(missing[c.key] for c in group) > number:
                ring = Item(kind="ring", seed=self._seed(), slots=ring_slots(group))
                items.setdefault((group[0].runtime, group[0].n_threads), []).append(ring)
        return items

    def _seed(self) -> int:
        return self.random.randrange(1, 2**31)

    def _run_group(self, items: list[Item], group: Group, number: int) -> None:
        """Does the items in one fresh process; if it is lost, the item in flight fails and the rest get a new one."""
        left = self._unspoilt(items)
        while left:
            try:
                for item, event, ready in self._events(left, group, number):
                    self._append_timing(item, event, ready, number)
                    left = left[1:]
                    self.reporter.step(label(item))
                if left:
                    raise WorkerLostError("the worker ended before its work was done")
            except MisplacedError as misplaced:
                for item in left:
                    self._fail(item, "error", str(misplaced))
                    self.reporter.step(label(item))
                return
            except WorkerLostError as lost:
                logger.warning("%s worker lost: %s", group[0], lost)
                if not left:
                    return
                self._fail(left[0], "timeout" if lost.timed_out else "error", str(lost))
                self.reporter.step(label(left[0]))
                left = left[1:]
            left = self._unspoilt(left)

    def _unspoilt(self, items: list[Item]) -> list[Item]:
        """The items of which some case has not failed yet in this session."""
        kept = [i for i in items if any(c.key not in self.recorder.failed for c in item_cases(i))]
        for _ in range(len(items) - len(kept)):
            self.reporter.step("skipped after a failure")
        return kept

    def _events(self, items: list[Item], group: Group, number: int) -> Iterator[tuple[Item, Event, Event]]:
        """Runs one worker; yields each finished item with its event and the worker's ``ready`` event."""
        runtime, n_threads = group
        cpus = self.recorder.host.pick_cpus(n_threads)
        job = Job(runtime=runtime, n_threads=n_threads, cpus=cpus, items=items, protocol=self.protocol, sentinel=True)
        ready: Event = {}
        for event in run_worker(job_to_json(job), n_threads=n_threads, silence_s=SILENCE_S):
            if event["event"] == "ready":
                ready = event
                check_placement(event, n_threads, cpus)
            if event["event"] in ("ready", "end"):
                self.recorder.append_host(
                    runtime, kind="sentinel", status="ok", number=number, samples_ns=event["sentinel_ns"]
                )
            elif event["event"] in ("done", "failed"):
                yield items[event["item"]], event, ready

    def _fail(self, item: Item, status: Status, reason: str | None) -> None:
        for case in item_cases(item):
            self.recorder.fail(case, status, reason)

    def _append_timing(self, item: Item, event: Event, ready: Event, number: int) -> None:
        if event["event"] == "failed":
            self._fail(item, "error", event["reason"])
            return
        seen = {"n_threads_seen": ready["n_threads_seen"], "affinity_seen": ready["affinity_seen"], "number": number}
        if item.case is not None:
            names = ("load_ns", "first_call_ns", "samples_ns", "settled", "warmup_calls")
            facts = {name: event[name] for name in names}
            self.recorder.append(item.case, kind="latency", status="ok", **facts, **seen)
            return
        rows = list(zip(item.slots, event["slots"], strict=True))
        empty_calls = sorted(ns for slot, row in rows if slot.case.op == "identity" for ns in row["samples_ns"])
        ring = {
            "call_overhead_ns": empty_calls[len(empty_calls) // 2],
            "ring": [slot.case_key or f"({slot.case.op})" for slot in item.slots],
            "ring_bytes": working_set_bytes(item.slots),
        }
        for slot, row in rows:
            if slot.case_key is not None:
                self.recorder.append(slot.case, kind="latency", status="ok", **row, **ring, **seen)


def check_placement(ready: Event, n_threads: int, cpus: list[int]) -> None:
    """Checks the threads and CPUs that a worker read back against those it was given.

    Raises:
        MisplacedError: they differ: whatever was timed now would be something else than its label says.
    """
    seen, affinity = ready["n_threads_seen"], ready["affinity_seen"]
    if seen != n_threads:
        raise MisplacedError(f"asked for {n_threads} threads, the runtime has {seen}: not timed")
    if affinity and affinity != sorted(cpus):
        raise MisplacedError(f"asked for CPUs {sorted(cpus)}, the kernel gave {affinity}: not timed")


def _with_ring_mates(missing: list[BenchCase], able: list[BenchCase]) -> list[BenchCase]:
    """The missing cases and, in the plan's order, those that share a ring with one: a resumed ring is the whole ring again."""
    wanted = {case.key for case in missing}
    for group in ring_groups(case for case in able if case.cache_state == "streaming"):
        keys = {case.key for case in group}
        if keys & wanted:
            wanted |= keys
    return [case for case in able if case.key in wanted]


def label(item: Item) -> str:
    """An item in a few words, for progress."""
    if item.case is not None:
        return f"{describe(item.case)} hot"
    first = item.slots[0].case
    return f"{first.runtime} {first.dtype} ring of {len(item.slots)} {first.phase}"


def item_cases(item: Item) -> list[BenchCase]:
    """The cases that an item measures, each once."""
    if item.case is not None:
        return [item.case]
    return list({s.case_key: s.case for s in item.slots if s.case_key is not None}.values())
