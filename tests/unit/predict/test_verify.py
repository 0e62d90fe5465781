"""The model beside its cells: rows, what they are compared with, and what is said where there is none."""

from dataclasses import replace

import pytest

from edgeprof.predict.plan import cell_rings, decode_call, model_case, model_ring
from edgeprof.predict.types import ModelCall
from edgeprof.predict.verify import (
    config_hash,
    failures,
    host_speed,
    measure_of,
    measured_session,
    verify_calls,
    verify_rings,
    verify_rows,
)

CALL = decode_call(64)
PREFILL = ModelCall(phase="prefill", q_len=16, kv_len=16)


def test_calls_are_tokens_at_contexts_and_whole_prompts() -> None:
    assert verify_calls([64, 128], [16]) == [decode_call(64), decode_call(128), PREFILL]


def test_a_model_and_its_cells_share_their_processes(make_target) -> None:
    rings = verify_rings([make_target("CG"), make_target("CCG")], [CALL, PREFILL])
    assert len({ring.group for ring in rings}) == 2
    models = [ring for ring in rings if ring.turn[0].op == "model"]
    assert len(models) == 4
    assert {ring.loads for ring in models} == {2}


def test_a_row_says_what_was_off(lab, make_target) -> None:
    target = make_target("CCG")
    records = lab.ring_records(target, [CALL], model_factor=1.1)
    row, _ = verify_rows([target], [CALL], lab.knowledge(records), "s1")
    assert (row.paired, row.phase, row.context, row.config_hash) == (True, "decode", 64, config_hash(target))
    assert row.signed_error == pytest.approx(1 / 1.1 - 1, rel=0.02)
    assert row.predicted_ns == row.uncorrected_ns
    assert row.measured_ci95_ns[0] <= row.measured_ns <= row.measured_ci95_ns[1]
    assert row.aa_spread == pytest.approx(0.0, abs=1e-6)
    assert not row.covered


def test_earlier_cells_make_a_row_of_their_own(lab, make_target) -> None:
    target = make_target("CCG")
    earlier, now = (lab.ring_records(target, [CALL], session=session, model_factor=1.0) for session in ("s1", "s2"))
    rows = verify_rows([target], [CALL], lab.knowledge([*earlier, *now]), "s2")
    assert [(row.phase, row.paired, row.session_id) for row in rows] == [
        ("decode", True, "s2"),
        ("decode", False, "s2"),
        ("memory", True, "s2"),
    ]
    assert rows[0].hi_ns - rows[0].lo_ns < rows[1].hi_ns - rows[1].lo_ns
    # what is measured afterwards, such as pairs of its blocks, adds no row to a session that was told already
    told = verify_rows([target], [CALL], lab.knowledge([*earlier, *now]), "s1")
    assert [(row.phase, row.paired) for row in told] == [("decode", True), ("memory", True)]


def test_a_models_own_history_does_not_help_to_predict_it(lab, make_target, make_row) -> None:
    target = make_target("CCG")
    records = lab.ring_records(target, [CALL], model_factor=1.1)
    own = [make_row(0.1, paired=True, config_hash=config_hash(target))]
    with_own, without = (verify_rows([target], [CALL], lab.knowledge(records, history=h), "s1") for h in (own, []))
    assert with_own[0].predicted_ns == without[0].predicted_ns


def test_a_correction_shifts_what_is_predicted_and_not_what_is_learnt_from(lab, make_target, make_row) -> None:
    target = make_target("CCG")
    records = lab.ring_records(target, [CALL], model_factor=1.1)
    others = [make_row(0.1, paired=True, config_hash=str(i)) for i in range(30)]
    plain, _ = verify_rows([target], [CALL], lab.knowledge(records), "s1")
    row, _ = verify_rows([target], [CALL], lab.knowledge(records, history=others), "s1")
    assert row.uncorrected_ns == plain.uncorrected_ns
    assert abs(row.signed_error) < abs(plain.signed_error) / 3


def test_what_was_not_measured_has_no_row(lab, make_target) -> None:
    target = make_target("CCG")
    assert verify_rows([target], [CALL], lab.knowledge(lab.ring_records(target, [CALL])), "s1") == []
    alone = [r for r in lab.ring_records(target, [CALL], model_factor=1.0) if r.case.op == "model"]
    assert verify_rows([target], [CALL], lab.knowledge(alone), "s1") == []


def test_memory_is_a_row_of_bytes(lab, make_target) -> None:
    target, mib = make_target("CG"), 2**20
    records = lab.ring_records(target, [CALL], model_factor=1.0)
    rows = verify_rows([target], [CALL], lab.knowledge(records), "s1")
    assert [row.phase for row in rows] == ["decode", "memory"]
    assert rows[1].measured_ns == rows[1].uncorrected_ns == 4.25 * mib


