"""What a session measures, resumes and records, with workers that follow a script."""

from collections import Counter
from dataclasses import replace

import pytest

from edgeprof.bench.report import build_report
from edgeprof.bench.session import MisplacedError, Session, check_placement, item_cases, label
from edgeprof.devices.worker_process import WorkerLostError
from edgeprof.operators.traffic import working_set_bytes
from edgeprof.runtimes.artifact import artifact_spec


@pytest.fixture
def run(workers, make_recorder, reporter):
    """Runs a session of its own over cases and returns the records that it added."""

    def session(cases, *, fresh: bool = False, **recorder):
        made = make_recorder(**recorder)
        before = len(made.store.records("fake"))
        workers.jobs.clear()
        Session(made, reporter, fresh=fresh).run(cases)
        assert reporter.counts() == dict(reporter.stages)
        reporter.stages.clear()
        reporter.steps.clear()
        return made.store.records("fake")[before:]

    return session


def rows(make_recorder, cases) -> list[tuple[str, str | None, int]]:
    recorder = make_recorder()
    found = build_report("fake", recorder.store.records("fake"), cases, recorder.poolable).measurements
    return [(m.status, m.reason, len(m.instances)) for m in found]


def kinds(records) -> Counter:
    return Counter((r.kind, r.status) for r in records)


def test_a_session_builds_checks_finds_the_roof_and_measures(run, workers, make_case) -> None:
    hot, streaming = make_case("gqa"), make_case("gqa", cache_state="streaming")
    records = run([hot, streaming])
    assert [len(workers.items(k)) for k in ("build", "probe", "roof", "hot", "ring")] == [3, 1, 1, 4, 2]
    turns = len(workers.items("ring")[0].slots) // 3
    assert turns > 1
    assert kinds(records) == {
        ("probe", "ok"): 2,  # one process looked for both cache states
        ("roof", "ok"): 1,
        ("latency", "ok"): 4 + 2 * turns,
        ("sentinel", "ok"): 4,  # before and after, in each of two rounds
    }


def test_each_round_is_a_fresh_process_of_each_runtime_and_thread_count(run, workers, make_case) -> None:
    run([make_case("gqa"), make_case("gqa", n_threads=2), make_case("gqa", runtime="onnxruntime")])
    jobs = [job for job in workers.jobs if job.sentinel]
    groups = Counter((job.runtime, job.n_threads) for job in jobs)
    assert groups == {("torch_eager", 1): 2, ("torch_eager", 2): 2, ("onnxruntime", 1): 2}
    assert all(job.cpus == list(range(job.n_threads)) for job in jobs)


def test_loads_get_bytes_of_their_own(run, workers, make_case) -> None:
    run([make_case("gqa"), make_case("swa"), make_case("gqa", cache_state="streaming")])
    seeds = [item.seed for item in workers.measured]
    assert len(set(seeds)) == len(seeds)
    assert 0 not in seeds


def test_records_hold_what_the_worker_saw(run, make_case) -> None:
    records = [r for r in run([make_case("gqa")]) if r.kind == "latency"]
    assert {r.round for r in records} == {0, 1}
    for r in records:
        assert (r.load_ns, r.first_call_ns, r.samples_ns, r.warmup_calls) == (500, 300, [100, 101, 102], 11)
        assert (r.n_threads_seen, r.affinity_seen, r.settled) == (1, [0], True)
        assert r.artifact_key == artifact_spec(make_case("gqa")).key


def test_ring_rows_know_their_ring(run, workers, make_case) -> None:
    case = make_case("swa", cache_state="streaming")
    record = next(r for r in run([case]) if r.kind == "latency")
    slots = workers.items("ring")[0].slots
    assert record.ring[:3] == [case.key, "(swiglu)", "(identity)"]
    assert len(record.ring) == len(slots)
    assert record.ring_bytes == working_set_bytes(s.case for s in slots) >= case.ring_bytes
    assert record.call_overhead_ns == 7


def test_fillers_are_never_recorded(run, make_case) -> None:
    records = run([make_case("swa", cache_state="streaming")])
    assert {r.case.op for r in records if r.case is not None} == {"swa"}


def test_the_same_command_again_measures_nothing_and_writes_nothing(run, workers, make_case) -> None:
    cases = [make_case("gqa"), make_case("gqa", cache_state="streaming"), make_case("swa", dtype="int4")]
    assert kinds(run(cases))["probe", "unsupported"] == 1
    assert run(cases) == []
    assert workers.jobs == []


def test_resume_measures_only_what_is_missing(run, workers, make_case) -> None:
    done, new = make_case("gqa"), make_case("swa")
    run([done])
    records = run([done, new])
    assert {item.case.op for item in workers.items("hot")} == {"swa"}
    assert {r.case.op for r in records if r.case is not None} == {"swa"}
    assert len(workers.items("hot")) == 4
    assert workers.items("roof") == []


