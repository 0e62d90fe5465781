import math

import numpy as np
import pytest

from edgeprof.core.types import BenchCase, InstanceRecord
from edgeprof.regress.resample import RecordedCase, draw, process_time, recorded_cases

CASE = BenchCase(
    op="short_conv",
    op_version=1,
    phase="decode",
    dims={"d_model": 64},
    q_len=1,
    kv_len=16,
    dtype="fp32",
    kv_dtype="fp32",
    runtime="onnxruntime",
    n_threads=1,
    cache_state="hot",
)


def load(number, samples, session="s", **fields):
    return InstanceRecord(
        **{
            "id": f"{session}{number}{samples[0]}",
            "kind": "latency",
            "session_id": session,
            "round": number,
            "case_key": CASE.key,
            "case": CASE,
            "runtime_version": "1",
            "device_id": "d",
            "environment": {},
            "fingerprint": "f",
            "started_at": "2026-01-01T00:00:00.000+00:00",
            "status": "ok",
            "samples_ns": samples,
            **fields,
        }
    )


def recorded(log_times):
    return RecordedCase(
        case=CASE, session_id="s", log_times=tuple(log_times), mean_ns=tuple(map(math.exp, log_times)), seconds=0.5
    )


def test_a_process_counts_with_the_median_of_its_best_load():
    assert process_time([[10, 30, 20], [5, 50, 500]]) == pytest.approx(math.log(20))


def test_a_process_without_loads_has_no_time():
    with pytest.raises(ValueError, match="at least one load"):
        process_time([])


def test_records_become_one_value_a_process():
    records = [load(r, [100 + r, 100 + r]) for r in range(4)] + [load(r, [200 + r]) for r in range(4)]
    (found,) = recorded_cases(records)
    assert found.log_times == pytest.approx([math.log(100 + r) for r in range(4)])
    assert found.mean_ns == pytest.approx([100, 101, 102, 103])


def test_processes_stand_in_the_order_they_were_measured():
    (found,) = recorded_cases([load(r, [100 + r]) for r in (3, 0, 2, 1)])
    assert list(found.log_times) == sorted(found.log_times)


def test_sessions_are_not_mixed_and_short_ones_left_out():
    records = [load(r, [100]) for r in range(4)] + [load(r, [900], session="t") for r in range(3)]
    assert [c.session_id for c in recorded_cases(records)] == ["s"]


def test_processes_that_lost_a_load_and_failed_loads_are_left_out():
    records = [load(r, [100 + i]) for r in range(4) for i in range(2)] + [load(9, [100])]
    records.append(load(8, [1], status="error", reason="no"))
    (found,) = recorded_cases(records)
    assert len(found.log_times) == 4


def test_the_cost_of_a_process_is_everything_its_loads_took():
    facts = {"load_ns": 10**9, "first_call_ns": 10**9, "warmup_calls": 2}
    (found,) = recorded_cases([load(r, [10**9], **facts) for r in range(4)])
    assert (found.seconds, found.block_seconds) == (5, 20)


def test_a_block_is_four_different_processes_near_each_other_one_side_outside_the_other():
    drawn = draw(recorded(np.arange(30.0)), 300, np.random.default_rng(0))
    turns = np.sort(np.concatenate([drawn.base, drawn.head], axis=1))
    assert (np.diff(turns) > 0).all()
    assert (turns[:, 3] - turns[:, 0]).max() == 6
    assert {turn for row in turns for turn in row} == set(range(30))
    outside = (drawn.base[:, 0] < drawn.head[:, 0]) & (drawn.base[:, 1] > drawn.head[:, 1])
    inside = (drawn.base[:, 0] > drawn.head[:, 0]) & (drawn.base[:, 1] < drawn.head[:, 1])
    assert (outside | inside).all()
    assert 0.35 < outside.mean() < 0.65


def test_drawn_blocks_favour_no_side_and_hold_the_slowdown_that_was_put_there():
    case = recorded(np.random.default_rng(1).normal(0, 0.01, 8))
    drawn = draw(case, 4000, np.random.default_rng(2))
    ratios = [b.log_ratio for b in drawn.blocks(case)]
    slowed = [b.log_ratio for b in drawn.blocks(case, 0.1)]
    assert np.mean(ratios) == pytest.approx(0, abs=0.001)
    assert np.subtract(slowed, ratios) == pytest.approx(math.log(1.1))
