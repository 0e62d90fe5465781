"""Neighbours that are not additive: found, written down, and counted as one cell from then on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.models.block import BlockSpec
from edgeprof.models.pair import PairSpec, pair_of
from edgeprof.operators.registry import make_spec
from edgeprof.predict.evidence import Conditions
from edgeprof.predict.neighbours import (
    NEIGHBOURS_FILE,
    Effect,
    Neighbours,
    append_neighbours,
    judge,
    pair_effect,
    pair_ring,
    read_neighbours,
    to_neighbours,
)
from edgeprof.predict.plan import cell_rings, cells, decode_call, model_case, places, working_set
from edgeprof.predict.predict import predict
from edgeprof.predict.types import ModelCall
from edgeprof.predict.verify import measured_session, verify_rows

CALL = decode_call(64)
PREFILL = ModelCall(phase="prefill", q_len=16, kv_len=16)
FUSED = 0.8
CONV, GQA = "short_conv k3 + swiglu 64", "gqa 4/2x16 + swiglu 64"


def fuse(lab: Any, pair: PairSpec, factor: float = FUSED) -> None:
    """From now on the laboratory's runtime runs the two blocks in ``factor`` of their time where one follows the other."""
    of_additive = lab.call_ns

    def apart(case: Any, size: int) -> float:
        blocks = (replace(case, op="block", dims=block.dims(), ring_bytes=size) for block in pair.blocks())
        return sum(of_additive(block, 1.0) - CALL_NS for block in blocks)

    def call_ns(case: Any, model_factor: float) -> float:
        if case.op == "pair":
            return factor * apart(case, case.ring_bytes) + CALL_NS
        ns = of_additive(case, model_factor)
        if case.op == "model":
            layers = make_spec(case.op, case.dims).arch.layers
            ns -= met(layers, pair) * (1 - factor) * apart(case, case.ring_bytes)
        return ns

    CALL_NS = 3_000
    lab.call_ns = call_ns


def met(layers: tuple[BlockSpec, ...], pair: PairSpec) -> int:
    """How often the pair's blocks follow each other, none of them counted twice."""
    n = index = 0
    while index + 1 < len(layers):
        found = pair_of(layers[index], layers[index + 1]) == pair
        n, index = n + found, index + 1 + found
    return n


@pytest.fixture
def fused(lab, make_target) -> Callable[..., tuple[Any, PairSpec]]:
    """A target of a pattern, whose first two blocks the runtime fuses."""

    def make(pattern: str = "CGCGCC") -> tuple[Any, PairSpec]:
        target = make_target(pattern)
        pair = pair_of(*target.config.layers[:2])
        fuse(lab, pair)
        return target, pair

    return make