def test_a_session_that_was_cut_short_is_filled_up(run, workers, make_case, make_recorder) -> None:
    case = make_case("gqa")
    run([case])
    path = make_recorder().store.root / "fake" / "instances.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    latencies = [i for i, line in enumerate(lines) if '"kind":"latency"' in line]
    path.write_text("".join(line for i, line in enumerate(lines) if i not in latencies[1:]))
    run([case])
    assert len(workers.items("hot")) == 3
    assert workers.items("probe") == workers.items("build") == []


@pytest.mark.parametrize("change", ["fingerprint", "protocol", "runtime", "artifact"])
def test_other_conditions_are_measured_anew(
    change: str, run, workers, make_case, host, protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case("gqa")
    run([case])
    other: dict = {}
    match change:
        case "fingerprint":
            other["host"] = replace(host, fingerprint="0" * 16)
        case "protocol":
            other["protocol"] = replace(protocol, version=protocol.version + 1)
        case "runtime":
            monkeypatch.setattr("edgeprof.runtimes.artifact.runtime_version", lambda runtime: "9.9")
            monkeypatch.setattr("edgeprof.bench.recorder.runtime_version", lambda runtime: "9.9")
        case "artifact":
            monkeypatch.setattr("edgeprof.runtimes.artifact._source_hash", lambda op, runtime: "changed")
    run([make_case("gqa")], **other)
    assert len(workers.items("probe")) == 1
    assert len(workers.items("hot")) == 4
    assert run([make_case("gqa")], **other) == []


def test_more_effort_adds_to_what_is_there(run, workers, make_case, protocol) -> None:
    cases = [make_case("gqa"), make_case("gqa", cache_state="streaming")]
    run(cases)
    more = replace(protocol, effort="more", rounds=5, loads=3)
    run(cases, protocol=more)
    assert len(workers.items("hot")) == 15 - 4
    assert len(workers.items("ring")) == 5 - 2
    assert workers.items("probe") == []
    run(cases)  # less effort is served by what is there
    assert workers.jobs == []


def test_fresh_measures_everything_anew_and_keeps_the_old(run, workers, make_case) -> None:
    cases = [make_case("gqa"), make_case("gqa", dtype="int4")]
    first = run(cases)
    second = run(cases, fresh=True)
    assert len(workers.items("hot")) == 4
    assert len(workers.items("probe")) == 1
    assert kinds(second)["latency", "ok"] == kinds(first)["latency", "ok"]
    assert kinds(second)["probe", "unsupported"] == 1  # a report on this session alone needs its own
    assert {r.session_id for r in first} != {r.session_id for r in second}


def test_a_lost_worker_fails_the_item_in_flight_and_the_rest_run(run, workers, make_case, make_recorder) -> None:
    cases = [make_case("gqa"), make_case("swa"), make_case("short_conv")]
    lost = WorkerLostError("the worker ended early with signal SIGSEGV")
    workers.answer = lambda item: lost if item.kind == "hot" and item.case.op == "swa" else None
    records = run(cases)
    assert kinds(records)["probe", "error"] == 1
    assert Counter(r.case.op for r in records if r.kind == "latency") == {"gqa": 4, "short_conv": 4}
    assert sum(item.case.op == "swa" for item in workers.items("hot")) >= 1
    status, reason, n = rows(make_recorder, cases)[1]
    assert (status, reason, n) == ("error", str(lost), 0)


def test_a_case_that_failed_is_not_tried_again_in_the_session_and_is_in_the_next(run, workers, make_case) -> None:
    case = make_case("swa")
    workers.answer = lambda item: WorkerLostError("gone") if item.kind == "hot" else None
    run([case])
    assert len([job for job in workers.jobs if job.sentinel]) == 1
    workers.answer = lambda item: None
    run([case])
    assert len(workers.items("hot")) == 4
    assert workers.items("probe") == []


def test_loads_before_a_loss_are_kept_and_still_make_a_row(run, workers, make_case, make_recorder) -> None:
    case = make_case("gqa")
    count = 0

    def answer(item):
        nonlocal count
        count += item.kind == "hot"
        return WorkerLostError("gone") if count == 3 and item.kind == "hot" else None

    workers.answer = answer
    records = run([case])
    assert kinds(records)["latency", "ok"] == 2
    assert rows(make_recorder, [case]) == [("ok", None, 2)]


def test_a_ring_that_is_lost_fails_its_cases_and_no_others(run, workers, make_case, make_recorder) -> None:
    cases = [make_case("gqa"), *(make_case(op, cache_state="streaming") for op in ("gqa", "swa"))]
    workers.answer = lambda item: WorkerLostError("gone") if item.kind == "ring" else None
    run(cases)
    assert [status for status, _, _ in rows(make_recorder, cases)] == ["ok", "error", "error"]


@pytest.mark.parametrize("kind", ["build", "probe", "hot", "ring"])
def test_silence_ends_as_a_timeout_row(kind: str, run, workers, make_case, make_recorder) -> None:
    cases = [make_case("gqa", cache_state="streaming" if kind == "ring" else "hot")]
    lost = WorkerLostError("no progress for 300 s", timed_out=True)
    workers.answer = lambda item: lost if item.kind == kind else None
    run(cases)
    status, reason, n = rows(make_recorder, cases)[0]
    assert (status, n) == ("timeout", 0)
    assert "no progress for 300 s" in reason


@pytest.mark.parametrize("kind", ["build", "probe", "hot", "ring"])
def test_an_exception_in_the_worker_ends_as_an_error_row(kind: str, run, workers, make_case, make_recorder) -> None:
    cases = [make_case("gqa", cache_state="streaming" if kind == "ring" else "hot")]
    failed = {"event": "failed", "reason": "RuntimeError: no kernel"}
    workers.answer = lambda item: failed if item.kind == kind else None
    run(cases)
    status, reason, n = rows(make_recorder, cases)[0]
    assert (status, n) == ("error", 0)
    assert "RuntimeError: no kernel" in reason


def test_a_failed_build_fails_only_the_cases_that_need_it(run, workers, make_case, make_recorder) -> None:
    cases = [make_case("gqa"), make_case("swa")]
    workers.answer = lambda item: (
        {"event": "failed", "reason": "x"} if item.kind == "build" and item.spec.op == "swa" else None
    )
    run(cases)
    assert [status for status, _, _ in rows(make_recorder, cases)] == ["ok", "error"]
    assert rows(make_recorder, cases)[1][1] == "build of swa failed: x"


def test_a_filler_that_cannot_be_built_stops_the_ring_and_not_the_hot_loop(
    run, workers, make_case, make_recorder
) -> None:
    cases = [make_case("gqa"), make_case("gqa", cache_state="streaming")]
    workers.answer = lambda item: (
        {"event": "failed", "reason": "x"} if item.kind == "build" and item.spec.op == "swiglu" else None
    )
    run(cases)
    assert [status for status, _, _ in rows(make_recorder, cases)] == ["ok", "error"]


def test_unsupported_is_a_row_that_says_why_and_starts_no_process(run, workers, make_case, make_recorder) -> None:
    case = make_case("gqa", dtype="int4")
    records = run([case])
    assert workers.jobs == []
    assert kinds(records) == {("probe", "unsupported"): 1}
    status, reason, _ = rows(make_recorder, [case])[0]
    assert status == "unsupported"
    assert "fp32 or bf16" in reason


@pytest.mark.parametrize("error", [0.5, None])
def test_wrong_output_is_a_row_and_never_timed(error: float | None, run, workers, make_case, make_recorder) -> None:
    right, wrong = make_case("gqa"), make_case("swa")
    ring = make_case("swa", cache_state="streaming")
    workers.answer = lambda item: {"max_rel_error": error} if item.kind == "probe" and item.case.op == "swa" else None
    records = run([right, wrong, ring])
    assert {r.case.op for r in records if r.kind == "latency"} == {"gqa"}
    assert workers.items("ring") == []
    assert [status for status, _, _ in rows(make_recorder, [right, wrong, ring])] == ["ok"] + 2 * ["wrong_output"]
    run([right, wrong, ring])  # it is looked at again, in case it was mended
    assert len(workers.items("probe")) == 1
    assert workers.measured == []


def test_a_wrong_cell_is_not_in_the_others_ring(run, workers, make_case) -> None:
    cases = [make_case(op, cache_state="streaming") for op in ("gqa", "swa")]
    workers.answer = lambda item: {"max_rel_error": 1.0} if item.kind == "probe" and item.case.op == "swa" else None
    run(cases)
    assert {slot.case.op for item in workers.items("ring") for slot in item.slots} == {"gqa", "swiglu", "identity"}


def test_a_roof_that_fails_is_recorded_and_stops_nothing(run, workers, make_case) -> None:
    workers.answer = lambda item: WorkerLostError("gone") if item.kind == "roof" else None
    records = run([make_case("gqa")])
    assert kinds(records)["roof", "error"] == 1
    assert kinds(records)["latency", "ok"] == 4


def test_labels_say_what_is_measured(run, workers, make_case) -> None:
    run([make_case("gqa"), make_case("gqa", cache_state="streaming")])
    hot, ring = workers.items("hot")[0], workers.items("ring")[0]
    assert label(hot) == "torch_eager fp32 gqa decode kv16 hot"
    assert label(ring) == f"torch_eager fp32 ring of {len(ring.slots)} decode"
    assert [c.op for c in item_cases(ring)] == ["gqa"]


@pytest.mark.parametrize(
    ("n_threads_seen", "affinity_seen", "said"),
    [
        (4, [0], "asked for 1 threads, the runtime has 4"),
        (1, [0, 1], r"asked for CPUs \[0\], the kernel gave \[0, 1\]"),
    ],
)
def test_a_worker_that_is_not_placed_as_asked_is_refused(n_threads_seen, affinity_seen, said) -> None:
    ready = {"event": "ready", "n_threads_seen": n_threads_seen, "affinity_seen": affinity_seen}
    with pytest.raises(MisplacedError, match=said):
        check_placement(ready, 1, [0])


def test_a_worker_that_is_placed_as_asked_is_taken() -> None:
    check_placement({"event": "ready", "n_threads_seen": 2, "affinity_seen": [0, 1]}, 2, [1, 0])
    check_placement({"event": "ready", "n_threads_seen": 2, "affinity_seen": []}, 2, [1, 0])  # cannot be asked here
