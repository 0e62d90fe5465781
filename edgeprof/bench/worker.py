"""The worker process: reads one job, does its items one after another, and writes an event a line.

Started as ``python -m edgeprof.bench.worker``. Events go to the stdout it was given; everything that libraries print goes to
stderr instead. The last event is ``end``: a worker that stops without it was lost.
"""

import ctypes
import dataclasses
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from edgeprof.bench.jobs import Item, Job, job_from_json
from edgeprof.bench.memory import MemoryWatch, use_small_pages
from edgeprof.bench.protocol import quiet_gc, sample, spare_imports, warm_up
from edgeprof.core.canonical import canonical_json, plain
from edgeprof.core.types import Artifact, BenchCase
from edgeprof.models.composite import CompositeSpec
from edgeprof.operators.arrays import random_input
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.artifact import artifact_folder, build_artifact, cached_artifact, effective_weights, fresh_copy
from edgeprof.runtimes.base import RUNTIMES, Call, Cell, Runtime

Event = dict[str, Any]

TIMED_INPUT_SEED = 11

TRACE_WARM_UP, TRACED_CALLS = 5, 20
"""Calls under a tracer before those that count, and the most that do: each of them leaves hundreds of events."""

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Reads a job from stdin and does it."""
    die_with_parent()
    events = _own_stdout()
    job = job_from_json(json.load(sys.stdin))

    def emit(event: Event) -> None:
        events.write(canonical_json(event) + "\n")
        events.flush()

    Worker(job, emit).run()


def die_with_parent() -> None:
    """Has the kernel end this process when the one that started it ends, even by SIGKILL; where it can (Linux).

    An orphan would keep a core busy under the next measurement. One whose parent died before this call ends at its first event.

    Source: prctl(2).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _own_stdout() -> TextIO:
    """Keeps stdout for events and points file descriptor 1 at stderr, so that a library's prints cannot break them."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


class Worker:
    """Does the items of one job in this process."""

    def __init__(self, job: Job, emit: Callable[[Event], None]) -> None:
        self.job = job
        self.emit = emit
        self.runtime: Runtime = RUNTIMES.get(job.runtime)

    def run(self) -> None:
        """Readies the runtime, pins the process, does the items, and says that it is done."""
        if self.job.n_threads > 1:  # a runtime's threads stay where it starts them
            pin(self.job.cpus)
        seen = self.runtime.start(self.job.n_threads)  # takes seconds to import, on any CPU
        spare_imports()
        affinity = pin(self.job.cpus)
        self.emit(
            {"event": "ready", "n_threads_seen": seen, "affinity_seen": affinity, "sentinel_ns": self._sentinel()}
        )
        for index, item in enumerate(self.job.items):
            self.emit({"event": "begin", "item": index})
            try:
                result = self._do(item)
            except Exception as error:  # a cell that fails is a row that says why; the others go on
                traceback.print_exc()
                self.emit({"event": "failed", "item": index, "reason": one_line(error)})
            else:
                self.emit({"event": "done", "item": index, **result})
        self.emit({"event": "end", "sentinel_ns": self._sentinel()})

    def _do(self, item: Item) -> Event:
        actions = {
            "build": self._build,
            "probe": self._probe,
            "hot": self._hot,
            "ring": self._ring,
            "roof": self._roof,
            "trace": self._trace,
        }
        return actions[item.kind](item)

    def _sentinel(self) -> list[int]:
        if not self.job.sentinel:
            return []
        from edgeprof.bench.sentinel import sentinel_ns

        return sentinel_ns()

    def _build(self, item: Item) -> Event:
        assert item.spec is not None
        return {"artifact": plain(build_artifact(item.spec))}

    def _probe(self, item: Item) -> Event:
        """Memory of a first load and two calls, then the numerics."""
        from edgeprof.bench.gate import gate_error, quantization_error
        from edgeprof.operators.arrays import random_weights
        from edgeprof.runtimes.artifact import WEIGHTS_SEED

        case, artifact = self._case(item)
        operator = make_spec(case.op, case.dims)
        use_small_pages()
        if item.null_artifact_key is not None:
            self._warm_runtime(item.null_artifact_key, case)
        watch = MemoryWatch(artifact_folder(artifact.key))
        cell = self.runtime.load(operator, artifact, artifact_folder(artifact.key), case.kv_len)
        call = bind_timed(cell, case)
        call()
        call()
        memory = watch.deltas()
        weights = effective_weights(artifact)
        error = gate_error(cell, operator, case, weights)
        rounding = None
        if artifact.effective is not None:
            rounding = quantization_error(operator, case, random_weights(operator, WEIGHTS_SEED), weights)
        finite = error if error < float("inf") else None
        return {"memory": memory, "max_rel_error": finite, "quantization_error": rounding}

    def _warm_runtime(self, key: str, case: BenchCase) -> None:
        """Loads and calls the identity operator, so that what the runtime allocates once is not charged to the cell."""
        artifact = require_artifact(key)
        operator = make_spec(artifact.spec.op, artifact.spec.dims)
        cell = self.runtime.load(operator, artifact, artifact_folder(key), case.kv_len)
        cell.bind(random_input(operator, batch=case.batch, q_len=case.q_len, seed=0), case.past_len)()

    def _hot(self, item: Item) -> Event:
        case, artifact = self._case(item)
        loaded = self._load(artifact, case, item.seed)
        with quiet_gc():
            warm = warm_up(loaded.call, self.job.protocol.warmup_budget_ns)
            samples = sample(loaded.call, self.job.protocol)
        return {**loaded.facts(), "samples_ns": samples, "settled": warm.settled, "warmup_calls": warm.calls}

    def _ring(self, item: Item) -> Event:
        from edgeprof.bench.ring import Ring

        loads = []
        for index, slot in enumerate(item.slots):
            loads.append(self._load(require_artifact(slot.artifact_key), slot.case, item.seed + index))
        ring = Ring([x.call for x in loads], decode=item.slots[0].case.phase == "decode")
        with quiet_gc():
            ring.run(self.job.protocol)
        rows = [
            {**x.facts(), "samples_ns": s, "settled": ok}
            for x, s, ok in zip(loads, ring.samples, ring.settled, strict=True)
        ]
        return {"slots": rows}

    def _roof(self, item: Item) -> Event:
        from edgeprof.bench.roof import measure_roof

        return {"roof": measure_roof(self.job.n_threads)}

    def _trace(self, item: Item) -> Event:
        """Times the parts inside a composite: calls under the runtime's tracer, which are never timed themselves."""
        from edgeprof.runtimes.trace import TRACERS, summarise

        case, artifact = self._case(item)
        operator = make_spec(case.op, case.dims)
        assert isinstance(operator, CompositeSpec)
        tracer = TRACERS.get(case.runtime)
        with fresh_copy(artifact, item.seed) as folder, tracer.load(operator, artifact, folder, case.kv_len) as traced:
            traced.cell.fill(item.seed)
            call = bind_timed(traced.cell, case)
            with quiet_gc():
                for _ in range(TRACE_WARM_UP):
                    call()
                timed = len(sample(call, dataclasses.replace(self.job.protocol, max_samples=TRACED_CALLS)))
            return {"trace": plain(summarise(traced.told(), timed))}

    def _case(self, item: Item) -> tuple[BenchCase, Artifact]:
        assert item.case is not None
        assert item.artifact_key is not None
        return item.case, require_artifact(item.artifact_key)

    def _load(self, artifact: Artifact, case: BenchCase, seed: int) -> "Loaded":
        """A load whose weights share no bytes with any other, its state filled, its first call made."""
        operator = make_spec(case.op, case.dims)
        with fresh_copy(artifact, seed) as folder:
            begin = time.perf_counter_ns()
            cell = self.runtime.load(operator, artifact, folder, case.kv_len)
            load_ns = time.perf_counter_ns() - begin
            cell.fill(seed)
            call = bind_timed(cell, case)
            begin = time.perf_counter_ns()
            call()
            first_call_ns = time.perf_counter_ns() - begin
        return Loaded(cell, call, load_ns, first_call_ns)


