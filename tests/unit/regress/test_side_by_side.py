"""Blocks of two sides whose workers are scripted: who works when, and what becomes of what fails."""

from pathlib import Path

import pytest

from edgeprof.bench.session import MisplacedError
from edgeprof.devices.worker_process import WorkerLostError
from edgeprof.regress import side_by_side
from edgeprof.regress.recording import Recording, read_recording
from edgeprof.regress.sequential import Plan
from edgeprof.regress.side_by_side import PROTOCOL, SideBySide
from edgeprof.regress.sides import Side, SideCase

NS = {"base": 1000, "head": 1100}


class FakeWorker:
    """Steps take a time that its side tells; ``log`` holds what all of them did, in order."""

    log: list
    alive = 0
    most_alive = 0
    trouble: dict

    def __init__(self, side, job, *, silence_s):
        self.side, self.job, self.at = side, job, 0
        self.log.append(("start", side.name))

    def __enter__(self):
        type(self).alive += 1
        type(self).most_alive = max(self.alive, self.most_alive)
        return self

    def __exit__(self, *_):
        type(self).alive -= 1

    def wait_until_ready(self):
        if isinstance(self.trouble.get(self.side.name), MisplacedError):
            raise self.trouble[self.side.name]
        self.log.append(("ready", self.side.name))

    def step(self):
        item = self.job.items[self.at]
        self.at += 1
        self.log.append((self.side.name, id(self), item))
        trouble = self.trouble.get((self.side.name, item.case.key if item.case else None))
        if isinstance(trouble, WorkerLostError):
            raise trouble
        if trouble is not None:
            return {"event": "failed", "item": self.at, "reason": trouble}
        if item.kind == "ring":
            return {"event": "done", "slots": [{"samples_ns": [NS[self.side.name]]} for _ in item.slots]}
        return {"event": "done", "samples_ns": [NS[self.side.name]] * 3}


class AllCases(dict):
    def __missing__(self, key):
        return SideCase(artifact_key=f"artifact-{key}")


class Facts:
    cases = AllCases()


@pytest.fixture
def make_source(monkeypatch, tmp_path):
    class Worker(FakeWorker):
        pass

    Worker.log, Worker.trouble = [], {}
    monkeypatch.setattr(side_by_side, "PacedWorker", Worker)

    def make(cases, seed=1):
        sides = {name: Side(name=name, label=name, python=Path("python")) for name in ("base", "head")}
        recording = Recording(tmp_path)
        recording.begin(
            Plan(),
            {case.key: case for case in cases},
            sides={"base": "b", "head": "h"},
            facts={"base": {}, "head": {}},
            device_id="d",
            with_memory=False,
        )
        source = SideBySide(sides, {"base": Facts, "head": Facts}, cases, cpus={1: [0]}, recording=recording, seed=seed)
        source.worker, source.path = Worker, recording.path
        made.append(recording)
        return source

    made: list[Recording] = []
    yield make
    for recording in made:
        recording.close()


def steps(source):
    return [entry for entry in source.worker.log if len(entry) == 3]


def hot(make_case, **changes):
    return make_case(cache_state="hot", ring_bytes=None, **changes)


def test_a_block_is_four_fresh_processes_that_take_turns_load_by_load(make_source, make_case):
    case = hot(make_case)
    source = make_source([case])
    found = source.measure({case.key: 1})
    sides = [name for name, _, _ in steps(source)]
    assert len({worker for _, worker, _ in steps(source)}) == source.worker.most_alive == 4
    assert source.worker.alive == 0
    turn = sides[:4]
    assert turn in (["base", "head", "head", "base"], ["head", "base", "base", "head"])
    assert sides == turn * PROTOCOL.loads
    assert found[case.key].log_ratio == pytest.approx(0.0953, abs=1e-3)


def test_nothing_is_timed_before_all_processes_are_ready(make_source, make_case):
    case = hot(make_case)
    source = make_source([case])
    source.measure({case.key: 1})
    kinds = [entry[0] for entry in source.worker.log if entry[0] in ("start", "ready")]
    assert kinds == ["start"] * 4 + ["ready"] * 4
    assert source.worker.log.index(steps(source)[0]) == 8


