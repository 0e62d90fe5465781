"""Traces come from processes of their own, and a runtime that cannot tell is a reason, not a guess."""

from typing import Any

from edgeprof.bench.trace import PROCESSES, run_traces


def test_every_trace_is_a_fresh_process_with_bytes_of_its_own(workers, make_recorder, reporter, make_case) -> None:
    case = make_case("model", runtime="onnxruntime")
    run = run_traces([case], make_recorder(), reporter)[case.key]
    assert len(run.traces) == PROCESSES
    assert run.traces[0].parts == {"layers.0": 2000.0, "other": 1000.0}
    jobs = [job for job in workers.jobs if job.items[0].kind == "trace"]
    assert [len(job.items) for job in jobs] == [1] * PROCESSES
    assert len({job.items[0].seed for job in jobs}) == PROCESSES
    assert all(job.cpus for job in jobs)


def test_a_runtime_without_a_tracer_is_a_reason_and_starts_nothing(workers, make_recorder, reporter, make_case) -> None:
    case = make_case("model", runtime="torch_compile")
    run = run_traces([case], make_recorder(), reporter)[case.key]
    assert run.traces == ()
    assert "torch_compile has no tracer" in str(run.reason)
    assert workers.jobs == []


def test_a_trace_that_fails_says_why_and_is_not_tried_again(workers, make_recorder, reporter, make_case) -> None:
    def fail(item: Any) -> dict[str, Any] | None:
        return {"event": "failed", "reason": "RuntimeError: no events"} if item.kind == "trace" else None

    workers.answer = fail
    case = make_case("model", runtime="onnxruntime")
    run = run_traces([case], make_recorder(), reporter)[case.key]
    assert run.traces == ()
    assert run.reason == "error: RuntimeError: no events"
    assert sum(job.items[0].kind == "trace" for job in workers.jobs) == 1


def test_nothing_of_a_trace_goes_into_the_store(workers, make_recorder, reporter, make_case) -> None:
    recorder = make_recorder()
    run_traces([make_case("model", runtime="onnxruntime")], recorder, reporter)
    assert recorder.store.records(recorder.host.device_id) == []
