"""What both sides build and probe before anything is timed, with workers that are scripted."""

import json
from pathlib import Path

import pytest

from edgeprof.bench.prepare import Outcome
from edgeprof.regress import preparation
from edgeprof.regress.preparation import needed_cases, prepare
from edgeprof.regress.sides import Side, SideCase, SideFacts
from edgeprof.regress.verdict import MIN_MEMORY_READINGS
from edgeprof.runtimes.artifact import artifact_spec


@pytest.fixture
def world(monkeypatch, tmp_path, reporter):
    """Two sides; ``items`` are what their workers were given, ``answer`` what they say."""

    class World:
        def __init__(self):
            self.items = []
            self.build = Outcome(status="ok", result={})
            self.error = {"base": 1e-6, "head": 1e-6}

        def do(self, side, item, **_):
            self.items.append((side.name, item))
            if item.kind == "build":
                return self.build
            memory = {"peak_rss_delta_bytes": 10_000_000}
            return Outcome(
                status="ok",
                result={"memory": memory, "max_rel_error": self.error[side.name], "quantization_error": None},
            )

        def prepare(self, cases, *, same=False, cached=True, with_memory=True, names=("base", "head")):
            self.items = []
            sides = {name: Side(name=name, label=name, python=Path("p"), cache=tmp_path) for name in names}
            facts = {}
            for name in names:
                found = {}
                for case in needed_cases(cases):
                    key = artifact_spec(case).key + ("" if same else f"-{name}")
                    folder = tmp_path / "artifacts" / key
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / "artifact.json").write_text(json.dumps({"files": {"model": "model"}}))
                    (folder / "model").write_bytes(b"x" * (100 if name == "base" else 150))
                    found[case.key] = SideCase(spec=artifact_spec(case), artifact_key=key, cached=cached)
                facts[name] = SideFacts(
                    edgeprof="0",
                    source=Path("s"),
                    protocol_version=1,
                    python="3",
                    packages={},
                    device_id="d",
                    environment={},
                    fingerprint="f",
                    cases=found,
                )
            return prepare(sides, facts, cases, with_memory=with_memory, recording=None, reporter=reporter)

        def kinds(self, kind):
            return [name for name, item in self.items if item.kind == kind]

    world = World()
    monkeypatch.setattr(preparation, "do_in_side", world.do)
    return world


def test_each_artifact_is_built_once_however_many_cases_and_sides_need_it(world, make_case):
    cases = [make_case(kv_len=16), make_case(kv_len=16, cache_state="streaming")]
    world.prepare(cases, same=True, cached=False)
    keys = [item.spec.key for _, item in world.items if item.kind == "build"]
    assert len(keys) == len(set(keys)) > 1


def test_what_is_cached_is_not_built(world, make_case):
    world.prepare([make_case()])
    assert world.kinds("build") == []


def test_a_build_that_fails_fails_its_cases_alone(world, make_case):
    world.build = Outcome(status="error", reason="RuntimeError: no kernel")
    prepared = world.prepare([make_case()], cached=False)
    (reason,) = prepared.failures.values()
    assert "build of" in reason
    assert "RuntimeError: no kernel" in reason
    assert world.kinds("probe") == []


def test_a_wrong_side_is_named_and_the_case_is_not_timed(world, make_case):
    world.error = {"base": 1e-6, "head": 0.5}
    case = make_case()
    prepared = world.prepare([case])
    assert prepared.failures[case.key].startswith("head: wrong output: relative error is 0.5")


def test_enough_readings_of_both_sides_where_artifacts_differ(world, make_case):
    case = make_case()
    prepared = world.prepare([case])
    assert {name: len(found) for name, found in prepared.peak_bytes[case.key].items()} == {
        "base": MIN_MEMORY_READINGS,
        "head": MIN_MEMORY_READINGS,
    }
    assert prepared.file_bytes[case.key] == {"base": 100, "head": 150}


def test_one_reading_for_the_numerics_where_memory_is_not_asked_for(world, make_case):
    world.prepare([make_case()], with_memory=False)
    assert sorted(world.kinds("probe")) == ["base", "head"]


def test_the_same_artifact_is_probed_once_for_both(world, make_case):
    case = make_case()
    prepared = world.prepare([case], same=True)
    assert prepared.identical == {case.key}
    assert world.kinds("probe") == ["head"]


def test_a_single_side_is_prepared_alone(world, make_case):
    prepared = world.prepare([make_case()], names=("head",), with_memory=False)
    assert (prepared.failures, prepared.identical) == ({}, frozenset())
    assert world.kinds("probe") == ["head"]
