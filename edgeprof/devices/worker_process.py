"""A worker as a child process on this machine: a job goes in, events come out, and a silent or dead worker is told apart."""

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from edgeprof.devices.local import WORKER_TUNABLES

logger = logging.getLogger(__name__)

Event = dict[str, Any]

STDERR_TAIL = 2000

WORKER_COMMAND = (sys.executable, "-m", "edgeprof.bench.worker")

_running: "set[subprocess.Popen[bytes]]" = set()


class WorkerLostError(Exception):
    """The worker died or fell silent; says how."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


def worker_environment(n_threads: int, kinds: Iterable[str]) -> dict[str, str]:
    """The child's environment for items of these ``kinds``: the parent's, one thread count for every library, and huge pages.

    Probes, which look at memory, go without: with them malloc grows its heap in steps of 2 MiB, in which a cell of a megabyte
    vanishes.
    """
    threads = {name: str(n_threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    tunables = {} if set(kinds) == {"probe"} else WORKER_TUNABLES
    return {**os.environ, **threads, **tunables, "PYTHONHASHSEED": "0"}


def run_worker(job: dict[str, Any], *, n_threads: int, silence_s: float) -> Iterator[Event]:
    """Runs one job in a fresh process and yields its events.

    Raises:
        WorkerLostError: no event came for ``silence_s`` seconds, or the process ended without its end record.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as stderr:
        given.write(json.dumps(job).encode())  # a file, unlike a pipe, takes a long job before the worker reads it
        given.seek(0)
        process = subprocess.Popen(
            WORKER_COMMAND,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=worker_environment(n_threads, (item["kind"] for item in job.get("items", ()))),
            start_new_session=True,
        )
        _running.add(process)
        try:
            yield from _events(process, silence_s)
        except WorkerLostError as lost:
            raise WorkerLostError(f"{lost}{_tail(stderr)}", timed_out=lost.timed_out) from None
        finally:
            _stop(process)
            _running.discard(process)
            logger.debug("worker stderr: %s", _tail(stderr))


def stop_workers() -> None:
    """Ends every worker of this process, so that the threads that wait for one of them go on at once."""
    for process in list(_running):
        _kill(process)


def _events(process: "subprocess.Popen[bytes]", silence_s: float) -> Iterator[Event]:
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as stdout:
            for line in stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=silence_s)
        except queue.Empty:
            raise WorkerLostError(f"no progress for {silence_s:.0f} s", timed_out=True) from None
        if line is None:
            raise WorkerLostError(f"the worker ended early with {_status(process)}")
        event = _parse(line)
        yield event
        if event["event"] == "end":
            return


def _parse(line: bytes) -> Event:
    try:
        event: Event = json.loads(line)
    except ValueError:
        raise WorkerLostError(f"the worker wrote what is no event: {line[:80]!r}") from None
    return event


def _status(process: "subprocess.Popen[bytes]") -> str:
    code = process.wait(timeout=10)
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends the worker and whatever it started."""
    _kill(process)
    process.wait()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _tail(stderr: Any) -> str:
    stderr.flush()
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - STDERR_TAIL))
    lines = stderr.read().decode(errors="replace").strip().splitlines()
    return f"; last words: {' '.join(lines[-1].split())[:300]}" if lines else ""
