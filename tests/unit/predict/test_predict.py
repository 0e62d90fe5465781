"""From cells of a known law to a model: the sum, what lies between, what is missing."""

from dataclasses import replace

import numpy as np
import pytest

from edgeprof.core.types import BenchCase
from edgeprof.predict.evidence import Conditions
from edgeprof.predict.plan import cell_rings, cells, decode_call, prefill_calls, working_set
from edgeprof.predict.predict import predict, predict_calls
from edgeprof.predict.types import ModelCall

WHOLE = ModelCall(phase="prefill", q_len=16, kv_len=16)


def labels(missing: tuple[BenchCase, ...]) -> set[tuple[str, int]]:
    return {(case.op, case.kv_len) for case in missing}


@pytest.mark.parametrize("pattern", ["C", "CCG", "CGSCG", "G" * 9])
@pytest.mark.parametrize("runtime", ["torch_eager", "onnxruntime"])
def test_a_prediction_is_the_sum_of_what_its_cells_cost(lab, make_target, total_of, pattern: str, runtime: str) -> None:
    target, decode = make_target(pattern, runtime=runtime), decode_call(64)
    known = lab.knowledge(lab.ring_records(target, [decode, WHOLE]))
    found = predict(target, known, context=64, prompt=16)
    assert found.missing == found.rings == ()
    assert found.tpot.uncorrected_ns == pytest.approx(total_of(target, (decode,)), rel=2e-3)
    assert found.ttft.uncorrected_ns == pytest.approx(total_of(target, (WHOLE,)), rel=1e-4)
    assert found.tpot.ns.lo < found.tpot.ns.value < found.tpot.ns.hi


def test_terms_and_one_boundary_a_call_make_the_sum(lab, make_target) -> None:
    target, calls = make_target("CCGS"), prefill_calls(40, 16)
    known = lab.knowledge(lab.ring_records(target, calls))
    found = predict_calls(target, known, known.evidence(), calls)
    assert sum(term.total_ns for term in found.terms) + 3 * 3_000 == pytest.approx(found.uncorrected_ns, rel=1e-6)
    assert {term.label: term.count for term in found.terms}["short_conv k3 + swiglu 64"] == 2


def test_chunks_grow_their_context_and_only_the_last_has_a_head(lab, make_target, total_of) -> None:
    target, calls = make_target("CG"), prefill_calls(40, 16)
    known = lab.knowledge(lab.ring_records(target, calls))
    found = predict_calls(target, known, known.evidence(), calls)
    assert found.uncorrected_ns == pytest.approx(total_of(target, calls), rel=1e-4)
    assert [term.label for term in found.terms].count("head") == 1
    attention = [term for term in found.terms if term.label.startswith("gqa")]
    assert [(t.call.q_len, t.call.kv_len) for t in attention] == [(16, 16), (16, 32), (8, 40)]
    assert attention[0].ns < attention[1].ns


def test_another_models_cells_serve_a_model_of_the_same_blocks(lab, make_target, total_of) -> None:
    target, call = make_target("CCG"), decode_call(64)
    near = lab.ring_records(make_target("CG"), [call])
    assert predict(target, lab.knowledge(near), context=64).missing  # its working set lies outside of their one ring
    far = lab.ring_records(make_target("CGCG"), [call])
    found = predict(target, lab.knowledge([*near, *far]), context=64)
    assert found.tpot.uncorrected_ns == pytest.approx(total_of(target, (call,)), rel=2e-3)


def test_every_missing_cell_is_named_once_and_its_rings_with_it(lab, make_target) -> None:
    target = make_target("CCG")
    found = predict(target, lab.knowledge([]), context=64, prompt=16)
    assert found.tpot.ns is None
    assert found.ttft.ns is None
    wanted = {c.case.key for call in (decode_call(64), WHOLE) for c in cells(target, call)}
    assert {case.key for case in found.missing} == wanted
    assert len(found.missing) == len(wanted)
    assert list(found.rings) == [*cell_rings(target, decode_call(64)), *cell_rings(target, WHOLE)]


def test_measuring_the_missing_rings_is_enough(lab, make_target) -> None:
    target = make_target("CCG")
    records = lab.ring_records(target, [decode_call(64)])
    before = predict(target, lab.knowledge(records), context=64, prompt=16)
    assert before.tpot.ns is not None
    assert labels(before.missing) == {("embedding", 16), ("block", 16), ("head", 1)}
    assert all(case.phase == "prefill" for ring in before.rings for case in ring.cases)
    after = predict(target, lab.knowledge([*records, *lab.ring_records(target, [WHOLE])]), context=64, prompt=16)
    assert after.missing == ()


def test_two_processes_are_not_enough(lab, make_target) -> None:
    target, call = make_target("CG"), decode_call(64)
    assert predict(target, lab.knowledge(lab.ring_records(target, [call], processes=2)), context=64).missing
    assert not predict(target, lab.knowledge(lab.ring_records(target, [call], processes=3)), context=64).missing


def test_records_of_another_environment_are_missing_cells(lab, make_target) -> None:
    target, call = make_target("CG"), decode_call(64)
    known = lab.knowledge(lab.ring_records(target, [call]), conditions=Conditions(fingerprint="0" * 16))
    assert len(predict(target, known, context=64).missing) == 4


