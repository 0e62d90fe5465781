import json
import math

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.regress.recording import RawBlock, process_time, read_recording
from edgeprof.regress.run import replay


def test_letters_tell_the_sides_of_a_block():
    raw = RawBlock(case_key="k", run=1, order="BAAB", at="now", processes=(((20,),), ((10,),), ((11,),), ((40,),)))
    block = raw.block()
    assert block.base[1] - block.base[0] == pytest.approx(math.log(11 / 10))
    assert block.head[1] - block.head[0] == pytest.approx(math.log(40 / 20))
    assert 2 * block.log_ratio == pytest.approx(math.log(20 * 40 / (10 * 11)))


def test_a_recording_says_again_what_the_check_said(record, make_case):
    same, slower = make_case("gqa"), make_case("short_conv")
    result = replay(record([(slower, 0.2), (same, 0.0)]))
    assert [(row.case, row.verdict.outcome) for row in result.rows] == [(slower, "regressed"), (same, "unchanged")]
    assert result.changes == ("numpy 2.0 to 2.1",)
    assert (result.seconds, result.n_blocks) == (100.0, 10)
    assert result.rows[0].head == pytest.approx(1.2 * result.rows[0].base, rel=0.02)


def test_blocks_of_the_second_run_are_no_blocks_of_the_first(record, make_case):
    recorded = read_recording(record([(make_case(), 0.2)]))
    assert [len(next(iter(recorded.blocks(run).values()))) for run in (1, 2)] == [10, 10]


def test_an_interrupted_recording_gives_what_it_has(record, make_case):
    path = record([(make_case(), 0.0)], n=20)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:6]) + lines[6][:40])
    result = replay(path)
    assert result.rows[0].verdict.outcome == "inconclusive"
    assert result.rows[0].verdict.n_blocks == 4


def test_a_case_that_failed_is_missing_whatever_was_measured_before(record, make_case):
    case = make_case()
    path = record([(case, 0.0)])
    failure = {"kind": "failure", "case_key": case.key, "reason": "head: RuntimeError: broken"}
    path.write_text(path.read_text() + json.dumps(failure) + "\n")
    verdict = replay(path).rows[0].verdict
    assert (verdict.outcome, verdict.reason) == ("missing", "head: RuntimeError: broken")


def test_untimed_cases_are_unchanged_without_a_p(record, make_case):
    case = make_case()
    path = record([(case, 0.0)], n=0)
    text = path.read_text().replace('"untimed":[]', f'"untimed":["{case.key}"]')
    path.write_text(text)
    verdict = replay(path).rows[0].verdict
    assert (verdict.outcome, verdict.p, verdict.ratio) == ("unchanged", None, None)
    assert "not measured" in verdict.reason


def test_memory_rows_need_both_sides_and_enough_readings(record, make_case):
    case = make_case()
    path = record([(case, 0.0)])
    lines = [
        {"kind": "memory", "case_key": case.key, "side": side, "memory": {"peak_rss_delta_bytes": size}}
        for side, size in (("base", 10_000_000), ("head", 12_000_000))
        for _ in range(6)
    ]
    text = path.read_text().replace(f'"identical":["{case.key}"]', '"identical":[]')
    path.write_text(text + "".join(json.dumps(line) + "\n" for line in lines))
    time, memory = replay(path).rows
    assert (time.quantity, memory.quantity, memory.verdict.outcome) == ("time", "peak_memory", "regressed")
    path.write_text(path.read_text().replace('"with_memory":true', '"with_memory":false'))
    assert [row.quantity for row in replay(path).rows] == ["time"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [], "line 1: is no recording"),
        (lambda lines: lines[1:], "line 1: is no recording"),
        (lambda lines: [lines[0].replace('"schema_version":1', '"schema_version":9')], "schema_version: 9 is not 1"),
        (lambda lines: [*lines[:3], "{\n"], "line 4: not JSON"),
        (lambda lines: [*lines[:3], "[1]\n"], "line 4: is no object"),
        (lambda lines: [*lines[:3], lines[3].replace('"run":1', '"run":3')], "line 4: ValueError: order"),
        (lambda lines: [*lines[:3], lines[3].replace('"order":"', '"order":"A')], "line 4: ValueError"),
        (lambda lines: [*lines[:3], '{"kind":"block"}\n'], "line 4: KeyError: 'case_key'"),
        (lambda lines: [lines[0].replace('"device_id"', '"device"')], "line 1: KeyError: 'device_id'"),
        (lambda lines: [lines[0].replace('"alpha":0.05', '"alpha":7')], "alpha: 7 is not an error rate"),
    ],
)
def test_what_is_no_recording_is_refused_by_its_line(record, make_case, change, said):
    path = record([(make_case(), 0.0)])
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    with pytest.raises(UsageError) as caught:
        replay(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sample_that_is_no_time_is_refused(record, make_case):
    path = record([(make_case(), 0.0)])
    lines = path.read_text().splitlines()
    block = json.loads(lines[2])
    block["processes"][0][0][0] = -5
    path.write_text("\n".join([*lines[:2], json.dumps(block)]) + "\n")
    with pytest.raises(UsageError, match="line 3: ValueError: -5 is not a positive whole number"):
        replay(path)


def test_a_block_whose_processes_have_different_loads_is_refused(record, make_case):
    path = record([(make_case(), 0.0)])
    lines = path.read_text().splitlines()
    block = json.loads(lines[2])
    block["processes"][0].append([5])
    path.write_text("\n".join([*lines[:2], json.dumps(block)]) + "\n")
    with pytest.raises(UsageError, match="line 3: ValueError: processes: a block has four"):
        replay(path)


def test_a_folder_is_no_recording(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        replay(tmp_path)


def test_a_process_counts_with_the_medians_of_the_better_half_of_its_loads():
    assert process_time([[10, 30, 20], [5, 50, 500]]) == pytest.approx(math.log(20))
    loads = [[10], [40], [1000], [90]]
    assert process_time(loads) == pytest.approx((math.log(10) + math.log(40)) / 2)


def test_a_process_without_loads_has_no_time():
    with pytest.raises(ValueError, match="at least one load"):
        process_time([])
