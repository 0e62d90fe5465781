import json
import math
from pathlib import Path

import pytest

from edgeprof.core.types import SCHEMA_VERSION, Roof
from edgeprof.store import schema
from edgeprof.store.schema import MIGRATIONS, NewerSchemaError, RecordError, parse_line, to_line

GOLDEN = Path(__file__).parents[2] / "golden" / "store"


def test_every_record_of_schema_version_1_still_loads():
    records = [parse_line(line) for line in (GOLDEN / "v1.jsonl").read_bytes().splitlines()]
    assert [(r.id, r.kind, r.status) for r in records] == [
        ("b1946ac92492d234", "latency", "ok"),
        ("591785b794601e21", "probe", "unsupported"),
        ("9c1185a5c5e9fc54", "probe", "wrong_output"),
        ("60b725f10c9c85c7", "probe", "ok"),
        ("3b5d5c3712955042", "sentinel", "ok"),
    ]
    timed, unsupported, wrong, probe, sentinel = records
    assert timed.case.op == "short_conv"
    assert timed.case.dims == {"d_model": 1024, "kernel_size": 3}
    assert timed.samples_ns == [411234, 402345, 400987, 403456, 401234]
    assert (timed.ring_bytes, timed.case.ring_bytes, timed.delegated_share) == (301989888, 268435456, 0.9375)
    assert unsupported.reason == "torch_eager has no int4 matrix product on CPU"
    assert (wrong.max_rel_error, wrong.quantization_error) == (0.41, 0.083)
    assert probe.memory.peak_rss_delta_bytes == 29360128
    assert probe.case.dims["qk_norm"] is True
    assert sentinel.case is None


def test_every_past_schema_version_has_a_golden_file_and_a_migration():
    assert sorted(p.name for p in GOLDEN.iterdir()) == [f"v{v}.jsonl" for v in range(1, SCHEMA_VERSION + 1)]
    assert sorted(MIGRATIONS) == list(range(1, SCHEMA_VERSION))


def test_migrations_are_applied_one_after_the_other(monkeypatch, make_record):
    def rename(line):
        line["session_id"] = line.pop("session")
        return line

    def prefix(line):
        return line | {"session_id": "migrated " + line["session_id"]}

    monkeypatch.setattr(schema, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(schema, "MIGRATIONS", {1: rename, 2: prefix})
    line = json.loads(to_line(make_record(schema_version=3, session_id="s")))

    old = {k: v for k, v in line.items() if k != "session_id"} | {"session": "s", "schema_version": 1}
    assert parse_line(json.dumps(old)) == make_record(schema_version=3, session_id="migrated s")
    second = line | {"schema_version": 2}
    assert parse_line(json.dumps(second)).session_id == "migrated s"
    assert parse_line(json.dumps(line)).session_id == "s"


def test_a_newer_version_is_told_before_its_unknown_fields(make_record):
    line = json.loads(to_line(make_record())) | {"schema_version": SCHEMA_VERSION + 1, "unknown": 1}
    with pytest.raises(NewerSchemaError, match=f"{SCHEMA_VERSION + 1} is newer than {SCHEMA_VERSION}"):
        parse_line(json.dumps(line))


def set_at(line, path, value):
    *parents, name = path
    for parent in parents:
        line = line[parent]
    line[name] = value


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (["colour"], "red", "colour: an unknown field"),
        (["case", "colour"], "red", "case.colour: an unknown field"),
        (["memory", "colour"], 1, "memory.colour: an unknown field"),
        (["round"], "1", "round: input should be a valid integer, not '1'"),
        (["round"], 1.5, "round: input should be a valid integer"),
        (["round"], True, "round: input should be a valid integer"),
        (["round"], -1, "round: -1 is not between 0 and"),
        (["status"], "fine", "status: input should be 'ok'"),
        (["samples_ns"], [1, "2"], r"samples_ns\[1\]: input should be a valid integer"),
        (["samples_ns"], [1, 0], r"samples_ns\[1\]: 0 is not between 1 and"),
        (["samples_ns"], [10**400], r"samples_ns\[0\]: 1000.* is not between"),
        (["samples_ns"], [], "samples_ns: is empty although the status is ok"),
        (["load_ns"], -1, "load_ns: -1 is not between 0 and"),
        (["load_ns"], 10**18, "load_ns: 10+ is not between"),
        (["memory", "peak_rss_delta_bytes"], 2**60, "memory.peak_rss_delta_bytes: .* is not between"),
        (["ring_bytes"], -1, "ring_bytes: -1 is not between"),
        (["roof"], {"bytes_per_s": 1}, "roof.n_threads: is missing"),
        (["delegated_share"], 1.5, "delegated_share: 1.5 is not between 0 and 1"),
        (["max_rel_error"], math.nan, "not JSON .*NaN is not a finite number"),
        (["environment"], {"load": math.inf}, "not JSON .*Infinity is not a finite number"),
        (["case", "n_threads"], 0, "case.n_threads: 0 is not between 1 and"),
        (["case", "q_len"], 2000, "case.kv_len: 1024 is less than q_len"),
        (["case", "dims", "d_model"], 10**30, "case.dims.d_model: 10+ is not between"),
        (["case", "dims", "d_model"], ["many"], "case.dims.d_model"),
        (["schema_version"], 0, "schema_version: 0 is not a version"),
        (["schema_version"], True, "schema_version: True is not a version"),
    ],
)
def test_a_bad_field_is_named_with_what_is_wrong(make_record, path, value, problem):
    line = json.loads(to_line(make_record()))
    set_at(line, path, value)
    with pytest.raises(RecordError, match=f"^{problem}"):
        parse_line(json.dumps(line))


