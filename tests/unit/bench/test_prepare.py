"""Builds and probes run two at a time, are recorded as they end, and end with the session."""

import threading

import pytest

from edgeprof.bench import prepare
from edgeprof.bench.jobs import Item
from edgeprof.bench.prepare import Outcome, build_missing, describe, do_alone, find_roof, in_parallel
from edgeprof.runtimes.artifact import artifact_spec, cached_artifact


def ok() -> Outcome:
    return Outcome(status="ok", result={})


def test_what_is_done_is_told_before_what_is_slow() -> None:
    """Otherwise a kill would lose results that have been there for long."""
    release = threading.Event()

    def do(name: str) -> Outcome:
        if name == "slow":
            assert release.wait(30)
        return ok()

    told = []
    for name, _ in in_parallel(do, ["slow", "a", "b", "c"]):
        told.append(name)
        if len(told) == 3:
            release.set()
    assert told == ["a", "b", "c", "slow"]


def test_an_interrupt_drops_what_has_not_begun_and_ends_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()
    monkeypatch.setattr(prepare, "stop_workers", stopped.set)
    begun = []

    def do(number: int) -> Outcome:
        begun.append(number)
        if number > 0:
            assert stopped.wait(30)
        return ok()

    def interrupted() -> None:
        for _ in in_parallel(do, range(50)):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stopped.is_set()
    assert len(begun) <= prepare.PARALLEL + 1


def test_only_what_the_cache_lacks_is_built(workers, make_recorder, reporter, make_case) -> None:
    recorder = make_recorder()
    build_missing([make_case("gqa")], recorder, reporter)
    assert sorted(item.spec.op for item in workers.items("build")) == ["gqa", "identity"]
    build_missing([make_case("gqa"), make_case("gqa", kv_len=64), make_case("swa")], recorder, reporter)
    assert sorted(item.spec.op for item in workers.items("build")) == ["gqa", "identity", "swa"]
    assert cached_artifact(artifact_spec(make_case("swa")).key) is not None


def test_an_unwritable_cache_is_told_before_anything_is_built(
    workers, make_recorder, reporter, make_case, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprof.core.errors import UsageError

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEPROF_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="set EDGEPROF_CACHE to a writable one"):
        build_missing([make_case("gqa")], make_recorder(), reporter)
    assert workers.jobs == []


def test_a_roof_is_found_once_for_each_thread_count(workers, make_recorder, reporter, make_case) -> None:
    recorder = make_recorder()
    workers.answer = lambda item: {
        "roof": {
            "n_threads": workers.jobs[-1].n_threads, "bytes_per_s": 1e10, "flops_per_s": {"fp32": 1e11}, "probes": {}
        }
    }  # fmt: skip
    for cases in ([make_case("gqa")], [make_case("gqa"), make_case("gqa", n_threads=2)]):
        find_roof(cases, recorder, reporter)
    assert [job.n_threads for job in workers.jobs] == [1, 2]
    assert workers.jobs[1].cpus == [0, 1]


def test_a_worker_without_a_result_is_an_error(make_recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "run_worker", lambda *args, **kw: iter([{"event": "ready"}, {"event": "end"}]))
    outcome = do_alone(Item(kind="roof"), make_recorder(), runtime="torch_eager", n_threads=1)
    assert outcome == Outcome(status="error", reason="the worker ended without a result")


def test_a_case_in_a_few_words(make_case) -> None:
    assert describe(make_case("gqa")) == "torch_eager fp32 gqa decode kv16"
    assert describe(make_case("gqa", phase="prefill", q_len=16)) == "torch_eager fp32 gqa prefill q16"