def test_a_coin_decides_each_cases_order_and_another_one_who_starts(make_source, make_case):
    cases = [hot(make_case, kv_len=64 + i) for i in range(4)]
    source = make_source(cases)
    for _ in range(60):
        source.measure({case.key: 1 for case in cases})
    firsts = [name for name, _, _ in steps(source)][:: 4 * PROTOCOL.loads]
    starts = [name for kind, name in (e for e in source.worker.log if e[0] == "start")][::4]
    assert 80 < firsts.count("base") < 160
    assert 15 < starts.count("base") < 45
    agree = [a == b for a, b in zip(firsts[::4], starts, strict=True)]
    assert 15 < sum(agree) < 45


def test_every_load_varies_its_bytes_and_both_sides_load_as_often(make_source, make_case):
    case = hot(make_case)
    source = make_source([case])
    source.measure({case.key: 1})
    seeds = [item.seed for _, _, item in steps(source)]
    assert len(set(seeds)) == len(seeds) == 4 * PROTOCOL.loads
    sides = [name for name, _, _ in steps(source)]
    assert sides.count("base") == sides.count("head")


def test_cases_of_one_runtime_share_processes_and_other_runtimes_get_their_own(make_source, make_case):
    cases = [hot(make_case, kv_len=64), hot(make_case, kv_len=65), hot(make_case, runtime="onnxruntime")]
    source = make_source(cases)
    source.measure({case.key: 1 for case in cases})
    assert len([e for e in source.worker.log if e[0] == "start"]) == 8
    assert source.worker.most_alive == 4


def test_a_ring_gives_a_block_of_each_of_its_cases(make_source, make_case):
    cases = [make_case(op, cache_state="streaming", ring_bytes=1) for op in ("gqa", "short_conv")]
    source = make_source(cases)
    found = source.measure({case.key: 1 for case in cases})
    assert found.keys() == {case.key for case in cases}
    assert all(item.kind == "ring" for _, _, item in steps(source))
    keys = {slot.artifact_key for _, _, item in steps(source) for slot in item.slots if slot.case_key}
    assert keys == {f"artifact-{case.key}" for case in cases}


def test_every_block_is_recorded_with_its_run(make_source, make_case):
    case, other = hot(make_case, kv_len=64), hot(make_case, kv_len=65)
    source = make_source([case, other])
    found = source.measure({case.key: 1, other.key: 2})
    recorded = read_recording(source.path)
    assert recorded.blocks(1) == {case.key: [found[case.key]]}
    assert recorded.blocks(2) == {other.key: [found[other.key]]}


def test_a_case_that_fails_on_a_side_is_measured_no_more_and_the_others_are(make_source, make_case):
    case, other = hot(make_case, kv_len=64), hot(make_case, kv_len=65)
    source = make_source([case, other])
    source.worker.trouble[("head", case.key)] = "RuntimeError: broken"
    found = source.measure({case.key: 1, other.key: 1})
    assert found.keys() == {other.key}
    assert source.failures == {case.key: "head: RuntimeError: broken"}
    assert read_recording(source.path).failures == source.failures
    assert source.measure({case.key: 1}) == {}


def test_one_lost_worker_costs_a_block_and_a_second_one_the_case(make_source, make_case):
    case = hot(make_case)
    source = make_source([case])
    source.worker.trouble[("base", case.key)] = WorkerLostError("base: signal SIGKILL")
    assert source.measure({case.key: 1}) == {}
    assert source.failures == {}
    assert source.worker.alive == 0
    source.measure({case.key: 1})
    assert source.failures == {case.key: "base: signal SIGKILL"}


def test_workers_that_run_elsewhere_fail_all_cases_at_once(make_source, make_case):
    cases = [hot(make_case, kv_len=64 + i) for i in range(2)]
    source = make_source(cases)
    source.worker.trouble["head"] = MisplacedError("asked for CPUs [0], the kernel gave [1]: not timed")
    assert source.measure({case.key: 1 for case in cases}) == {}
    assert source.failures.keys() == {case.key for case in cases}