def test_a_missing_field_is_named(make_record):
    line = json.loads(to_line(make_record()))
    del line["case"]["kv_len"]
    with pytest.raises(RecordError, match=r"^case\.kv_len: is missing$"):
        parse_line(json.dumps(line))


def test_json_nested_without_end_is_refused():
    with pytest.raises(RecordError, match="not JSON"):
        parse_line("[" * 100_000)


@pytest.mark.parametrize("changes", [{"max_rel_error": math.nan}, {"environment": {"load": math.inf}}])
def test_a_number_that_is_not_finite_is_not_written(make_record, changes):
    with pytest.raises(RecordError, match="not finite"):
        to_line(make_record(**changes))


def test_text_that_is_no_unicode_is_not_written(make_record):
    with pytest.raises(RecordError, match=r"not JSON .*surrogate"):
        to_line(make_record(reason="\udc80"))


def roof_record(make_record, **changes):
    fields = {
        "n_threads": 2,
        "bytes_per_s": 5e10,
        "flops_per_s": {"fp32": 3e12},
        "probes": {"fp32: torch mm 512": 3e12},
    }
    return make_record(kind="roof", case=None, samples_ns=[], roof=Roof(**(fields | changes)))


def test_a_roof_comes_back(make_record):
    record = roof_record(make_record)
    assert parse_line(to_line(record)) == record


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"bytes_per_s": -1.0}, "roof.bytes_per_s"),
        ({"flops_per_s": {"fp32": 1e30}}, "roof.flops_per_s.fp32"),
        ({"probes": {"sum": -1.0}}, "roof.probes.sum"),
    ],
)
def test_a_roof_beyond_any_device_is_refused(make_record, changes, path):
    with pytest.raises(RecordError, match=f"^{path}: .* is not between 0 and 1e"):
        to_line(roof_record(make_record, **changes))


def test_a_wrong_output_may_be_wrong_by_any_factor(make_record):
    record = make_record(kind="probe", status="wrong_output", max_rel_error=1e30)
    assert parse_line(to_line(record)) == record


def test_memory_that_was_given_back_is_a_negative_delta(make_record):
    assert parse_line(to_line(make_record())).memory.anon_delta_bytes == -4096


def test_a_failure_needs_no_samples(make_record):
    record = make_record(status="timeout", reason="no answer in 60 s", samples_ns=[], memory=None)
    assert parse_line(to_line(record)) == record
