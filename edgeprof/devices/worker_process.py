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
from collections.abc import Iterator
from typing import Any

from edgeprof.devices.local import WORKER_TUNABLES

logger = logging.getLogger(__name__)

Event = dict[str, Any]

STDERR_TAIL = 2000


class WorkerLostError(Exception):
    """The worker died or fell silent; says how."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


def worker_environment(n_threads: int) -> dict[str, str]:
    """The child's environment: the parent's, one thread count for every library, and huge pages."""
    threads = {name: str(n_threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {**os.environ, **threads, **WORKER_TUNABLES, "PYTHONHASHSEED": "0"}


def run_worker(job: dict[str, Any], *, n_threads: int, silence_s: float) -> Iterator[Event]:
    """Runs one job in a fresh process and yields its events.

    Raises:
        WorkerLostError: no event came for ``silence_s`` seconds, or the process ended without its end record.
    """
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeprof.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=worker_environment(n_threads),
            start_new_session=True,
        )
        try:
            yield from _events(process, job, silence_s)
        except WorkerLostError as lost:
            raise WorkerLostError(f"{lost}{_tail(stderr)}", timed_out=lost.timed_out) from None
        finally:
            _stop(process)
            logger.debug("worker stderr: %s", _tail(stderr))


def _events(process: "subprocess.Popen[bytes]", job: dict[str, Any], silence_s: float) -> Iterator[Event]:
    assert process.stdin is not None
    assert process.stdout is not None
    lines: queue.Queue[bytes | None] = queue.Queue()
    stdout = process.stdout

    def read() -> None:
        for line in stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
    except BrokenPipeError:
        raise WorkerLostError(f"the worker died at start with {_status(process)}") from None
    while True:
        try:
            line = lines.get(timeout=silence_s)
        except queue.Empty:
            raise WorkerLostError(f"no progress for {silence_s:.0f} s", timed_out=True) from None
        if line is None:
            raise WorkerLostError(f"the worker ended early with {_status(process)}")
        event: Event = json.loads(line)
        yield event
        if event["event"] == "end":
            return


def _status(process: "subprocess.Popen[bytes]") -> str:
    code = process.wait(timeout=10)
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends the worker and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(stderr: Any) -> str:
    stderr.flush()
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - STDERR_TAIL))
    lines = stderr.read().decode(errors="replace").strip().splitlines()
    return f"; last words: {' '.join(lines[-1].split())[:300]}" if lines else ""
