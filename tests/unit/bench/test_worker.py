"""The worker's items with a real runtime, in this process."""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprof.bench import worker as worker_module
from edgeprof.bench.jobs import Item, Job, RingSlot
from edgeprof.bench.rings import null_case
from edgeprof.bench.worker import Worker, bind_timed, one_line, pin, require_artifact
from edgeprof.core.canonical import canonical_json
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.artifact import artifact_folder, artifact_spec, build_artifact, cached_artifact
from edgeprof.runtimes.torch_eager import RUNTIME


@pytest.fixture
def work(protocol, cache, monkeypatch: pytest.MonkeyPatch):
    """Does items in one worker and returns its events; every one of them can be sent."""
    monkeypatch.setattr(RUNTIME, "start", lambda n: n)  # torch's threads can be set once in a process
    monkeypatch.setattr("edgeprof.bench.sentinel.ROWS", 8)

    def do(*items: Item, sentinel: bool = False) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []

        def emit(event: dict[str, Any]) -> None:
            canonical_json(event)
            events.append(event)

        job = Job(runtime="torch_eager", n_threads=1, cpus=[], items=list(items), protocol=protocol, sentinel=sentinel)
        Worker(job, emit).run()
        return events

    return do


@pytest.fixture
def built(cache):
    def build(case):
        artifact = build_artifact(artifact_spec(case))
        build_artifact(artifact_spec(null_case(case)))
        return artifact

    return build


def result(events: list[dict[str, Any]], item: int = 0) -> dict[str, Any]:
    return next(e for e in events if e["event"] in ("done", "failed") and e["item"] == item)


def hot(case, seed: int = 5) -> Item:
    return Item(kind="hot", seed=seed, case=case, artifact_key=artifact_spec(case).key)


def test_every_item_begins_and_ends_between_ready_and_end(work, built, make_case) -> None:
    built(make_case("gqa"))
    events = work(hot(make_case("gqa")), hot(make_case("gqa")))
    assert [e["event"] for e in events] == ["ready", "begin", "done", "begin", "done", "end"]
    assert [e["item"] for e in events if "item" in e] == [0, 0, 1, 1]
    assert events[0]["n_threads_seen"] == 1
    assert events[0]["affinity_seen"] == sorted(os.sched_getaffinity(0))


def test_a_build_leaves_its_artifact_in_the_cache(work, make_case) -> None:
    spec = artifact_spec(make_case("swa"))
    done = result(work(Item(kind="build", spec=spec)))
    assert done["artifact"]["key"] == spec.key
    assert cached_artifact(spec.key) is not None


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_probe_tells_memory_and_numerics(dtype: str, work, built, make_case) -> None:
    case = make_case("gqa", dtype=dtype, kv_dtype=dtype)
    built(case)
    item = Item(
        kind="probe",
        case=case,
        artifact_key=artifact_spec(case).key,
        null_artifact_key=artifact_spec(null_case(case)).key,
    )
    done = result(work(item))
    assert set(done["memory"]) == {"peak_rss_delta_bytes", "anon_delta_bytes", "file_delta_bytes", "code_delta_bytes"}
    assert 0 < done["max_rel_error"] < (1e-5 if dtype == "fp32" else 2e-2)
    assert done["quantization_error"] is None if dtype == "fp32" else 0 < done["quantization_error"] < 0.02


def test_a_hot_load_is_timed_warm(work, built, make_case, protocol) -> None:
    built(make_case("gqa"))
    done = result(work(hot(make_case("gqa"))))
    assert protocol.min_samples <= len(done["samples_ns"]) <= protocol.max_samples
    assert all(isinstance(ns, int) and ns > 0 for ns in done["samples_ns"])
    assert done["load_ns"] > 0
    assert done["first_call_ns"] > 0
    assert done["warmup_calls"] >= 3
    assert done["settled"] in (True, False)


def test_a_ring_tells_each_slot_in_order(work, built, make_case) -> None:
    case = make_case("swa", cache_state="streaming")
    built(case)
    null = null_case(case)
    slots = [
        RingSlot(artifact_key=artifact_spec(c).key, case=c, case_key=k) for c, k in ((case, case.key), (null, None))
    ]
    rows = result(work(Item(kind="ring", seed=3, slots=slots * 2)))["slots"]
    assert len(rows) == 4
    assert len({len(row["samples_ns"]) for row in rows}) == 1
    assert all(set(row) == {"load_ns", "first_call_ns", "samples_ns", "settled"} for row in rows)


