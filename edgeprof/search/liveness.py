"""Which workers are still at their trials: a trial whose worker is no more is ended, and costs nothing but itself."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeprof.search.study import SEEN, WORKER

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

BEAT_S = 60.0
"""Seconds between a worker's signs of life; each is a line of the journal."""

SILENT_S = 600.0
"""A worker of another machine that gave no sign for longer is no more; clocks of machines may differ by some of it."""

SAME_BEGIN_S = 5.0
"""A process's begin is counted from the machine's, which moves a little as the clock is set right."""

NAMELESS_S = 10.0
"""A trial gets its worker's name in the moment in which it is made; one that has none after so long has no worker."""


def this_worker() -> str:
    """This process among all that there are: its machine, its id, and when it began, as ids are given again."""
    import psutil

    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


@contextmanager
def at_work(trial: "Trial") -> Iterator[None]:
    """Says whose trial it is, and gives signs of life until the block ends."""
    trial.set_user_attr(WORKER, this_worker())
    trial.set_user_attr(SEEN, time.time())
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            try:
                trial.set_user_attr(SEEN, time.time())
            except Exception:  # the trial was ended, or the storage is gone: its worker will see it by itself
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def running(study: "Study") -> "list[FrozenTrial]":
    """The trials that somebody is at, or was when he died."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def release_lost(study: "Study") -> int:
    """Ends trials whose worker is no more; returns how many."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    lost = 0
    for trial in running(study):
        if not _is_alive(trial):
            try:
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            except UpdateFinishedTrialError:  # between the look and the word somebody else has ended it
                continue
            lost += 1
    return lost


def _is_alive(trial: "FrozenTrial") -> bool:
    host, _, process = str(trial.user_attrs.get(WORKER, "")).partition(":")
    if host == socket.gethostname():
        return _runs(process)
    seen = trial.user_attrs.get(SEEN)
    if isinstance(seen, int | float):
        return time.time() - seen < SILENT_S
    return trial.datetime_start is not None and time.time() - trial.datetime_start.timestamp() < NAMELESS_S


def _runs(process: str) -> bool:
    """Whether a process of this machine, named by id and begin, still runs; one that ended and was not waited for does not."""
    import psutil

    number, _, begin = process.partition(":")
    try:
        found = psutil.Process(int(number))
        same = abs(found.create_time() - float(begin)) < SAME_BEGIN_S
        return same and found.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False
