"""Processes that train beside this one: each joins the study by its name, and costs its own trial if it dies."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING

from edgeprof.cli.search_options import STORAGE_VARIABLE

if TYPE_CHECKING:
    from edgeprof.cli.search_session import Session

logger = logging.getLogger(__name__)

PATIENCE_S = 30
"""Seconds that a worker may take to end: when it joins in, no trial is left to wait for."""


@contextmanager
def workers(session: "Session", n_workers: int, n_trials: int) -> Iterator[None]:
    """Runs ``n_workers`` processes of ``edgeprof search worker`` for the time of the block; none is left behind it."""
    command = [sys.executable, "-m", "edgeprof", "search", "worker", "--study", session.study.study_name]
    command += ["--trials", str(n_trials), "--results", str(session.store.root)]
    storage = {} if session.storage is None else {STORAGE_VARIABLE: session.storage}
    with ExitStack() as stack:
        running = []
        for _ in range(n_workers):
            log = stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=os.environ | storage
            )
            stack.callback(_end, process)
            running.append((process, log))
        yield
        for process, log in running:
            _wait(process, log)


def _wait(process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
    """Waits for a worker whose trials are done, and tells what it failed of."""
    try:
        code = process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        return
    if code:
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines() or ["without a word"]
        logger.warning("a worker ended with %d: %s", code, lines[-1])


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Interrupts a worker that still runs, so that it ends what its objective has started; kills one that does not listen."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
