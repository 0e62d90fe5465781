"""Rings that are asked for as such: their slots, their processes, what is counted, and what a failure takes along."""

from collections import Counter
from dataclasses import replace

import pytest

from edgeprof.bench.rings import planned_ring
from edgeprof.bench.session import Session
from edgeprof.core.types import RingPlan
from edgeprof.devices.worker_process import WorkerLostError
from edgeprof.models.block import block_of
from edgeprof.operators.registry import make_spec
from edgeprof.operators.traffic import working_set_bytes


@pytest.fixture
def make_ring(make_case, tiny_dims):
    """Builds a ring of embedding, blocks by their mixers, and head; every case states the ring's own working set."""

    def block(mixer: str, **changes):
        dims = block_of(make_spec(mixer, tiny_dims[mixer]), make_spec("swiglu", tiny_dims["swiglu"])).dims()
        return replace(make_case(mixer, cache_state="streaming", **changes), op="block", dims=dims)

    def make(*mixers: str, turns: int = 1, group: str = "", loads: int = 1, **changes) -> RingPlan:
        first, last = (
            make_case(op, cache_state="streaming", **(changes | {"kv_len": 1})) for op in ("embedding", "head")
        )
        turn = tuple(block(mixer, **changes) for mixer in mixers)
        size = working_set_bytes([first, *turn * turns, last])
        first, last = replace(first, ring_bytes=size), replace(last, ring_bytes=size)
        turn = tuple(replace(case, ring_bytes=size) for case in turn)
        return RingPlan(first=first, turn=turn, turns=turns, last=last, group=group, loads=loads)

    return make


@pytest.fixture
def run(workers, make_recorder, reporter):
    """Runs a session of its own over rings and returns the records that it added."""

    def session(*rings: RingPlan, fresh: bool = False, **recorder):
        made = make_recorder(**recorder)
        before = len(made.store.records("fake"))
        workers.jobs.clear()
        Session(made, reporter, fresh=fresh).run(rings=rings)
        assert reporter.counts() == dict(reporter.stages)
        reporter.stages.clear()
        reporter.steps.clear()
        session.failed = made.failed
        return made.store.records("fake")[before:]

    return session


def processes(workers) -> list[tuple[int, int]]:
    """Rings and distinct rings of every process that measured."""
    jobs = [[str([s.case_key for s in i.slots]) for i in job.items] for job in workers.jobs if job.sentinel]
    return [(len(rings), len(set(rings))) for rings in jobs]


def test_the_null_cell_stands_behind_every_turn_and_nothing_is_added(make_ring) -> None:
    plan = make_ring("short_conv", "gqa", turns=2)
    slots = planned_ring(plan).slots
    conv, gqa = plan.turn
    assert [s.case_key for s in slots] == [
        plan.first.key, conv.key, gqa.key, None, conv.key, gqa.key, None, plan.last.key
    ]  # fmt: skip
    assert {s.case.op for s in slots if s.case_key is None} == {"identity"}


def test_a_ring_may_be_a_turn_alone(make_ring) -> None:
    plan = replace(make_ring("gqa"), first=None, last=None)
    assert [s.case.op for s in planned_ring(plan).slots] == ["block", "identity"]


def test_the_null_cell_is_that_of_the_turn_where_the_head_sees_one_token(make_ring, make_case) -> None:
    plan = make_ring("gqa", phase="prefill", q_len=16)
    plan = replace(plan, last=replace(plan.last, q_len=1))
    (null,) = (s.case for s in planned_ring(plan).slots if s.case_key is None)
    assert (null.q_len, null.kv_len, null.dtype) == (16, 16, "fp32")


def test_a_cell_that_comes_twice_in_a_turn_makes_twice_the_records(make_ring) -> None:
    plan = make_ring("gqa", "swa", "gqa", turns=3, loads=2)
    per_round = planned_ring(plan).per_round
    assert [per_round[case.key] for case in (plan.turn[0], plan.turn[1], plan.first)] == [12, 6, 2]


def test_every_case_is_recorded_with_the_ring_as_it_was(run, make_ring) -> None:
    plan = make_ring("short_conv", "gqa", turns=2)
    records = [r for r in run(plan) if r.kind == "latency"]
    assert Counter((r.round, r.case.op) for r in records) == {
        (n, op): count for n in (0, 1) for op, count in (("embedding", 1), ("block", 4), ("head", 1))
    }
    conv, gqa = (case.key for case in plan.turn)
    for r in records:
        assert r.ring == [plan.first.key, conv, gqa, "(identity)", conv, gqa, "(identity)", plan.last.key]
        assert r.ring_bytes == plan.first.ring_bytes
        assert r.call_overhead_ns == 7


def test_cells_are_built_and_looked_at_once_whatever_rings_they_are_in(run, workers, make_ring) -> None:
    rings = [make_ring("short_conv", "gqa", turns=n) for n in (1, 2)]
    records = run(*rings)
    ops = Counter(item.case.op for item in workers.items("probe"))
    assert ops == {"embedding": 1, "block": 2, "head": 1}
    assert Counter(r.case_key for r in records if r.kind == "probe" and r.case is not None) == Counter(
        case.key for ring in rings for case in ring.cases
    )


def test_a_cell_that_was_looked_at_in_another_ring_is_not_looked_at_again(run, workers, make_ring) -> None:
    run(make_ring("gqa"))
    larger = make_ring("gqa", turns=2)
    probes = [r for r in run(larger) if r.kind == "probe"]
    assert workers.items("probe") == workers.items("build") == []
    assert Counter(r.case_key for r in probes) == Counter(case.key for case in larger.cases)
    assert {(r.status, r.memory.peak_rss_delta_bytes, r.max_rel_error) for r in probes} == {("ok", 9000, 1e-6)}


