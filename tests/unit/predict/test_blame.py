"""Which term is to blame: predicted terms beside traced parts, made without measuring anything."""

import math
import random
from collections.abc import Sequence

import pytest

from edgeprof.models.config import ArchConfig
from edgeprof.models.pair import pair_of
from edgeprof.predict.blame import (
    BETWEEN,
    CORRECTION,
    MOST_CANDIDATES,
    NO_SINGLE_TERM,
    candidates,
    scaled_parts,
    term_errors,
    to_blame,
)
from edgeprof.predict.plan import cells, decode_call, places
from edgeprof.predict.types import Term, TermError
from edgeprof.runtimes.trace import OTHER, Trace

CALL = decode_call(64)
CONV, GQA = "short_conv k3 + swiglu 64", "gqa 4/2x16 + swiglu 64"


def trace_of(parts: dict[str, float]) -> Trace:
    return Trace(parts=parts, total_ns=math.fsum(parts.values()), calls=20, events=9)


def model_parts(config: ArchConfig, **changes: float) -> dict[str, float]:
    """100 ns a layer, 50 for the ends, 10 between; ``changes`` replace layers' by number: ``_3=120``."""
    layers = {f"layers.{i}": changes.get(f"_{i}", 100.0) for i in range(len(config.layers))}
    return {"embedding": 50.0, **layers, "head": 50.0, OTHER: changes.get("other", 10.0)}


def terms_of(target, costs: dict[str, float]) -> list[Term]:
    return [
        Term(
            label=cell.label, call=CALL, case=cell.case, count=cell.count, ns=costs[cell.label],
            total_ns=cell.count * costs[cell.label], how="measured",
        )
        for cell in cells(target, CALL)
    ]  # fmt: skip


def errors_of(target, costs: dict[str, float], parts: dict[str, float], shift: float = 0.0) -> tuple[TermError, ...]:
    terms = terms_of(target, {"embedding": 50.0, "head": 50.0} | costs)
    uncorrected = math.fsum(term.total_ns for term in terms) + 10.0
    return term_errors(terms, places(target, CALL), parts, predicted_ns=uncorrected + shift, uncorrected_ns=uncorrected)


def test_a_trace_is_believed_in_its_proportions(make_target) -> None:
    slow = trace_of({"embedding": 100.0, "layers.0": 300.0, "head": 100.0, OTHER: 0.0})
    assert scaled_parts([slow], 250.0) == {"embedding": 50.0, "layers.0": 150.0, "head": 50.0, OTHER: 0.0}


def test_one_traced_process_that_was_disturbed_does_not_decide() -> None:
    quiet = [trace_of({"a": 100.0, "b": 100.0, OTHER: 0.0})] * 4
    parts = scaled_parts([*quiet, trace_of({"a": 900.0, "b": 100.0, OTHER: 0.0})], 200.0)
    assert parts["a"] == pytest.approx(100.0)
    assert math.fsum(parts.values()) == pytest.approx(200.0)


def test_shares_whose_medians_do_not_sum_to_one_are_made_to() -> None:
    traces = [trace_of({"a": a, "b": b, "c": c}) for a, b, c in ((1.0, 1.0, 2.0), (2.0, 1.0, 1.0), (1.0, 2.0, 1.0))]
    assert scaled_parts(traces, 300.0) == pytest.approx({"a": 100.0, "b": 100.0, "c": 100.0})


