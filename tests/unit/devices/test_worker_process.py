"""Real child processes: what a parent learns of them, and that none outlives its parent."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeprof.bench.jobs import Item, Job, job_to_json
from edgeprof.core.types import MeasureProtocol
from edgeprof.devices import worker_process
from edgeprof.devices.worker_process import WorkerLostError, run_worker, stop_workers, worker_environment

PATIENCE_S = 60.0

EVENTS = """
import ctypes, json, os, signal, sys, time
def emit(**event):
    sys.stdout.write(json.dumps(event) + "\\n"); sys.stdout.flush()
"""

REAL_WORKER = """
import os
from edgeprof.bench import worker
from edgeprof.runtimes.torch_eager import RUNTIME
RUNTIME.start = lambda n: n  # without torch, whose import takes seconds
"""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has workers run a script instead."""

    def script(text: str, *, base: str = EVENTS) -> None:
        monkeypatch.setattr(worker_process, "WORKER_COMMAND", (sys.executable, "-c", base + textwrap.dedent(text)))

    return script


def job(*kinds: Any) -> dict[str, Any]:
    protocol = MeasureProtocol(
        effort="test", rounds=1, loads=1, min_samples=1, max_samples=1, time_budget_ns=1, warmup_budget_ns=1
    )
    items = [Item(kind=kind) for kind in kinds]
    return job_to_json(Job(runtime="torch_eager", n_threads=1, cpus=[], items=items, protocol=protocol))


