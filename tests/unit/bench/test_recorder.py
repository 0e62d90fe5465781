"""Records of a session, and what decides whether an old one counts."""

import datetime
from dataclasses import replace

import pytest

from edgeprof.core.types import PROTOCOL_VERSION
from edgeprof.runtimes.artifact import artifact_spec
from edgeprof.store.pooling import same_conditions


@pytest.fixture
def stored(make_recorder, make_case):
    """A recorder and the one record that it wrote."""
    recorder = make_recorder()
    recorder.append(make_case("gqa"), kind="latency", status="ok", samples_ns=[5], number=3)
    return recorder, recorder.store.records("fake")[0]


def test_a_record_says_where_it_comes_from(stored, make_case, host) -> None:
    recorder, record = stored
    assert (record.session_id, record.round, record.device_id) == (recorder.session_id, 3, "fake")
    assert (record.environment, record.fingerprint) == (host.environment, host.fingerprint)
    assert record.case_key == make_case("gqa").key
    assert record.artifact_key == artifact_spec(make_case("gqa")).key
    assert record.protocol_version == PROTOCOL_VERSION
    assert datetime.datetime.fromisoformat(record.started_at).tzinfo is not None


def test_ids_are_unique(make_recorder, make_case) -> None:
    recorder, other = make_recorder(), make_recorder()
    for _ in range(5):
        recorder.append(make_case("gqa"), kind="probe", status="ok")
    assert len({r.id for r in recorder.store.records("fake")}) == 5
    assert recorder.session_id != other.session_id


def test_a_failure_is_a_record_and_is_remembered(make_recorder, make_case) -> None:
    recorder = make_recorder()
    recorder.fail(make_case("gqa"), "timeout", "no progress")
    record = recorder.store.records("fake")[0]
    assert (record.kind, record.status, record.reason) == ("probe", "timeout", "no progress")
    assert recorder.failed == {make_case("gqa").key: "timeout: no progress"}


def test_a_record_about_the_host_has_no_case(make_recorder) -> None:
    recorder = make_recorder()
    recorder.append_host("torch_eager", kind="sentinel", status="ok", samples_ns=[1, 2])
    record = recorder.store.records("fake")[0]
    assert (record.case, record.case_key, record.artifact_key) == (None, "sentinel", None)


@pytest.mark.parametrize(
    "change",
    [
        {"case_key": "0" * 16},
        {"protocol_version": PROTOCOL_VERSION + 1},
        {"fingerprint": "0" * 16},
        {"runtime_version": "0.0"},
        {"artifact_key": "0" * 16},
    ],
)
def test_each_condition_alone_forbids_pooling(stored, make_case, host, change: dict) -> None:
    record, case = stored[1], make_case("gqa")
    assert same_conditions(record, case, PROTOCOL_VERSION, host.fingerprint)
    assert not same_conditions(replace(record, **change), case, PROTOCOL_VERSION, host.fingerprint)


def test_load_and_commit_do_not_decide(stored, make_case, host) -> None:
    busy = replace(stored[1], environment={"load_average": [9.0], "commit": "f00"}, session_id="another", round=9)
    assert same_conditions(busy, make_case("gqa"), PROTOCOL_VERSION, host.fingerprint)


@pytest.mark.parametrize(
    ("change", "same"),
    [({"cache_state": "streaming", "ring_bytes": 7}, True), ({"kv_len": 17}, False), ({"n_threads": 2}, False)],
)
def test_the_same_cell_may_be_timed_in_any_ring(stored, make_case, change: dict, same: bool) -> None:
    recorder, record = stored
    assert recorder.same_cell(record, make_case("gqa", **change)) is same
