"""Measurements from records: what is pooled, paired, shared of the roof, and printed as JSON."""

import json
import math
from dataclasses import replace

import pytest

from edgeprof.bench.report import build_report, host_drift, median_of, report_json
from edgeprof.core.types import InstanceRecord, Memory, Roof

BESIDES = {
    "ring_bytes", "call_overhead_ns", "tokens_per_s", "differs_from_short_conv", "anon_delta_bytes",
    "file_delta_bytes", "quantization_error",
}  # fmt: skip
"""What a measurement has besides what scripts were promised; a change here is a change of the document."""


@pytest.fixture
def records():
    """An empty list that the other fixtures add to."""
    return []


@pytest.fixture
def add(records, make_case):
    """Adds a record, a second later than the one before."""

    def append(case=None, *, kind: str = "latency", **fields) -> InstanceRecord:
        number = len(records)
        if kind == "latency":
            fields = {"samples_ns": [100, 100, 100], "settled": True, "load_ns": 7, "first_call_ns": 5} | fields
        record = InstanceRecord(
            **{
                "id": f"{number:016x}",
                "kind": kind,
                "session_id": "s1",
                "round": 0,
                "case_key": kind if case is None else case.key,
                "case": case,
                "runtime_version": "2.13.0",
                "artifact_key": None if case is None else "artifact",
                "device_id": "fake",
                "environment": {},
                "fingerprint": "f",
                "started_at": f"2026-01-01T00:{number // 60:02}:{number % 60:02}+00:00",
                "status": "ok",
            }
            | fields
        )
        records.append(record)
        return record

    return append


@pytest.fixture
def measured(add):
    """Adds one load a round to a case, with these medians."""

    def loads(case, *medians: int, **fields) -> None:
        for number, ns in enumerate(medians):
            add(case, round=number, samples_ns=[ns] * 5, **fields)

    return loads


@pytest.fixture
def row(records):
    """The measurement of a case among some, by default it alone."""

    def of(case, cases=None, **options):
        report = build_report("fake", records, cases or [case], **options)
        return next(m for m in report.measurements if m.case == case)

    return of


def test_the_estimate_is_the_mean_of_the_logs_of_load_medians(measured, make_case, row) -> None:
    case = make_case("gqa")
    measured(case, 100, 400)
    m = row(case)
    assert m.status == "ok"
    assert m.p50_ns == pytest.approx(200)
    assert m.time.bounds[0] < 200 < m.time.bounds[1]
    assert m.tokens_per_s == pytest.approx(1e9 / 200)


def test_one_load_has_no_interval(measured, make_case, row) -> None:
    case = make_case("gqa")
    measured(case, 100)
    assert row(case).time.bounds is None


def test_loads_of_one_process_count_once(add, make_case, row) -> None:
    case = make_case("gqa")
    for number, ns in ((0, 100), (0, 100), (0, 100), (1, 400)):
        add(case, round=number, samples_ns=[ns])
    assert row(case).p50_ns == pytest.approx(200)
    assert row(case).time.n_processes == 2


@pytest.mark.parametrize("field", ["runtime_version", "artifact_key", "fingerprint", "protocol_version"])
def test_other_conditions_are_kept_apart_and_the_latest_is_shown(field: str, measured, make_case, row) -> None:
    case = make_case("gqa")
    measured(case, 1000, 1000, **{field: 9 if field == "protocol_version" else "old"})
    measured(case, 100, 100)
    m = row(case)
    assert m.p50_ns == pytest.approx(100)
    assert len(m.instances) == 2


def test_sessions_under_equal_conditions_are_pooled(measured, make_case, row) -> None:
    case = make_case("gqa")
    measured(case, 100, 100)
    measured(case, 100, 100, session_id="s2", environment={"load_average": [5.0]})
    assert row(case).time.n_processes == 4


def test_what_is_not_poolable_is_left_out(measured, make_case, row) -> None:
    case = make_case("gqa")
    measured(case, 100)
    measured(case, 900, session_id="s2")
    assert row(case, poolable=lambda record, c: record.session_id == "s1").p50_ns == pytest.approx(100)


def test_without_cases_every_stored_one_is_reported(measured, make_case, records) -> None:
    cases = [make_case("gqa"), make_case("swa")]
    for case in cases:
        measured(case, 100)
    assert [m.case for m in build_report("fake", records).measurements] == cases


def test_a_case_without_records_is_missing(make_case, row) -> None:
    m = row(make_case("gqa"))
    assert (m.status, m.p50_ns, m.tokens_per_s) == ("missing", None, None)
    assert "run the same command again" in m.reason


@pytest.mark.parametrize("status", ["unsupported", "wrong_output", "error", "timeout"])
def test_a_case_that_never_was_timed_says_why(status: str, add, make_case, row) -> None:
    case = make_case("gqa")
    add(case, kind="probe", status=status, reason="because")
    m = row(case)
    assert (m.status, m.reason, m.time) == (status, "because", None)


