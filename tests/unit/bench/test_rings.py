"""Which cells share a ring, in which order, and how large it gets."""

from dataclasses import replace

import pytest

from edgeprof.bench.jobs import RingSlot
from edgeprof.bench.rings import (
    MAX_TURNS,
    MIXERS,
    filler_case,
    needs_filler,
    null_case,
    ring_groups,
    ring_slots,
)
from edgeprof.models.composite import composite_ops
from edgeprof.operators.registry import OPERATORS, make_spec
from edgeprof.operators.traffic import working_set_bytes


@pytest.fixture
def streaming(make_case):
    def make(op: str, **changes):
        return make_case(op, cache_state="streaming", **changes)

    return make


def touched(slots: list[RingSlot]) -> int:
    return working_set_bytes(slot.case for slot in slots)


def test_a_turn_is_each_mixer_with_its_feed_forward_and_the_null_cell_last(streaming) -> None:
    cases = [streaming("gqa", ring_bytes=1), streaming("short_conv", ring_bytes=1), streaming("swa", ring_bytes=1)]
    ops = [slot.case.op for slot in ring_slots(cases)]
    assert ops == ["short_conv", "swiglu", "swa", "swiglu", "gqa", "swiglu", "identity"]


def test_fillers_and_null_cells_have_no_key_of_their_own(streaming) -> None:
    cases = [streaming("gqa"), streaming("swiglu")]
    slots = ring_slots(cases)
    assert {s.case_key for s in slots} == {None, *(c.key for c in cases)}
    recorded = [s.case for s in slots if s.case_key is not None]
    assert all(c in cases for c in recorded)
    assert {s.case.op for s in slots if s.case_key is None} == {"swiglu", "identity"}


def test_operators_that_are_no_mixers_follow_without_a_filler(streaming) -> None:
    ops = [s.case.op for s in ring_slots([streaming("head", ring_bytes=1), streaming("gqa", ring_bytes=1)])]
    assert ops == ["gqa", "swiglu", "head", "identity"]


@pytest.mark.parametrize("ring_bytes", [1, 50_000, 100_000, 200_000])
def test_turns_repeat_until_the_working_set_is_reached(streaming, ring_bytes: int) -> None:
    slots = ring_slots([streaming("gqa", ring_bytes=ring_bytes)])
    turn = slots[:3]
    turns = len(slots) // 3
    assert slots == turn * turns
    assert touched(slots) >= ring_bytes
    assert turns == 1 or touched(turn * (turns - 1)) < ring_bytes


def test_a_ring_of_tiny_cells_stops_at_the_most_turns(streaming) -> None:
    slots = ring_slots([streaming("gqa", ring_bytes=2**30)])
    assert len(slots) == 3 * MAX_TURNS
    assert touched(slots) < 2**30


def test_prefill_takes_one_turn_without_fillers(streaming) -> None:
    cases = [streaming(op, phase="prefill", q_len=16, ring_bytes=2**30) for op in MIXERS]
    assert [s.case.op for s in ring_slots(cases)] == [*MIXERS, "identity"]


def test_cases_that_differ_in_operator_dimensions_or_context_share_a_ring(streaming, tiny_dims) -> None:
    wide = tiny_dims["swa"] | {"window": 9}
    cases = [streaming("gqa"), streaming("gqa", kv_len=64), streaming("swa"), streaming("swa", dims=wide)]
    assert ring_groups(cases) == [cases]


@pytest.mark.parametrize(
    "change",
    [
        {"runtime": "onnxruntime"},
        {"dtype": "bf16"},
        {"kv_dtype": "bf16"},
        {"q_len": 2},
        {"batch": 2},
        {"n_threads": 2},
        {"ring_bytes": 7},
        {"phase": "prefill", "q_len": 16},
    ],
)
def test_other_differences_make_rings_of_their_own(streaming, change: dict) -> None:
    one = streaming("gqa")
    assert ring_groups([one, replace(one, **change)]) == [[one], [replace(one, **change)]]


def test_another_width_makes_a_ring_of_its_own(streaming, tiny_dims) -> None:
    cases = [streaming("gqa"), streaming("short_conv", dims={"d_model": 64, "kernel_size": 3})]
    assert len(ring_groups(cases)) == 2


@pytest.mark.parametrize("op", [o for o in OPERATORS if o not in {"identity", *composite_ops()}])
def test_the_null_cell_has_the_width_and_tokens_of_its_ring(streaming, op: str) -> None:
    case = streaming(op, q_len=2, dtype="int4", kv_dtype="int8")
    null = null_case(case)
    assert make_spec(null.op, null.dims).width() == make_spec(case.op, case.dims).width()
    assert (null.q_len, null.batch, null.past_len, null.dtype, null.kv_dtype) == (2, 1, 0, "fp32", "fp32")


def test_the_filler_has_lfm2s_ratio_in_the_mixers_own_weight_format(streaming, tiny_dims) -> None:
    wide = tiny_dims["gqa"] | {"d_model": 1024}
    filler = filler_case(streaming("gqa", dims=wide, dtype="int4", kv_dtype="int8"))
    assert filler.dims == {"d_model": 1024, "d_ff": 4608}
    assert (filler.dtype, filler.kv_dtype, filler.past_len) == ("int4", "fp32", 0)
    assert filler_case(streaming("gqa", dtype="bf16", kv_dtype="bf16")).kv_dtype == "bf16"


def test_the_working_set_counts_what_a_pass_touches(streaming) -> None:
    short, long = (ring_slots([streaming("gqa", kv_len=n, ring_bytes=1)]) for n in (16, 1016))
    rows = 1000 * 2 * 2 * 16 * 4  # tokens, keys and values, KV heads, head_dim, bytes
    assert touched(long) - touched(short) == rows


def test_only_decode_needs_fillers(streaming) -> None:
    assert needs_filler(streaming("swa"))
    assert not needs_filler(streaming("swa", phase="prefill", q_len=16))
    assert not needs_filler(streaming("head"))
