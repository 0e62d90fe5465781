"""Figures of layouts: exact where arithmetic tells, else what ``predict`` says; the upper end decides."""

import random
from dataclasses import replace

import pytest

from edgeprof.models.accounting import parameters
from edgeprof.models.pair import pair_of
from edgeprof.predict.predict import Knowledge, predict
from edgeprof.search.costs import DEFAULT_CONTEXT, covering_layouts
from edgeprof.search.space import load_space, parse_space

CONV = {f"slot_0{i}": "conv3" for i in range(6)} | {"ffn": "ff128"}
GQA = CONV | {f"slot_0{i}": "gqa2" for i in range(6)}
MIXED = CONV | {"slot_02": "gqa2", "slot_05": "swa16"}


def test_static_figures_are_exact_and_need_no_measurement(make_costs, budget_of, tiny) -> None:
    costs = make_costs(
        budget_of("params", "330k"), budget_of("state", "1MB@1024"), budget_of("file_size", "1MB"), records=[]
    )
    figures = costs.figures(MIXED)
    assert figures["params"].value == figures["params"].upper == parameters(tiny.config(MIXED))
    assert figures["state@1024"].value == 4 * (2 * 64 * 4 + 2 * 2 * 16 * (16 + 1024))  # conv taps, window, full context
    assert costs.rings() == {}


def test_a_predicted_figure_is_what_predict_says(make_costs, budget_of, tiny) -> None:
    costs = make_costs(budget_of("tpot", "9ms@256"), budget_of("ttft", "9ms@64"), budget_of("peak_memory", "90MB"))
    target = costs.make_target(costs.budgets[0], tiny.config(MIXED))
    told = predict(target, costs.knowledge["lab"], context=256, prompt=64)
    assert told.missing == ()
    for figure, expected in zip(
        costs.figures(MIXED).values(), (told.tpot.ns, told.ttft.ns, told.peak.bytes), strict=True
    ):
        assert (figure.lower, figure.value, figure.upper) == (expected.lo, expected.value, expected.hi)


def test_the_upper_end_must_keep_the_limit(make_costs, budget_of) -> None:
    loose = make_costs(budget_of("tpot", "1s@256"))
    (figure,) = loose.figures(MIXED).values()
    between = (figure.value + figure.upper) / 2
    costs = make_costs(replace(budget_of("tpot", "1s@256"), limit=between))
    assert costs.figures(MIXED)["tpot@256"].value < between
    assert not costs.keeps(MIXED)
    assert make_costs(replace(budget_of("tpot", "1s@256"), limit=figure.upper)).keeps(MIXED)


def test_a_layout_that_breaks_a_rule_is_not_kept(make_costs, budget_of) -> None:
    costs = make_costs(budget_of("params", "1M"))
    assert costs.figures(CONV)["params"].excess < 0
    assert not costs.keeps(CONV)


def test_what_lacks_a_cell_is_not_known_and_keeps_nothing(make_costs, budget_of) -> None:
    costs = make_costs(budget_of("tpot", "1s@256"), records=[])
    (figure,) = costs.figures(MIXED).values()
    assert (figure.value, figure.upper, figure.excess) == (None, None, float("inf"))
    assert {case.op for case in figure.missing} == {"embedding", "block", "head"}
    assert not costs.keeps(MIXED)


@pytest.mark.parametrize("metric", ["tpot", "ttft", "peak_memory"])
def test_measuring_the_rings_leaves_no_layout_without_figures(make_costs, budget_of, tiny, metric: str) -> None:
    at = {"tpot": "1s@256", "ttft": "1s@64", "peak_memory": "1GB"}[metric]
    costs = make_costs(budget_of(metric, at))
    assert costs.rings() == {}
    rng = random.Random(5)
    for layout in (CONV, GQA, *(tiny.random(rng) for _ in range(20))):
        assert all(figure.upper is not None for figure in costs.figures(layout).values())


def test_prompts_in_chunks_are_measured_chunk_by_chunk(make_costs, budget_of) -> None:
    costs = make_costs(budget_of("ttft", "1s@64", chunk=16))
    assert [call.kv_len for call in costs.calls_of(costs.budgets[0])] == [16, 32, 48, 64]
    assert costs.figures(MIXED)["ttft@64"].upper is not None


def test_a_block_that_only_one_feed_forward_lacks_is_missed(make_costs, budget_of, lab) -> None:
    """Half of the tiny space's blocks, each mixer with one of the two feed-forwards, are not all of it."""
    costs = make_costs(budget_of("tpot", "1s@256"), records=[])
    (rings,) = costs.rings().values()
    ffns = {"short_conv": '"d_ff":128', "swa": '"d_ff":192', "gqa": '"d_ff":128'}
    half = [
        record
        for record in lab.measure(rings)
        if record.case.op != "block"
        or any(m in str(record.case.dims) and f in str(record.case.dims) for m, f in ffns.items())
    ]
    costs.learn({"lab": lab.knowledge(half)})
    assert costs.figures(GQA)["tpot@256"].upper is not None
    assert costs.figures(GQA | {"ffn": "ff192"})["tpot@256"].upper is None
    assert set(costs.rings()) == {"lab"}


def test_covering_layouts_have_every_block() -> None:
    for name in ("tiny", "phone-100m", "lfm2"):
        space = load_space(name)
        assert {b for layout in covering_layouts(space) for b in space.config(layout).layers} == set(space.blocks())


