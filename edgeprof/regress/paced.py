"""A worker of one side as its parent sees it: started, asked for one item at a time, and ended."""

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from edgeprof.bench.jobs import Item, Job, job_to_json
from edgeprof.bench.prepare import SILENCE_S, Outcome
from edgeprof.bench.session import check_placement
from edgeprof.core.types import MeasureProtocol
from edgeprof.devices import worker_process
from edgeprof.devices.worker_process import Event, WorkerLostError, worker_environment
from edgeprof.regress.sides import Side


class PacedWorker:
    """One fresh process of a side. It does nothing between two items, and ends with the context."""

    def __init__(self, side: Side, job: Job, *, silence_s: float) -> None:
        self.side = side
        self.job = job
        self.ready: Event = {}
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        with tempfile.TemporaryFile() as given:
            given.write(json.dumps(job_to_json(job)).encode())
            given.seek(0)
            self._process = subprocess.Popen(
                side.command("paced.py", str(given.fileno())),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                pass_fds=[given.fileno()],
                env=side.environment(worker_environment(job.n_threads, (item.kind for item in job.items))),
                start_new_session=True,
            )
        worker_process._running.add(self._process)
        self._events: Iterator[Event] = worker_process._events(self._process, silence_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        worker_process._stop(self._process)
        worker_process._running.discard(self._process)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._stderr.close()

    def wait_until_ready(self) -> None:
        """Waits until its runtime has started.

        Raises:
            WorkerLostError: it died or fell silent before.
            MisplacedError: it has other threads or CPUs than it was given.
        """
        self.ready = self._next("ready")
        if self.job.cpus:
            check_placement(self.ready, self.job.n_threads, self.job.cpus)

    def step(self) -> Event:
        """Has it do its next item: the item's ``done`` or ``failed`` event.

        Raises:
            WorkerLostError: it died or fell silent.
        """
        self._next("begin")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"go on\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._lost(WorkerLostError("the worker ended early")) from None
        return self._next("done", "failed")

    def end(self) -> Event:
        """Waits for its end after the last item.

        Raises:
            WorkerLostError: it died or fell silent.
        """
        return self._next("end")

    def _next(self, *wanted: str) -> Event:
        try:
            event = next(self._events)
        except WorkerLostError as lost:
            raise self._lost(lost) from None
        if event["event"] not in wanted:
            raise WorkerLostError(f"the worker said {event['event']!r} where {' or '.join(wanted)} was due")
        return event

    def _lost(self, lost: WorkerLostError) -> WorkerLostError:
        """The same, with the side's name and its last words."""
        with os.fdopen(os.dup(self._stderr.fileno()), "rb") as stderr:
            tail = worker_process._tail(stderr)
        return WorkerLostError(f"{self.side.name}: {lost}{tail}", timed_out=lost.timed_out)


def do_in_side(side: Side, item: Item, *, runtime: str, n_threads: int, protocol: MeasureProtocol) -> Outcome:
    """Does one item in a process of its own that nothing is timed in."""
    job = Job(runtime=runtime, n_threads=n_threads, cpus=[], items=[item], protocol=protocol)
    try:
        with PacedWorker(side, job, silence_s=SILENCE_S[item.kind]) as worker:
            worker.wait_until_ready()
            event = worker.step()
    except WorkerLostError as lost:
        return Outcome(status="timeout" if lost.timed_out else "error", reason=str(lost))
    if event["event"] == "failed":
        return Outcome(status="error", reason=event["reason"])
    return Outcome(status="ok", result=event)
