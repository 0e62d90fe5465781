"""Peak memory from the probes of cells."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from edgeprof.core.types import BenchCase, Memory
from edgeprof.predict.memory import GRAIN_BYTES, TELLING_BYTES, predict_peak
from edgeprof.predict.plan import decode_call
from edgeprof.predict.predict import predict
from edgeprof.predict.types import ModelCall

MIB = 2**20
CALL = decode_call(64)
PREFILL = ModelCall(phase="prefill", q_len=16, kv_len=16)


def test_what_cells_keep_adds_up_and_the_largest_passing_need_comes_on_top(lab, make_target) -> None:
    target = make_target("CCG")
    peak = predict(target, lab.knowledge(lab.ring_records(target, [CALL])), context=64).peak
    assert peak.uncorrected_bytes == 5 * MIB + MIB / 4
    assert peak.bytes.lo < peak.bytes.value < peak.bytes.hi


def with_memory(records: list, wanted: Callable[[BenchCase], bool], kept: float, passing: float = 0.0) -> list:
    """The records, those probes changed whose case is wanted; in mebibytes."""
    memory = Memory(
        anon_delta_bytes=round(kept * MIB), file_delta_bytes=0, peak_rss_delta_bytes=round((kept + passing) * MIB)
    )
    return [replace(r, memory=memory) if r.kind == "probe" and wanted(r.case) else r for r in records]


def test_what_a_prefill_needs_beside_weights_and_state_is_used_by_one_layer_after_another(lab, make_target) -> None:
    target = make_target("CCG")
    records = lab.ring_records(target, [CALL, PREFILL])
    grown = with_memory(records, lambda c: c.phase == "prefill" and c.op == "block", kept=4)
    peak = predict(target, lab.knowledge(grown), context=64, prompt=16).peak
    assert peak.uncorrected_bytes == (5 * 1 + 3) * MIB


def test_a_prefill_whose_cells_were_never_decoded_is_taken_as_it_is(lab, make_target) -> None:
    target = make_target("CCG")
    records = lab.ring_records(target, [PREFILL])
    grown = with_memory(records, lambda c: c.op == "block", kept=4)
    peak = predict_peak(target, [PREFILL], lab.knowledge(grown).evidence(), lab.knowledge([]).errors(target, "memory"))
    assert peak.uncorrected_bytes == (2 + 3 * 4) * MIB + MIB / 4


def test_a_tied_projection_is_made_from_the_table_that_is_there_anyway(lab, make_target, config_of) -> None:
    tied = config_of("CG")
    for config, extra in ((tied, 0), (replace(tied, tied=False), 9)):
        target = make_target(config=config)
        records = lab.ring_records(target, [CALL])
        grown = with_memory(records, lambda c: c.op == "head", kept=1, passing=9)
        peak = predict(target, lab.knowledge(grown), context=64).peak
        assert peak.uncorrected_bytes == pytest.approx((4 + max(extra, 0.25)) * MIB)


def test_a_tied_table_is_read_whole_by_the_head(lab, make_target) -> None:
    target = make_target("CG")
    records = with_memory(lab.ring_records(target, [CALL]), lambda c: c.op == "embedding", kept=0)
    peak = predict(target, lab.knowledge(records), context=64).peak
    assert peak.uncorrected_bytes == 3 * MIB + 40 * 32 * 4 + MIB / 4


def test_a_small_models_interval_is_as_wide_as_memorys_grain(lab, make_target) -> None:
    target = make_target("CG")
    peak = predict(target, lab.knowledge(lab.ring_records(target, [CALL])), context=64).peak
    assert peak.bytes.hi > peak.bytes.value + GRAIN_BYTES
    assert peak.bytes.lo > 0


def test_small_models_say_nothing_of_how_cells_add_up(lab, make_target, make_row) -> None:
    target = make_target("CG")
    rows = [
        make_row(0.5, phase="memory", paired=True, measured_ns=TELLING_BYTES - 1, config_hash=str(i)) for i in range(9)
    ]
    assert lab.knowledge([], history=rows).errors(target, "memory").n_models == 0


def test_another_context_keeps_what_was_probed_with_its_own_state(lab, make_target) -> None:
    target = make_target("CCG")
    records = lab.ring_records(target, [decode_call(64), decode_call(96)])
    grown = with_memory(records, lambda c: c.kv_len == 96 and "gqa" in str(c.dims), kept=9)  # such as larger tables
    peak = predict(target, lab.knowledge(grown), context=80).peak
    (gqa,) = (layer for layer in target.config.layers if layer.mixer.name == "gqa")
    more = [gqa.state_bytes(batch=1, kv_len=n, kv_dtype="fp32") for n in (64, 80)]
    assert peak.uncorrected_bytes == 5 * MIB + more[1] - more[0] + MIB / 4


def test_code_is_paged_in_once_for_all_blocks(lab, make_target) -> None:
    target = make_target("CCG")
    records = lab.ring_records(target, [CALL])
    code = Memory(
        anon_delta_bytes=MIB, file_delta_bytes=MIB, code_delta_bytes=MIB, peak_rss_delta_bytes=2 * MIB + MIB // 4
    )
    grown = [replace(r, memory=code) if r.kind == "probe" and r.case.op == "block" else r for r in records]
    peak = predict(target, lab.knowledge(grown), context=64).peak
    assert peak.uncorrected_bytes == (5 + 1) * MIB + MIB / 4


def test_what_a_prompt_has_touched_of_the_table_stays(lab, make_target) -> None:
    target = make_target("CCG")
    records = with_memory(
        lab.ring_records(target, [CALL, PREFILL]), lambda c: c.op == "embedding" and c.phase == "prefill", kept=3
    )
    peak = predict(target, lab.knowledge(records), context=64, prompt=16).peak
    assert peak.uncorrected_bytes == (3 + 4) * MIB + MIB / 4


def test_a_device_that_cannot_tell_leaves_memory_unknown_and_times_known(lab, make_target) -> None:
    target = make_target("CG")
    records = [replace(r, memory=Memory()) if r.kind == "probe" else r for r in lab.ring_records(target, [CALL])]
    found = predict(target, lab.knowledge(records), context=64)
    assert found.peak.bytes is None
    assert len(found.peak.missing) == 4
    assert found.missing == ()
    assert found.tpot.ns is not None


def test_verified_peaks_correct_and_narrow(lab, make_target, make_row) -> None:
    target = make_target("CG")
    records = lab.ring_records(target, [CALL])
    size = 2.0 * TELLING_BYTES
    rows = [
        make_row(phase="memory", paired=True, config_hash=str(i), uncorrected_ns=size, measured_ns=1.1 * size)
        for i in range(30)
    ]
    before, after = (predict(target, lab.knowledge(records, history=h), context=64).peak for h in ([], rows))
    assert after.bytes.value > 1.05 * before.bytes.value
    assert after.bytes.relative_width < before.bytes.relative_width
    assert (after.verified_rows, after.verified_models) == (30, 30)