@pytest.mark.parametrize(("processes", "samples", "known"), [(5, 3, False), (8, 4, True), (2, 40, True)])
def test_p90_needs_64_samples_over_all_loads(lab, make_target, processes: int, samples: int, known: bool) -> None:
    target = make_target("CG")
    loads = [
        r
        for r in lab.ring_records(target, [CALL], model_factor=1.0, processes=processes, samples=samples)
        if r.case.op == "model" and r.kind == "latency"
    ]
    assert (measure_of(loads).p90_ratio is not None) is known


def test_p90_is_in_units_of_each_loads_own_median(lab, make_target) -> None:
    (case,) = model_ring(make_target("CG"), CALL, "", 2).turn
    samples = [100] * 8 + [150] * 2
    loads = [lab.timed(case, "s", n, [k * ns for ns in samples]) for n in range(4) for k in (1000, 3000)]
    assert measure_of(loads).p90_ratio == pytest.approx(1.5)


def test_the_spread_of_a_model_against_itself_is_between_loads_of_a_process(lab, make_target) -> None:
    (case,) = model_ring(make_target("CG"), CALL, "", 2).turn
    loads = [lab.timed(case, "s", n, [k * 1000 * (n + 1)] * 3) for n in range(3) for k in (100, 110)]
    assert measure_of(loads).aa_spread == pytest.approx(0.0953, abs=1e-3)


def test_a_spread_wider_than_the_interval_can_tell_nothing(make_row) -> None:
    assert not make_row(aa_spread=0.09).inconclusive  # half of 0.9 to 1.1 is 0.1003
    assert make_row(aa_spread=0.11).inconclusive
    assert not make_row(aa_spread=None).inconclusive


def test_a_session_counts_once_it_is_whole(lab, make_target) -> None:
    target, calls = make_target("CG"), [CALL, PREFILL]
    whole = lab.ring_records(target, calls, session="whole", model_factor=1.0)
    short = lab.ring_records(target, calls, session="short", model_factor=1.0, processes=3)
    half = lab.ring_records(target, [CALL], session="half", model_factor=1.0)
    evidence = lab.knowledge([*whole, *short, *half]).evidence()
    assert measured_session(target, calls, evidence, 5) == "whole"
    assert measured_session(target, [CALL], evidence, 5) == "half"
    assert measured_session(target, calls, evidence, 3) == "short"
    assert measured_session(target, calls, evidence, 6) is None
    assert measured_session(make_target("CCG"), calls, evidence, 1) is None


def test_a_failure_of_the_model_or_of_a_cell_is_told_for_its_call(make_target) -> None:
    target = make_target("CG")
    (model,) = model_ring(target, CALL, "", 2).turn
    cell = cell_rings(target, PREFILL)[0].turn[0]
    found = failures(target, [CALL, PREFILL], {model.key: "error: no memory", cell.key: "wrong_output: off"})
    assert [(f.call, f.reason) for f in found] == [(CALL, "error: no memory"), (PREFILL, "wrong_output: off")]
    assert failures(target, [CALL, PREFILL], {}) == []


def test_the_models_reason_goes_before_a_cells(make_target) -> None:
    target = make_target("CG")
    (model,) = model_ring(target, CALL, "", 2).turn
    failed = {case.key: "error: cell" for ring in cell_rings(target, CALL) for case in ring.cases}
    assert failures(target, [CALL], failed | {model.key: "error: model"})[0].reason == "error: model"


def test_another_build_of_the_model_is_no_measurement_of_it(lab, make_target) -> None:
    target = make_target("CG")
    records = [
        replace(r, artifact_key="old") if r.case.op == "model" else r
        for r in lab.ring_records(target, [CALL], model_factor=1.0)
    ]
    assert verify_rows([target], [CALL], lab.knowledge(records), "s1") == []
    assert list(lab.knowledge(records).evidence().loads(model_case(target, CALL))) == []


def test_the_hosts_speed_is_that_of_the_call_whose_cells_differ_most(make_row) -> None:
    rows = [
        make_row(paired=paired, context=context, uncorrected_ns=ns)
        for context, stored, ns_paired in ((64, 1e6, 1.1e6), (128, 1e6, 0.8e6))
        for paired, ns in ((False, stored), (True, ns_paired))
    ]
    assert host_speed(rows) == 0.8
    assert host_speed(rows[:2]) == 1.1


def test_without_rows_of_both_kinds_the_hosts_speed_is_the_usual_one(make_row) -> None:
    memory = [make_row(phase="memory", paired=paired, uncorrected_ns=1e6 * (1 + paired)) for paired in (False, True)]
    assert host_speed([make_row(paired=True), make_row(context=128), *memory]) == 1.0