@pytest.mark.parametrize(("status", "shown"), [("error", "ok"), ("timeout", "ok"), ("wrong_output", "wrong_output")])
def test_loads_survive_a_later_failure_but_not_a_wrong_output(status, shown, measured, add, make_case, row) -> None:
    case = make_case("gqa")
    measured(case, 100, 100)
    add(case, kind="probe", status=status, reason="because")
    assert row(case).status == shown
    assert (row(case).p50_ns is None) == (shown != "ok")


def test_a_failure_that_was_mended_is_forgotten(add, measured, make_case, row) -> None:
    case = make_case("gqa")
    add(case, kind="probe", status="wrong_output", reason="was")
    add(case, kind="probe", max_rel_error=1e-6)
    measured(case, 100)
    assert row(case).status == "ok"
    assert row(case).probe.max_rel_error == 1e-6


def test_a_row_is_stable_when_three_quarters_of_its_loads_settled(add, make_case, row) -> None:
    case = make_case("gqa")
    for settled in (True, True, True, False):
        add(case, settled=settled)
    assert row(case).stable is True
    add(case, settled=False)
    assert row(case).stable is False


def test_ratios_are_paired_by_round_so_that_drift_cancels(measured, make_case, row) -> None:
    gqa, conv = make_case("gqa"), make_case("short_conv")
    drift = [1.0, 1.4, 0.7, 2.0]
    measured(gqa, *(round(3_000_000 * d) for d in drift))
    measured(conv, *(round(1_000_000 * d) for d in drift))
    ratio = row(gqa, [gqa, conv]).ratio
    assert ratio.estimate == pytest.approx(3)
    assert ratio.n_pairs == 4
    assert ratio.bounds == pytest.approx((3, 3), rel=1e-4)
    wide = row(gqa, [gqa, conv]).time
    assert wide.bounds[1] / wide.bounds[0] > 2


def test_rounds_of_other_sessions_are_no_pairs(measured, make_case, row) -> None:
    gqa, conv = make_case("gqa"), make_case("short_conv")
    measured(gqa, 300, 310, session_id="s1")
    measured(conv, 100, 101, session_id="s2")
    ratio = row(gqa, [gqa, conv]).ratio
    assert ratio.n_pairs == 0
    assert ratio.estimate == pytest.approx(3.034, rel=0.01)


@pytest.mark.parametrize(
    "change",
    [{"runtime": "onnxruntime"}, {"kv_len": 32}, {"n_threads": 2}, {"batch": 2}, {"q_len": 2}, {"dtype": "bf16"}],
)
def test_a_ratio_is_taken_within_equal_conditions_only(change: dict, measured, make_case, row) -> None:
    gqa, conv = make_case("gqa"), make_case("short_conv", **change)
    measured(gqa, 300, 300)
    measured(conv, 100, 100)
    assert row(gqa, [gqa, conv]).ratio is None


def test_an_int8_cache_is_compared_with_the_one_short_conv_there_is(measured, make_case, row) -> None:
    """A short convolution has no KV cache: an int8 one is never measured, the fp32 one is the baseline."""
    gqa = make_case("gqa", runtime="onnxruntime", kv_dtype="int8")
    conv = make_case("short_conv", runtime="onnxruntime")
    measured(gqa, 300, 300)
    measured(conv, 100, 100)
    assert row(gqa, [gqa, conv]).ratio.estimate == pytest.approx(3)


def test_the_smallest_kernel_is_the_baseline(measured, make_case, row, tiny_dims) -> None:
    gqa = make_case("gqa")
    convs = [make_case("short_conv", dims=tiny_dims["short_conv"] | {"kernel_size": k}) for k in (7, 3)]
    measured(gqa, 300, 300)
    measured(convs[0], 150, 150)
    measured(convs[1], 100, 100)
    assert row(gqa, [gqa, *convs]).ratio.estimate == pytest.approx(3)
    assert row(convs[0], [gqa, *convs]).ratio is None


ROOF = Roof(n_threads=1, bytes_per_s=1e9, flops_per_s={"fp32": 1e9, "int8": 4e9}, probes={})


def test_the_share_is_of_what_binds(add, measured, make_case, row) -> None:
    add(kind="roof", roof=ROOF)
    streaming = make_case("swiglu", cache_state="streaming")
    prefill = make_case("swiglu", phase="prefill", q_len=16)
    for case in (streaming, prefill):
        measured(case, 50_000, 50_000)
    weights, tokens = 3 * 32 * 64, 16
    moved = weights * 4 + 2 * 32 * 4
    assert row(streaming).roof_share == pytest.approx(moved / 1e9 / 50e-6)
    flops = 2 * weights * tokens + tokens * 64
    assert row(prefill).roof_share == pytest.approx(flops / 1e9 / 50e-6)  # above 1 and not clipped
    assert row(prefill).roof_share > 1


def test_hot_decode_has_no_roof(add, measured, make_case, row) -> None:
    add(kind="roof", roof=ROOF)
    case = make_case("gqa")
    measured(case, 100, 100)
    assert row(case).roof_share is None