def test_a_group_shares_its_processes_and_has_them_for_itself(run, workers, make_ring) -> None:
    a = [make_ring("gqa", turns=n, group="a") for n in (1, 2, 3)]
    b = [make_ring("swa", group="b"), make_ring("swa", group="b", n_threads=2)]
    records = run(*a, *b)
    assert sorted(processes(workers)) == [(1, 1)] * 4 + [(3, 3)] * 2
    rounds = {(r.case.n_threads, r.round): set() for r in records if r.kind == "latency"}
    for r in records:
        if r.kind == "latency":
            rounds[r.case.n_threads, r.round].add("a" if any(r.case in ring.cases for ring in a) else "b")
    assert sorted(map(sorted, rounds.values())) == [["a"]] * 2 + [["b"]] * 4  # a round numbers one process


def test_loads_are_separate_loads_in_one_process(run, workers, make_ring) -> None:
    plan = make_ring("gqa", loads=2)
    records = [r for r in run(plan) if r.kind == "latency"]
    assert processes(workers) == [(2, 1)] * 2
    assert len({item.seed for item in workers.items("ring")}) == 4
    assert Counter((r.round, r.case_key) for r in records) == {(n, c.key): 2 for n in (0, 1) for c in plan.cases}


def test_the_same_rings_again_measure_nothing_and_write_nothing(run, workers, make_ring) -> None:
    rings = [make_ring("gqa", turns=2, group="a", loads=2), make_ring("swa"), make_ring("gqa", dtype="int4")]
    assert Counter(r.status for r in run(*rings))["unsupported"] == 3
    assert run(*rings) == []
    assert workers.jobs == []


def test_a_ring_that_lacks_a_round_of_one_cell_is_measured_whole_for_that_round(
    run, workers, make_ring, make_recorder
) -> None:
    cut, done = make_ring("gqa", turns=2), make_ring("swa")
    run(cut, done)
    path = make_recorder().store.root / "fake" / "instances.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    victim = next(i for i, x in enumerate(lines) if '"kind":"latency"' in x and f'"case_key":"{cut.turn[0].key}"' in x)
    path.write_text("".join(lines[:victim] + lines[victim + 1 :]))
    records = [r for r in run(cut, done) if r.kind == "latency"]
    assert Counter(r.case_key for r in records) == {cut.first.key: 1, cut.turn[0].key: 2, cut.last.key: 1}


def test_fresh_times_a_group_anew_and_keeps_what_is_known_of_its_cells(run, workers, make_ring) -> None:
    rings = [make_ring("gqa", turns=n, group="a") for n in (1, 2)]
    first = run(*rings)
    second = run(*rings, fresh=True)
    latency = [Counter(r.case_key for r in records if r.kind == "latency") for records in (first, second)]
    assert latency[0] == latency[1]
    assert workers.items("probe") == []
    assert processes(workers) == [(2, 2)] * 2


@pytest.mark.parametrize("kind", ["build", "probe"])
def test_a_cell_that_fails_takes_its_rings_along_and_says_why(kind: str, run, workers, make_ring) -> None:
    bad, good = [make_ring("short_conv", "swa"), make_ring("swa", turns=2)], make_ring("gqa")
    layer = bad[1].turn[0].dims["layer"]

    def answer(item):
        dims = item.spec.dims if item.kind == "build" else item.case.dims if item.kind == "probe" else {}
        return {"event": "failed", "reason": "no kernel"} if item.kind == kind and dims.get("layer") == layer else None

    workers.answer = answer
    records = run(*bad, good)
    assert {r.case_key for r in records if r.kind == "latency"} == {case.key for case in good.cases}
    failed = [r for r in records if r.status == "error"]
    assert {r.case_key for r in failed} == {bad[0].turn[1].key, bad[1].turn[0].key} == run.failed.keys()
    assert all("no kernel" in r.reason for r in failed)
    assert all("no kernel" in reason for reason in run.failed.values())


def test_a_wrong_cell_is_never_timed_nor_its_ring(run, workers, make_ring) -> None:
    workers.answer = lambda item: {"max_rel_error": 0.5} if item.kind == "probe" and item.case.op == "head" else None
    plan = make_ring("gqa")
    records = run(plan)
    assert workers.items("ring") == []
    assert [(r.case_key, r.status) for r in records if r.status != "ok"] == [(plan.last.key, "wrong_output")]
    assert run.failed[plan.last.key].startswith("wrong_output: ")


def test_a_ring_that_is_lost_fails_alone_and_is_not_tried_again_in_the_session(run, workers, make_ring) -> None:
    lost, kept = make_ring("gqa", turns=2, loads=2), make_ring("gqa")
    key = lost.turn[0].key
    workers.answer = lambda item: (
        WorkerLostError("gone") if item.kind == "ring" and any(s.case_key == key for s in item.slots) else None
    )
    records = run(lost, kept)
    assert {r.case_key for r in records if r.kind == "latency"} == {case.key for case in kept.cases}
    assert {r.case_key for r in records if r.status == "error"} == {case.key for case in lost.cases}
    assert sum(any(s.case_key == key for i in job.items for s in i.slots) for job in workers.jobs) == 1


def test_unsupported_is_a_record_and_drops_the_ring_before_anything_starts(run, workers, make_ring) -> None:
    plan = make_ring("gqa")
    plan = replace(plan, turn=(replace(plan.turn[0], dtype="int4"),))
    (record,) = run(plan)
    assert (record.case_key, record.status) == (plan.turn[0].key, "unsupported")
    assert "fp32 or bf16" in run.failed[plan.turn[0].key]
    assert workers.jobs == []
    assert run(plan) == []
    assert "fp32 or bf16" in run.failed[plan.turn[0].key]