def test_terms_sum_to_the_prediction_and_to_what_was_measured(make_target) -> None:
    target = make_target("CCGC")
    parts = model_parts(target.config, _2=150.0)
    errors = errors_of(target, {CONV: 110.0, GQA: 100.0}, parts, shift=7.0)
    assert math.fsum(e.predicted_ns for e in errors) == pytest.approx(3 * 110 + 100 + 100 + 10 + 7)
    assert math.fsum(e.traced_ns for e in errors) == pytest.approx(math.fsum(parts.values()))
    assert math.fsum(e.share_of_error for e in errors) == pytest.approx(1.0)
    assert [(e.label, e.count) for e in errors] == [
        ("embedding", 1), (CONV, 3), (GQA, 1), ("head", 1), (BETWEEN, 1), (CORRECTION, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("inside", "why"), [(160.0, "under-predicted"), (40.0, "over-predicted")])
def test_the_term_that_went_farthest_in_the_errors_direction_is_to_blame(make_target, inside: float, why: str) -> None:
    target = make_target("CCGC")
    errors = errors_of(target, {CONV: 101.0, GQA: 100.0}, model_parts(target.config, _2=inside))
    assert to_blame(errors) == GQA, why


def test_a_term_that_is_off_in_the_other_direction_is_not_to_blame(make_target) -> None:
    target = make_target("CCGC")
    parts = model_parts(target.config, _0=120.0, _1=120.0, _3=120.0, _2=60.0)  # dearer by 60, cheaper by 40
    errors = errors_of(target, {CONV: 100.0, GQA: 100.0}, parts)
    assert to_blame(errors) == CONV
    shares = {e.label: e.share_of_error for e in errors}
    assert shares[CONV] == pytest.approx(3.0)
    assert shares[GQA] == pytest.approx(-2.0)


def test_an_error_that_all_terms_share_has_no_single_term(make_target) -> None:
    target = make_target("CCGG")
    parts = {path: 1.2 * ns for path, ns in model_parts(target.config).items()}
    assert to_blame(errors_of(target, {CONV: 100.0, GQA: 100.0}, parts)) == NO_SINGLE_TERM


def test_the_historys_correction_can_be_to_blame(make_target) -> None:
    target = make_target("CCGC")
    parts = model_parts(target.config)
    assert to_blame(errors_of(target, {CONV: 100.0, GQA: 100.0}, parts, shift=90.0)) == CORRECTION


def test_a_prediction_without_error_blames_nothing(make_target) -> None:
    target = make_target("CCGC")
    errors = errors_of(target, {CONV: 100.0, GQA: 100.0}, model_parts(target.config))
    assert to_blame(errors) == NO_SINGLE_TERM


def test_a_pairs_term_is_what_both_its_blocks_take(make_target) -> None:
    config = make_target("CGCC").config
    pair = pair_of(config.layers[0], config.layers[1])
    target = make_target(config=config, pairs=(("decode", pair),))
    costs = {f"{CONV} > {GQA}": 170.0, CONV: 100.0}
    found = {e.label: e for e in errors_of(target, costs, model_parts(config, _0=80.0, _1=90.0))}
    assert found[f"{CONV} > {GQA}"].traced_ns == pytest.approx(170.0)
    assert found[CONV].count == 2


@pytest.mark.parametrize(
    ("error", "spread", "off"),
    [(0.02, 0.01, False), (0.07, 0.01, True), (0.07, 0.06, False), (0.07, None, True), (0.3, 0.3, True)],
)
def test_a_prediction_is_off_beyond_its_interval_or_beyond_5_percent_and_the_spread(
    make_row, error: float, spread: float | None, off: bool
) -> None:
    assert make_row(error, aa_spread=spread).off is off


# Neighbours.


def noisy_traces(layers: Sequence[float], n: int = 5, sd: float = 0.02, seed: int = 3) -> list[Trace]:
    chance = random.Random(seed)
    found = []
    for _ in range(n):
        parts = {f"layers.{i}": ns * math.exp(chance.gauss(0, sd)) for i, ns in enumerate(layers)}
        found.append(trace_of({"embedding": 10.0, **parts, "head": 10.0, OTHER: 1.0}))
    return found


def test_a_block_that_costs_less_behind_one_predecessor_makes_a_candidate(make_target) -> None:
    config = make_target("CGSGCGSG").config  # G behind C at 1 and 5, behind S at 3 and 7
    traces = noisy_traces([100, 80, 100, 100, 100, 80, 100, 100])
    found = candidates(config.layers, traces, None, [])
    assert pair_of(config.layers[0], config.layers[1]) in found


def test_equal_costs_make_no_candidate(make_target) -> None:
    config = make_target("CGSGCGSG").config
    for seed in range(20):
        assert candidates(config.layers, noisy_traces([100.0] * 8, seed=seed), None, []) == []


def test_a_surely_different_cost_that_does_not_matter_is_no_candidate(make_target) -> None:
    config = make_target("CGSGCGSG").config
    traces = noisy_traces([100, 98, 100, 100, 100, 98, 100, 100], sd=0.0)
    assert candidates(config.layers, traces, None, []) == []


def test_a_blamed_block_with_ever_the_same_neighbours_makes_its_pairs_candidates(make_target) -> None:
    config = make_target("CGCGCG").config
    found = candidates(config.layers, noisy_traces([100.0] * 6), config.layers[1], [])
    assert found == [pair_of(config.layers[0], config.layers[1]), pair_of(config.layers[1], config.layers[0])]


def test_known_pairs_are_no_candidates_and_few_are_looked_at(make_target) -> None:
    config = make_target("CGSCGSGC").config
    traces = noisy_traces([100.0] * 8)
    known = [pair_of(config.layers[0], config.layers[1])]
    found = candidates(config.layers, traces, config.layers[1], known)
    assert len(found) == MOST_CANDIDATES
    assert known[0] not in found


def test_a_blamed_end_has_no_neighbours(make_target) -> None:
    target = make_target("CG")
    embedding = places(target, CALL)[0].spec
    assert candidates(target.config.layers, noisy_traces([100.0, 100.0]), embedding, []) == []