def test_a_choice_that_the_runtime_refuses_is_planned_in_no_ring_and_has_a_reason(
    make_costs, budget_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeprof.runtimes.torch_eager import RUNTIME

    usual = RUNTIME.unsupported
    refuse = lambda case: "no attention here" if '"gqa"' in str(case.dims) else usual(case)  # noqa: E731
    monkeypatch.setattr(type(RUNTIME), "unsupported", lambda _, case: refuse(case))
    costs = make_costs(budget_of("tpot", "1s@256"))
    assert {why for why in costs.impossible.values()} == {
        "gqa 4/2x16 + swiglu 128 in torch_eager fp32: no attention here",
        "gqa 4/2x16 + swiglu 192 in torch_eager fp32: no attention here",
    }
    assert costs.figures(GQA)["tpot@256"].upper is None
    assert costs.figures(CONV)["tpot@256"].upper is not None
    assert costs.rings() == {}  # nothing that could be measured is missing
    forbidden = costs.limits(CONV)[0]
    assert all(not forbidden.keeps({**CONV, f"slot_0{i}": "gqa2"}) for i in range(6))


def test_learning_changes_what_is_known(make_costs, budget_of, make_row) -> None:
    costs = make_costs(budget_of("tpot", "1s@256"))
    before = costs.figures(MIXED)["tpot@256"]
    rows = [make_row(0.2, config_hash=str(i), context=256) for i in range(20)]
    costs.learn({"lab": replace(costs.knowledge["lab"], history=rows)})
    after = costs.figures(MIXED)["tpot@256"]
    assert after.value > 1.1 * before.value


def test_records_are_looked_through_once_for_all_layouts(make_costs, budget_of, tiny, monkeypatch) -> None:
    costs = make_costs(budget_of("tpot", "1s@256"), budget_of("ttft", "1s@64"))
    looks: list[int] = []
    usual = Knowledge.evidence
    monkeypatch.setattr(Knowledge, "evidence", lambda self: looks.append(1) or usual(self))
    costs.learn(costs.knowledge)
    rng = random.Random(1)
    for _ in range(5):
        costs.figures(tiny.random(rng))
    assert len(looks) == 1


def test_excesses_are_in_the_order_and_units_of_the_limits(make_costs, budget_of) -> None:
    costs = make_costs(budget_of("tpot", "1s@256"), budget_of("params", "300k"), budget_of("state", "10kB@64"))
    limits = costs.limits(MIXED)
    assert [limit.name for limit in limits] == ["params", "state@64", "tpot@256"]
    for limit, excess in zip(limits, costs.excesses(MIXED), strict=True):
        assert limit.value(MIXED) - limit.limit == pytest.approx(excess, rel=1e-6)


def test_limits_are_tangents_of_the_figures(make_costs, budget_of) -> None:
    costs = make_costs(budget_of("tpot", "1s@256"))
    (limit,) = costs.limits(MIXED)
    for choice in ("conv3", "swa16", "gqa2"):
        other = {**MIXED, "slot_01": choice}
        assert limit.value(other) == pytest.approx(costs.figures(other)["tpot@256"].upper)


def test_peak_memory_is_that_of_the_calls_that_other_budgets_ask_of_its_target(make_costs, budget_of) -> None:
    peak = budget_of("peak_memory", "1GB")
    alone = make_costs(peak, records=[])
    assert [call.kv_len for call in alone.calls_of(peak)] == [DEFAULT_CONTEXT]
    both = make_costs(peak, budget_of("tpot", "1s@512"), budget_of("ttft", "1s@64"), records=[])
    assert [(call.phase, call.kv_len) for call in both.calls_of(peak)] == [("decode", 512), ("prefill", 64)]
    stated = budget_of("peak_memory", "1GB@2048")
    assert [c.kv_len for c in make_costs(stated, budget_of("tpot", "1s@512"), records=[]).calls_of(stated)] == [2048]


def test_a_pair_that_was_measured_elsewhere_only_leaves_its_blocks_known(
    make_costs, budget_of, tiny, monkeypatch
) -> None:
    costs = make_costs(budget_of("tpot", "1s@256"))
    before = costs.figures(MIXED)["tpot@256"].value
    assert before is not None
    layers = tiny.config(MIXED).layers
    pair = pair_of(layers[1], layers[2])
    monkeypatch.setattr(Knowledge, "with_pairs", lambda _, target: replace(target, pairs=(("decode", pair),)))
    costs.learn(costs.knowledge)
    assert costs.figures(MIXED)["tpot@256"].value == before


def test_a_space_whose_layers_choose_their_own_feed_forward_is_measured_as_well(make_costs, budget_of) -> None:
    space = parse_space(PER_LAYER, "mine")
    costs = make_costs(budget_of("tpot", "1s@64"), space=space)
    rng = random.Random(2)
    assert all(costs.figures(space.random(rng))["tpot@64"].upper for _ in range(10))


PER_LAYER = """
schema_version = 1
description = "Two mixers with two feed-forwards each."
d_model = 32
vocab = 64
tied = true
max_context = 256
layers = 3
ffn_per_layer = true
[mixers]
conv3 = { op = "short_conv", kernel_size = 3 }
gqa1 = { op = "gqa", n_heads = 2, n_kv_heads = 1, head_dim = 16 }
[ffns]
a = { op = "swiglu", d_ff = 64 }
b = { op = "swiglu", d_ff = 96 }
"""