def test_every_load_of_a_ring_has_weights_and_state_of_its_own(work, built, make_case, monkeypatch) -> None:
    case = make_case("gqa")
    built(case)
    loaded = []
    original = Worker._load

    def load(self, artifact, case, seed):
        loaded.append(original(self, artifact, case, seed))
        return loaded[-1]

    monkeypatch.setattr(Worker, "_load", load)
    slot = RingSlot(artifact_key=artifact_spec(case).key, case=case, case_key=case.key)
    assert result(work(Item(kind="ring", seed=3, slots=[slot] * 3)))["event"] == "done"
    for get in (lambda x: x.cell.module.w_q, lambda x: x.cell.state["k"]):
        values = [get(x) for x in loaded]
        assert len({v.data_ptr() for v in values}) == 3
        assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(values))


def test_a_cell_that_fails_says_why_and_the_others_go_on(work, built, make_case) -> None:
    built(make_case("gqa"))
    events = work(hot(make_case("swa")), hot(make_case("gqa")))
    failed = result(events)
    assert failed["event"] == "failed"
    assert "is not in the cache any more; run the command again" in failed["reason"]
    assert result(events, 1)["event"] == "done"


def test_an_artifact_whose_files_are_gone_fails_as_one_row(work, built, make_case) -> None:
    artifact = built(make_case("gqa"))
    (artifact_folder(artifact.key) / artifact.files["weights"]).unlink()
    assert result(work(hot(make_case("gqa"))))["event"] == "failed"


def test_an_output_that_is_not_finite_is_sent_as_none(work, built, make_case, monkeypatch) -> None:
    case = make_case("gqa")
    built(case)
    monkeypatch.setattr("edgeprof.bench.gate.gate_error", lambda *args: float("inf"))
    item = Item(kind="probe", case=case, artifact_key=artifact_spec(case).key)
    assert result(work(item))["max_rel_error"] is None


def test_the_sentinel_runs_before_and_after_where_it_is_asked_for(work) -> None:
    first, last = work(sentinel=True)
    assert len(first["sentinel_ns"]) == len(last["sentinel_ns"]) == 9
    assert [e["sentinel_ns"] for e in work()] == [[], []]


def test_the_timed_call_ends_its_context(built, make_case) -> None:
    """The whole context is in the cell's cache, and the call writes its last rows."""
    case = make_case("gqa", q_len=2, kv_len=9)
    artifact = built(case)
    cell = RUNTIME.load(make_spec("gqa", case.dims), artifact, artifact_folder(artifact.key), case.kv_len)
    bind_timed(cell, case)()
    written = cell.state["k"].abs().sum((0, 1, 3)) > 0
    assert written.tolist() == [False] * 7 + [True] * 2
    assert cell.output().shape == (1, 2, 32)


def test_a_process_is_pinned_and_says_where_it_is() -> None:
    before = os.sched_getaffinity(0)
    try:
        assert pin([min(before)]) == [min(before)]
        assert pin([]) == [min(before)]
    finally:
        os.sched_setaffinity(0, before)


def test_errors_are_one_line_of_bounded_length() -> None:
    assert one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert len(one_line(ValueError("x" * 1000))) == 300


def test_a_missing_artifact_is_named(cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match="artifact 0000 is not in the cache"):
        require_artifact("0000")


def test_descriptor_1_no_longer_reaches_the_events(tmp_path: Path) -> None:
    saved = os.dup(1), os.dup(2)
    out, err = tmp_path / "out", tmp_path / "err"
    try:
        for path, descriptor in ((out, 1), (err, 2)):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT)
            os.dup2(opened, descriptor)
            os.close(opened)
        with worker_module._own_stdout() as events:
            os.write(1, b"garbage\n")
            events.write("event\n")
    finally:
        for kept, descriptor in zip(saved, (1, 2), strict=True):
            os.dup2(kept, descriptor)
            os.close(kept)
    assert (out.read_text(), err.read_text()) == ("event\n", "garbage\n")


def test_a_trace_tells_the_parts_of_a_composite(work, built, make_case) -> None:
    case = make_case("model")
    built(case)
    trace = result(work(Item(kind="trace", seed=3, case=case, artifact_key=artifact_spec(case).key)))["trace"]
    assert set(trace["parts"]) == {"embedding", "layers.0", "layers.1", "layers.2", "head", "other"}
    assert min(ns for path, ns in trace["parts"].items() if path != "other") > 0
    assert 0 < trace["calls"] <= worker_module.TRACED_CALLS
    assert trace["total_ns"] > 0