@pytest.mark.parametrize("change", [{"n_threads": 2}, {"dtype": "bf16"}])
def test_no_share_without_the_roof_that_it_is_of(change: dict, add, measured, make_case, row) -> None:
    add(kind="roof", roof=ROOF)
    case = make_case("gqa", cache_state="streaming", **change)
    measured(case, 100, 100)
    assert row(case).roof_share is None


def test_another_environments_roof_does_not_count_and_the_latest_does(add, measured, make_case, row) -> None:
    case = make_case("gqa", cache_state="streaming")
    add(kind="roof", roof=ROOF)
    add(kind="roof", roof=replace(ROOF, bytes_per_s=2e9, flops_per_s={"fp32": 1e12}))
    add(kind="roof", roof=replace(ROOF, bytes_per_s=1.0), fingerprint="other")
    add(kind="roof", status="error", reason="lost")
    measured(case, 10**6)
    moved = row(case).roof_share * 1e-3 * 2e9
    assert moved == pytest.approx(moved // 1)


def test_drift_comes_from_the_sessions_that_are_shown(add) -> None:
    def sentinels(session: str, *medians: int) -> list[InstanceRecord]:
        return [add(kind="sentinel", session_id=session, round=i, samples_ns=[ns]) for i, ns in enumerate(medians)]

    two = [*sentinels("a", 1000, 1000), *sentinels("b", 1000, 1100)]
    stand_in = host_drift(two)
    assert stand_in.sd == pytest.approx(math.log(1.1) / math.sqrt(2) / math.sqrt(2))
    assert stand_in.in_intervals == 0  # one session cannot see how sessions differ, and two say too little
    three = [*sentinels("c", 1000), *sentinels("d", 1100), *sentinels("e", 1210)]
    assert host_drift(three).sd == host_drift(three).in_intervals == pytest.approx(math.log(1.1))
    assert host_drift([]).sd == 0


def test_what_the_sentinel_scatters_within_sessions_is_no_drift_between_them(add) -> None:
    records = [
        add(kind="sentinel", session_id=session, round=i, samples_ns=[ns])
        for session in "abc"
        for i, ns in enumerate((1000, 1500, 1000, 1500 + ord(session)))
    ]
    assert host_drift(records).sd == 0


def test_drift_widens_intervals(add, measured, make_case, row) -> None:
    case = make_case("gqa")
    measured(case, 100, 101, 100, 101)
    narrow = row(case).time.relative_width
    measured(case, 100, session_id="s2")
    measured(case, 100, session_id="s3")
    pooled = row(case).time.relative_width
    assert pooled < narrow
    for session, ns in (("s1", 1000), ("s2", 1500), ("s3", 1200)):
        add(kind="sentinel", session_id=session, samples_ns=[ns])
    assert row(case).time.relative_width > 2 * narrow


def test_the_document_is_the_contract(add, measured, make_case, records, contract) -> None:
    gqa, conv, bad = make_case("gqa"), make_case("short_conv"), make_case("swa", dtype="int4")
    add(gqa, kind="probe", memory=Memory(peak_rss_delta_bytes=5), weight_bytes=9, max_rel_error=1e-6)
    measured(gqa, 300, 310)
    measured(conv, 100, 101)
    add(bad, kind="probe", status="unsupported", reason="because")
    missing = make_case("head")
    document = report_json(build_report("fake", records, [gqa, conv, bad, missing]), {"id": "fake"})
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert set(document) == {"device", "noise_floor", "drift_sd", "measurements"}
    assert all(set(m) == contract | BESIDES for m in document["measurements"])
    first, second, third, fourth = document["measurements"]
    assert first["ratio_to_short_conv"] == pytest.approx(3.04, rel=0.01)
    assert first["ratio_ci95"][0] < first["ratio_to_short_conv"] < first["ratio_ci95"][1]
    assert first["ci95_ns"][0] < first["p50_ns"] < first["ci95_ns"][1]
    assert (first["n_instances"], first["n_samples"], len(first["instance_ids"])) == (2, 10, 2)
    assert (first["peak_rss_delta_bytes"], first["weight_bytes"], first["max_rel_error"]) == (5, 9, 1e-6)
    assert first["state_bytes"] == 16 * 2 * 2 * 16 * 4
    assert second["ratio_to_short_conv"] == 1.0
    assert (third["status"], third["p50_ns"], third["ci95_ns"], third["instance_ids"]) == (
        "unsupported",
        None,
        None,
        [],
    )
    assert (fourth["status"], fourth["stable"]) == ("missing", None)


def test_the_noise_floor_needs_a_second_load(measured, make_case, records) -> None:
    case = make_case("gqa")
    measured(case, 100)
    assert build_report("fake", records, [case]).noise_floor is None
    measured(case, 130, session_id="s2")
    assert build_report("fake", records, [case]).noise_floor.pooled > 0


def test_the_median_of_what_is_known() -> None:
    assert median_of([3, None, 1, 8]) == 3
    assert median_of([1, 2]) == 2
    assert median_of([None]) is None