def events(silence_s: float = PATIENCE_S, given: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    return run_worker(given or {}, n_threads=1, silence_s=silence_s)


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    """Whether the process ends; it is given a minute."""
    end = time.monotonic() + PATIENCE_S
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def test_events_come_in_order_up_to_the_end(scripted) -> None:
    scripted("emit(event='ready', a=1); emit(event='done', item=0); emit(event='end'); emit(event='after')")
    assert list(events()) == [{"event": "ready", "a": 1}, {"event": "done", "item": 0}, {"event": "end"}]


def test_the_job_arrives_whole_however_long(scripted) -> None:
    scripted("job = json.load(sys.stdin); emit(event='end', n=len(job['text']))")
    assert list(events(given={"text": "x" * 3_000_000})) == [{"event": "end", "n": 3_000_000}]


def test_a_worker_that_never_reads_its_job_falls_silent_too(scripted) -> None:
    """A pipe would be full long before, and the parent would hang in writing to it."""
    scripted("time.sleep(600)")
    with pytest.raises(WorkerLostError, match="no progress"):
        list(events(0.3, {"text": "x" * 3_000_000}))


def test_the_childs_environment_limits_every_librarys_threads(scripted) -> None:
    scripted("emit(event='end', seen={n: os.environ.get(n) for n in ('OMP_NUM_THREADS', 'GLIBC_TUNABLES')})")
    (event,) = run_worker({}, n_threads=3, silence_s=PATIENCE_S)
    assert event["seen"] == {"OMP_NUM_THREADS": "3", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    assert worker_environment(2, [])["OPENBLAS_NUM_THREADS"] == "2"


@pytest.mark.parametrize(("kinds", "tunables"), [(["probe"], None), (["probe", "hot"], "glibc.malloc.hugetlb=1")])
def test_a_heap_that_grows_in_steps_is_not_what_memory_is_measured_with(scripted, kinds, tunables) -> None:
    scripted("emit(event='end', seen=os.environ.get('GLIBC_TUNABLES'))")
    (event,) = run_worker({"items": [{"kind": kind} for kind in kinds]}, n_threads=1, silence_s=PATIENCE_S)
    assert event["seen"] == tunables


def test_a_silent_worker_times_out_and_is_ended(scripted) -> None:
    scripted("emit(event='ready', pid=os.getpid()); time.sleep(600)")
    found = events(0.5)
    pid = next(found)["pid"]
    with pytest.raises(WorkerLostError) as lost:
        next(found)
    assert lost.value.timed_out
    assert gone(pid)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_a_worker_that_is_killed_is_reported_with_its_signal(name: str, scripted) -> None:
    scripted(f"emit(event='ready'); os.kill(os.getpid(), signal.{name}); time.sleep(600)")
    found = events()
    next(found)
    with pytest.raises(WorkerLostError, match=f"ended early with signal {name}") as lost:
        next(found)
    assert not lost.value.timed_out


def test_a_worker_that_stops_without_its_end_is_lost_even_with_exit_code_0(scripted) -> None:
    scripted("emit(event='ready')")
    with pytest.raises(WorkerLostError, match="ended early with exit code 0"):
        list(events())


def test_the_last_words_of_a_worker_are_told(scripted) -> None:
    scripted("print('first', file=sys.stderr); print('no  memory\\tleft', file=sys.stderr); sys.exit(3)")
    with pytest.raises(WorkerLostError, match=r"exit code 3; last words: no memory left$"):
        list(events())


def test_what_is_no_event_is_told_and_not_parsed(scripted) -> None:
    scripted("print('garbage')")
    with pytest.raises(WorkerLostError, match="what is no event: b'garbage"):
        list(events())


def test_prints_of_libraries_do_not_reach_the_events(scripted) -> None:
    """The real worker's own redirection: Python's print and writes to descriptor 1 both go to stderr."""
    scripted(
        """
        def noisy(self, item):
            print("python garbage", flush=True)
            os.write(1, b'{"event": "end"}\\n')
            os.system("echo garbage of a child")
            return {"did": item.kind}
        worker.Worker._do = noisy
        worker.main()
        """,
        base=REAL_WORKER,
    )
    found = list(events(given=job("roof", "roof")))
    assert [e["event"] for e in found] == ["ready", "begin", "done", "begin", "done", "end"]
    assert [e["did"] for e in found if e["event"] == "done"] == ["roof", "roof"]


def test_closing_the_events_ends_the_worker_and_its_children(scripted) -> None:
    scripted(
        """
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        emit(event='ready', pids=[os.getpid(), child.pid]); time.sleep(600)
        """
    )
    found = events()
    pids = next(found)["pids"]
    assert all(alive(pid) for pid in pids)
    found.close()
    assert all(gone(pid) for pid in pids)


def test_all_workers_can_be_stopped_from_another_thread(scripted) -> None:
    scripted("emit(event='ready'); time.sleep(600)")
    ready, lost = threading.Barrier(3, timeout=PATIENCE_S), []

    def follow() -> None:
        found = events()
        next(found)
        ready.wait()
        with contextlib.suppress(WorkerLostError):
            next(found)
            return
        lost.append(True)

    threads = [threading.Thread(target=follow) for _ in range(2)]
    for thread in threads:
        thread.start()
    ready.wait()
    stop_workers()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert lost == [True, True]


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """The parent has no chance to clean up; the worker is busy and writes no event that could fail."""
    busy = REAL_WORKER + textwrap.dedent(
        f"""
        import time
        def busy(self, item):
            open({str(tmp_path / "pid")!r} + ".new", "w").write(str(os.getpid()))
            os.rename({str(tmp_path / "pid")!r} + ".new", {str(tmp_path / "pid")!r})
            time.sleep(600)
        worker.Worker._do = busy
        worker.main()
        """
    )
    script = f"""
import sys
from edgeprof.devices import worker_process
worker_process.WORKER_COMMAND = (sys.executable, "-c", {busy!r})
list(worker_process.run_worker({job("roof")!r}, n_threads=1, silence_s=600))
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE_S
    while not (tmp_path / "pid").exists() and time.monotonic() < end and parent.poll() is None:
        time.sleep(0.02)
    worker = int((tmp_path / "pid").read_text())
    assert alive(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    ended = gone(worker)
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    assert ended