def test_a_context_between_two_measured_ones_is_interpolated(lab, make_target, total_of) -> None:
    target = make_target("CCG")
    measured = [decode_call(64), decode_call(96)]
    known = lab.knowledge(lab.ring_records(target, measured))
    at, between = (predict(target, known, context=n).tpot for n in (64, 80))
    assert between.uncorrected_ns == pytest.approx(total_of(target, (decode_call(80),)), rel=2e-3)
    assert {term.label: term.how for term in between.terms}["gqa 4/2x16 + swiglu 64"] == "interpolated"
    assert between.ns.relative_width > at.ns.relative_width


@pytest.mark.parametrize("context", [63, 97])
def test_no_context_is_extrapolated(lab, make_target, context: int) -> None:
    target = make_target("CCG")
    known = lab.knowledge(lab.ring_records(target, [decode_call(64), decode_call(96)]))
    assert labels(predict(target, known, context=context).missing) == {("block", context)}


def test_a_nearer_context_under_other_conditions_does_not_hide_a_farther_one(lab, make_target) -> None:
    target = make_target("CCG")
    good = lab.ring_records(target, [decode_call(64), decode_call(96)])
    foreign = [replace(r, fingerprint="0" * 16) for r in lab.ring_records(target, [decode_call(72), decode_call(88)])]
    assert predict(target, lab.knowledge([*foreign, *good]), context=80).missing == ()


def test_a_whole_prefill_is_not_made_of_prefills_onto_a_past(lab, make_target) -> None:
    target = make_target("G")
    onto = [ModelCall(phase="prefill", q_len=16, kv_len=n) for n in (32, 64)]
    known = lab.knowledge(lab.ring_records(target, onto))
    assert labels(predict_calls(target, known, known.evidence(), (WHOLE,)).missing) == {("block", 16)}
    middle = ModelCall(phase="prefill", q_len=16, kv_len=48)
    assert not predict_calls(target, known, known.evidence(), (middle,)).missing


def test_a_working_set_far_outside_of_the_rings_is_refused(lab, make_target) -> None:
    call = decode_call(64)
    known = lab.knowledge(lab.ring_records(make_target("CG"), [call]))
    missing = predict(make_target("CG" * 4), known, context=64).missing
    assert labels(missing) == {("embedding", 1), ("block", 64), ("head", 1)}


def test_a_cost_that_rises_between_its_rings_is_warned_of(lab, make_target, monkeypatch) -> None:
    target, call = make_target("CCCG"), decode_call(64)
    size = working_set(target, call)
    law = lambda case, ring: 1e6 if ring > size else 5e5  # noqa: E731
    monkeypatch.setitem(lab.ring_records.__func__.__globals__, "net_ns", law)
    found = predict(target, lab.knowledge(lab.ring_records(target, [call])), context=64)
    assert any("half lives in the cache" in w for w in found.tpot.warnings)


def test_processes_that_disagree_are_warned_of(lab, make_target) -> None:
    lab.process_sd = 0.3
    target, call = make_target("CG"), decode_call(64)
    found = predict(target, lab.knowledge(lab.ring_records(target, [call], processes=9)), context=64)
    assert any("processes disagree" in w for w in found.tpot.warnings)


def test_a_busy_host_is_warned_of_and_its_model_predicted(lab, make_target, total_of) -> None:
    """Every tenth call is interrupted for a while: medians of calls hide it, the model's call as long as a pass would not."""
    target, call = make_target("CCG" * 4), decode_call(64)

    def interrupted(record):
        if record.kind != "latency":
            return record
        slices = [lab.chance.random() < 0.1 for _ in range(40)]
        return replace(record, samples_ns=[record.samples_ns[0] + 300_000 * late for late in slices])

    quiet = lab.ring_records(target, [call])
    busy = [interrupted(record) for record in quiet]
    plain, found = (predict(target, lab.knowledge(records), context=64).tpot for records in (quiet, busy))
    places = len(target.config.layers) + 2
    assert found.uncorrected_ns == pytest.approx(plain.uncorrected_ns + 0.1 * places * 300_000, rel=0.2)
    assert any("the host was busy" in w for w in found.warnings)


def test_a_quiet_laboratory_warns_of_nothing(lab, make_target) -> None:
    target, call = make_target("CCG"), decode_call(64)
    assert predict(target, lab.knowledge(lab.ring_records(target, [call])), context=64).tpot.warnings == ()


def test_cells_of_different_sessions_add_up_too(lab, make_target, total_of) -> None:
    target, call = make_target("CG"), decode_call(64)
    records = lab.ring_records(target, [call], session="s1")
    split = [replace(r, session_id="s2") if r.case.op == "block" else r for r in records]
    found = predict(target, lab.knowledge(split), context=64).tpot
    assert found.uncorrected_ns == pytest.approx(total_of(target, (call,)), rel=2e-3)


def test_the_interval_of_the_sum_holds_the_truth(make_target, total_of, lab) -> None:
    """Processes differ by 4 %, loads by 3 %: the measuring's own 95 % interval, without what models are off by."""
    from edgeprof.predict.estimate import add_up, look_up

    target, call = make_target("CCG"), decode_call(64)
    size, truth = working_set(target, call), np.log(total_of(target, (call,)))
    lab.process_sd, lab.load_sd, hits, worlds = 0.04, 0.03, 0, 60
    for _ in range(worlds):
        known = lab.knowledge(lab.ring_records(target, [call], processes=7))
        evidence = known.evidence()
        total = add_up([look_up(evidence, cell, size) for cell in cells(target, call)])
        hits += abs(total.log_ns - truth) <= total.half
    assert hits / worlds > 0.85