def line(target: Any, pair: PairSpec, **changes: Any) -> Neighbours:
    fields: dict[str, Any] = {
        "runtime": target.runtime, "dtype": target.dtype, "kv_dtype": target.kv_dtype, "n_threads": 1,
        "phase": "decode", "d_model": pair.d_model, "first": pair.first, "second": pair.second, "ratio": 0.8,
        "ci95": (0.79, 0.81), "session_id": "s1", "at": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    return Neighbours(**(fields | changes))


def test_a_fused_pair_is_an_error_before_and_none_once_it_is_a_term(lab, fused) -> None:
    target, pair = fused()
    before, *_ = verify_rows([target], [CALL], lab.knowledge(lab.ring_records(target, [CALL], model_factor=1.0)), "s1")
    assert before.signed_error > 0.1
    known = lab.knowledge((), neighbours=[line(target, pair)])
    target = known.with_pairs(target)
    records = lab.ring_records(target, [CALL], model_factor=1.0, session="s2")
    after, *_ = verify_rows([target], [CALL], lab.knowledge(records, neighbours=known.neighbours), "s2")
    assert abs(after.signed_error) < 0.01


def test_a_pair_in_a_ring_is_judged_against_its_blocks(lab, fused) -> None:
    target, pair = fused()
    lab.process_sd, lab.load_sd = 0.05, 0.01
    evidence = lab.knowledge(lab.measure([pair_ring(target, CALL, pair, "g")], session="s2")).evidence()
    effect = pair_effect(target, CALL, pair, evidence)
    assert effect is not None
    assert effect.ratio == pytest.approx(FUSED, rel=0.02)
    assert effect.ci95[0] < effect.ratio < effect.ci95[1]
    result = judge(target, CALL, pair, evidence, 0.02, {})
    assert result.is_term
    found = to_neighbours(result, "s2")
    assert found.pair == pair
    assert found.met_in(target)


def test_an_additive_pair_is_no_term(lab, make_target) -> None:
    target = make_target("CG")
    pair = pair_of(*target.config.layers)
    fuse(lab, pair, factor=1.0)
    lab.process_sd, lab.load_sd = 0.05, 0.01
    evidence = lab.knowledge(lab.measure([pair_ring(target, CALL, pair, "g")])).evidence()
    assert not judge(target, CALL, pair, evidence, 0.0, {}).is_term


@pytest.mark.parametrize(
    ("ratio", "ci95", "noise", "beyond"),
    [
        (0.8, (0.75, 0.85), 0.02, True),
        (1.3, (1.2, 1.4), 0.02, True),
        (0.8, (0.6, 1.01), 0.02, False),
        (0.97, (0.96, 0.98), 0.0, False),
        (0.9, (0.88, 0.92), 0.15, False),
    ],
)
def test_a_pair_counts_beyond_its_interval_the_noise_and_what_matters(
    ratio: float, ci95: tuple[float, float], noise: float, beyond: bool
) -> None:
    assert Effect(ratio=ratio, ci95=ci95).beyond(noise) is beyond


def test_a_pair_that_failed_says_why(lab, fused) -> None:
    target, pair = fused()
    case = next(c for c in pair_ring(target, CALL, pair, "g").cases if c.op == "pair")
    result = judge(target, CALL, pair, lab.knowledge(()).evidence(), 0.0, {case.key: "wrong_output: off"})
    assert (result.effect, result.is_term, result.reason) == (None, False, "wrong_output: off")


@pytest.mark.parametrize("call", [CALL, PREFILL])
def test_the_ring_of_a_pair_holds_its_blocks_once_and_fits_the_model(make_target, call: ModelCall) -> None:
    target = make_target("CGCGCGCGCGCG")
    pair = pair_of(*target.config.layers[:2])
    ring = pair_ring(target, call, pair, "g")
    assert [case.op for case in ring.turn] == ["block", "block", "pair"]
    assert ring.cases[0].ring_bytes <= working_set(target, call) or ring.turns == 1
    alike = pair_of(target.config.layers[0], target.config.layers[0])
    assert [case.op for case in pair_ring(target, call, alike, "g").turn] == ["block", "pair"]


def test_known_pairs_are_counted_from_the_left_without_overlap(make_target) -> None:
    config = make_target("CCCGCGG").config
    same, mixed = pair_of(config.layers[0], config.layers[0]), pair_of(config.layers[2], config.layers[3])
    target = make_target(config=config, pairs=(("decode", same), ("decode", mixed)))
    assert [(c.label, c.count) for c in cells(target, CALL)] == [
        ("embedding", 1), (f"{CONV} > {CONV}", 1), (f"{CONV} > {GQA}", 2), (GQA, 1), ("head", 1),
    ]  # fmt: skip
    paths = [path for place in places(target, CALL) for path in place.paths]
    assert paths == ["embedding", *(f"layers.{i}" for i in range(7)), "head"]
    assert all(cell.count == 1 or cell.label != f"{CONV} > {CONV}" for cell in cells(target, CALL))


def test_a_pair_is_a_cell_in_its_own_phase_only(make_target) -> None:
    config = make_target("CG").config
    target = make_target(config=config, pairs=(("decode", pair_of(*config.layers)),))
    assert [cell.case.op for cell in cells(target, CALL)] == ["embedding", "pair", "head"]
    assert [cell.case.op for cell in cells(target, PREFILL)] == ["embedding", "block", "block", "head"]


def test_rings_hold_the_known_pair_and_touch_what_the_model_does(make_target) -> None:
    config = make_target("CGCGC").config
    target = make_target(config=config, pairs=(("decode", pair_of(*config.layers[:2])),))
    rings = cell_rings(target, CALL)
    assert {case.op for case in rings[0].turn} == {"block", "pair"}
    assert rings[0].cases[0].ring_bytes <= working_set(target, CALL) * 1.0001


def test_predict_asks_for_a_known_pair_that_is_not_measured(lab, make_target) -> None:
    target = make_target("CGCG")
    pair = pair_of(*target.config.layers[:2])
    records = lab.ring_records(target, [CALL])
    assert not predict(target, lab.knowledge(records), context=64).missing
    found = predict(target, lab.knowledge(records, neighbours=[line(target, pair)]), context=64)
    assert [case.op for case in found.missing] == ["pair"]
    assert any(case.op == "pair" for ring in found.rings for case in ring.cases)
    more = lab.measure(found.rings, session="s2")
    told = predict(target, lab.knowledge([*records, *more], neighbours=[line(target, pair)]), context=64)
    assert f"{CONV} > {GQA}" in [term.label for term in told.tpot.terms]


@pytest.mark.parametrize(
    "elsewhere",
    [{"runtime": "onnxruntime"}, {"dtype": "bf16"}, {"kv_dtype": "bf16"}, {"n_threads": 2}, {"phase": "prefill"}],
)
def test_neighbours_found_elsewhere_are_blocks_here(lab, make_target, elsewhere: dict[str, Any]) -> None:
    target = make_target("CG")
    known = lab.knowledge((), neighbours=[line(target, pair_of(*target.config.layers), **elsewhere)])
    assert "pair" not in [cell.case.op for cell in cells(known.with_pairs(target), CALL)]


def test_a_session_without_the_pairs_cell_does_not_count_any_more(lab, make_target) -> None:
    target = make_target("CG")
    records = lab.ring_records(target, [CALL], session="old", model_factor=1.0)
    evidence = lab.knowledge(records).evidence()
    assert measured_session(target, [CALL], evidence, 5) == "old"
    paired = replace(target, pairs=(("decode", pair_of(*target.config.layers)),))
    assert measured_session(paired, [CALL], evidence, 5) is None
    assert model_case(paired, CALL) == model_case(target, CALL)


def test_a_pairs_ring_of_another_session_does_not_stand_for_this_one(lab, fused) -> None:
    target, pair = fused()
    records = lab.measure([pair_ring(target, CALL, pair, "g")], session="s2")
    evidence = lab.knowledge(records).evidence().under(Conditions(fingerprint=lab.fingerprint, only_session="s3"))
    assert pair_effect(target, CALL, pair, evidence) is None


def test_lines_come_back_as_they_were_appended(make_target, tmp_path) -> None:
    target = make_target("CG")
    found = [line(target, pair_of(*target.config.layers)), line(target, pair_of(*target.config.layers), ratio=1.3)]
    append_neighbours(tmp_path / "new", found[:1])
    append_neighbours(tmp_path / "new", found[1:])
    assert read_neighbours(tmp_path / "new") == found
    assert read_neighbours(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "{", "null", "[]", '{"runtime": 3}',
        '{"first": "{}"}', '{"first": "nonsense"}', '{"first": "[]"}', '{"ratio": NaN}', '{"schema_version": 2}', '{"extra": 1}',
        '{"d_model": -32}',
    ],
)  # fmt: skip
def test_a_corrupt_line_is_named_with_its_number(make_target, tmp_path, text: str) -> None:
    import dataclasses
    import json

    target = make_target("CG")
    good = line(target, pair_of(*target.config.layers))
    append_neighbours(tmp_path, [good])
    try:
        changes = json.loads(text)
        bad = json.dumps(dataclasses.asdict(good) | changes) if isinstance(changes, dict) else text
    except ValueError:
        bad = text
    with (tmp_path / NEIGHBOURS_FILE).open("a") as file:
        file.write(bad + "\n")
    with pytest.raises(UsageError, match=rf"{NEIGHBOURS_FILE}:2: not a pair of neighbours \(.*; delete the line"):
        read_neighbours(tmp_path)
