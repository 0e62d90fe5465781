"""A session: builds what is missing, checks every cell's numerics, then measures in rounds of fresh processes.

Every result is in the store as soon as it exists; the same command again measures only what is still missing.
"""

import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence

from edgeprof.bench.jobs import Item, Job, job_to_json
from edgeprof.bench.prepare import Reporter, build_missing, describe, find_roof, probe_missing
from edgeprof.bench.recorder import Recorder
from edgeprof.bench.rings import AssembledRing
from edgeprof.bench.work import Work
from edgeprof.core.types import BenchCase, InstanceRecord, RingPlan, Status
from edgeprof.devices.worker_process import Event, WorkerLostError, run_worker
from edgeprof.operators.traffic import working_set_bytes
from edgeprof.runtimes.artifact import artifact_spec
from edgeprof.runtimes.base import RUNTIMES

logger = logging.getLogger(__name__)

SILENCE_S = 300.0
"""Seconds without an event after which a worker that measures is given up."""

Process = tuple[str, int, str]
"""A runtime, a number of threads, and a group of rings: what one worker process of a round serves."""


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

    def run(self, cases: Sequence[BenchCase] = (), rings: Sequence[RingPlan] = ()) -> None:
        """Brings every case and ring to its number of instances, or to a record that says why it has none.

        A ring of which one case fails is not measured at all. Cells of rings that were looked at before, in whatever ring, are
        not looked at again, even for fresh times.
        """
        stored = self.recorder.store.records(self.recorder.host.device_id)
        counted = [] if self.fresh else stored
        failed = self.recorder.failed
        work = Work(cases=tuple(cases), plans=tuple(rings))
        self._refuse_unsupported(work.all_cases(), counted)
        work = work.without(failed)
        missing = self._missing(work, counted)
        work = work.lacking(missing)
        if work.all_cases():
            self.recorder.check_writable()
        build_missing(work.all_cases(), self.recorder, self.reporter)
        work = work.without(failed)
        probe_missing(work.all_cases(), counted if cases else stored, self.recorder, self.reporter)
        work = work.without(failed)
        find_roof(work.all_cases(), self.recorder, self.reporter)
        self._measure(work, missing)

    def _refuse_unsupported(self, cases: list[BenchCase], stored: list[InstanceRecord]) -> None:
        """Fails the cases that their runtime cannot run; why it cannot is recorded once."""
        told = {(r.case_key, r.reason): r for r in stored if r.status == "unsupported"}
        for case in cases:
            reason = RUNTIMES.get(case.runtime).unsupported(case)
            if reason is None:
                continue
            before = told.get((case.key, reason))
            if before is not None and self.recorder.poolable(before, case):
                self.recorder.failed[case.key] = f"unsupported: {reason}"
            else:
                self.recorder.fail(case, "unsupported", reason)

    def _missing(self, work: Work, stored: list[InstanceRecord]) -> dict[str, int]:
        """Instances that each case still lacks: loads of hot cases, whole rounds of streaming ones."""
        by_key: dict[str, list[InstanceRecord]] = {}
        for record in stored:
            if record.kind == "latency" and record.status == "ok":
                by_key.setdefault(record.case_key, []).append(record)
        per_round: Counter[str] = Counter()
        for ring in work.rings():
            per_round |= Counter(ring.per_round)
        missing = {}
        for case in work.all_cases():
            rounds = Counter(
                (r.session_id, r.round) for r in by_key.get(case.key, []) if self.recorder.poolable(r, case)
            )
            if case.cache_state == "hot":
                missing[case.key] = max(0, self.protocol.rounds * self.protocol.loads - rounds.total())
            else:
                whole = sum(count >= per_round[case.key] for count in rounds.values())
                missing[case.key] = max(0, self.protocol.rounds - whole)
        return missing

    def _measure(self, work: Work, missing: dict[str, int]) -> None:
        rings = work.rings()
        rounds = [self._round(work.hot(), rings, missing, number) for number in range(self.protocol.rounds)]
        total = sum(len(items) for processes in rounds for items in processes.values())
        if total == 0:
            return
        self.reporter.stage("measure", total)
        groups = sorted({group for processes in rounds for _, _, group in processes})
        for number, processes in enumerate(rounds):
            order = list(processes)
            self.random.shuffle(order)
            for process in order:
                self.random.shuffle(processes[process])
                of_its_own = number * len(groups) + groups.index(process[2])
                self._run_process(processes[process], process, of_its_own)

    def _round(
        self, hot: list[BenchCase], rings: list[AssembledRing], missing: dict[str, int], number: int
    ) -> dict[Process, list[Item]]:
        """The items of one round by process: each hot case's loads, and each ring that some case still needs."""
        items: dict[Process, list[Item]] = {}
        for case in hot:
            loads = min(self.protocol.loads, missing[case.key] - number * self.protocol.loads)
            for _ in range(loads):
                item = Item(kind="hot", seed=self._seed(), case=case, artifact_key=artifact_spec(case).key)
                items.setdefault((case.runtime, case.n_threads, ""), []).append(item)
        for ring in rings:
            if max(missing[key] for key in ring.per_round) > number:
                case = ring.slots[0].case
                for _ in range(ring.loads):
                    item = Item(kind="ring", seed=self._seed(), slots=ring.slots)
                    items.setdefault((case.runtime, case.n_threads, ring.group), []).append(item)
        return items

    def _seed(self) -> int:
        return self.random.randrange(1, 2**31)

    def _run_process(self, items: list[Item], process: Process, number: int) -> None:
        """Does the items in one fresh process; if it is lost, the item in flight fails and the rest get a new one."""
        left = self._unspoilt(items)
        while left:
            try:
                for item, event, ready in self._events(left, process, number):
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
                logger.warning("%s worker lost: %s", process[0], lost)
                if not left:
                    return
                self._fail(left[0], "timeout" if lost.timed_out else "error", str(lost))
                self.reporter.step(label(left[0]))
                left = left[1:]
            left = self._unspoilt(left)

    def _unspoilt(self, items: list[Item]) -> list[Item]:
        """The items of which no case has failed yet in this session."""
        kept = [i for i in items if not any(c.key in self.recorder.failed for c in item_cases(i))]
        for _ in range(len(items) - len(kept)):
            self.reporter.step("skipped after a failure")
        return kept

    def _events(self, items: list[Item], process: Process, number: int) -> Iterator[tuple[Item, Event, Event]]:
        """Runs one worker; yields each finished item with its event and the worker's ``ready`` event."""
        runtime, n_threads, _ = process
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
            "ring_bytes": working_set_bytes(slot.case for slot in item.slots),
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