class Loaded:
    """A loaded cell with its bound call and what loading took."""

    def __init__(self, cell: Cell, call: Call, load_ns: int, first_call_ns: int) -> None:
        self.cell = cell
        self.call = call
        self.load_ns = load_ns
        self.first_call_ns = first_call_ns

    def facts(self) -> Event:
        """The durations of loading and of the first call."""
        return {"load_ns": self.load_ns, "first_call_ns": self.first_call_ns}


def bind_timed(cell: Cell, case: BenchCase) -> Call:
    """The call that a case stands for: q_len tokens that end its context."""
    operator = make_spec(case.op, case.dims)
    x = random_input(operator, batch=case.batch, q_len=case.q_len, seed=TIMED_INPUT_SEED)
    return cell.bind(x, case.past_len)


def require_artifact(key: str) -> Artifact:
    """The cached artifact that the parent said is there."""
    artifact = cached_artifact(key)
    if artifact is None:
        raise FileNotFoundError(f"artifact {key} is not in the cache any more; run the command again to build it")
    return artifact


def pin(cpus: list[int]) -> list[int]:
    """Pins this process to ``cpus`` and returns what the kernel then says; empty where it cannot be asked."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    if cpus:
        os.sched_setaffinity(0, cpus)
    return sorted(os.sched_getaffinity(0))


def one_line(error: BaseException) -> str:
    """An exception as one line of at most 300 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."


if __name__ == "__main__":
    main()
