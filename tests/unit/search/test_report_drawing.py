"""A layout drawn as a stack of blocks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprof.predict.plan import decode_call
from edgeprof.predict.predict import predict_calls
from edgeprof.search.budgets import Budget, parse_budget
from edgeprof.search.costs import Costs
from edgeprof.search.drawing import TokenShares, layout_label, stack, stack_text, token_shares
from edgeprof.search.space import SHIPPED_FOLDER, load_space

TINY = load_space("tiny")
CCGGGC = {f"slot_{i:02d}": label for i, label in enumerate(["conv3", "conv3", "gqa2", "gqa2", "gqa2", "conv3"])} | {
    "ffn": "ff192"
}
TPOT = parse_budget("tpot", "12ms@64").filled(runtime="torch_eager", dtype="fp32", n_threads=1)


def test_equal_neighbours_are_one_line() -> None:
    assert stack_text(stack(TINY, CCGGGC)) == [
        " 0  conv3  ff192  x2",
        " 2  gqa2   ff192  x3",
        " 5  conv3  ff192",
    ]


def test_shares_are_bars_and_bring_embedding_and_head() -> None:
    shares = TokenShares(budget=TPOT, layers=[0.05, 0.05, 0.1, 0.1, 0.1, 0.05], ends={"embedding": 0.01, "head": 0.4})
    assert stack_text(stack(TINY, CCGGGC, shares)) == [
        "    embedding               1.0%  ▇",
        " 0  conv3      ff192  x2   10.0%  ▇▇▇▇",
        " 2  gqa2       ff192  x3   30.0%  ▇▇▇▇▇▇▇▇▇▇▇▇",
        " 5  conv3      ff192        5.0%  ▇▇",
        "    head                   40.0%  ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇",
    ]


def test_a_choice_of_mixer_and_feed_forward_is_drawn_as_both(tmp_path: Path) -> None:
    file = tmp_path / "both.toml"
    shipped = SHIPPED_FOLDER / "tiny.toml"
    file.write_text(shipped.read_text().replace("layers = 6", "layers = 2\nffn_per_layer = true"))
    chosen = {"slot_00": "conv3+ff128", "slot_01": "conv3+ff192"}
    assert stack_text(stack(load_space(str(file)), chosen)) == [" 0  conv3  ff128", " 1  conv3  ff192"]


def test_a_label_is_the_pattern_where_that_tells_the_layout() -> None:
    assert layout_label(TINY, CCGGGC) == "CCGGGC ff192"


def test_a_label_names_mixers_that_share_a_letter() -> None:
    lfm2 = load_space("lfm2")
    one = {name: choices[-1] for name, choices in lfm2.parameters.items()}
    label = layout_label(lfm2, one)
    assert label == layout_label(lfm2, dict(reversed(one.items())))
    others = [{**one, name: choice} for name, choices in lfm2.parameters.items() for choice in choices]
    assert len({layout_label(lfm2, other) for other in others}) == len({tuple(o.values()) for o in others})


@pytest.fixture
def make_costs(make_target: Callable[..., Any]) -> Callable[..., Costs]:
    def make(budgets: list[Budget], **knowledge: Any) -> Costs:
        def target_of(_: Budget, config: Any) -> Any:
            return make_target(config=config)

        return Costs(space=TINY, budgets=budgets, knowledge=knowledge, make_target=target_of)

    return make


def test_no_share_is_known_without_a_budget_of_time_or_without_cells(lab, make_costs) -> None:
    assert token_shares(make_costs([parse_budget("params", "1M")]), CCGGGC) is None
    assert token_shares(make_costs([TPOT]), CCGGGC) is None
    assert token_shares(make_costs([TPOT], local=lab.knowledge([])), CCGGGC) is None


def test_a_share_is_a_parts_time_over_the_whole_prediction(lab, make_costs, make_target) -> None:
    target, call = make_target(config=TINY.config(CCGGGC)), decode_call(64)
    known = lab.knowledge(lab.ring_records(target, [call]))
    shares = token_shares(make_costs([TPOT], local=known), CCGGGC)
    found = predict_calls(target, known, known.evidence(), (call,))
    assert shares.layers[0] == shares.layers[1] == shares.layers[5] != shares.layers[2]
    whole = sum(term.total_ns for term in found.terms) / found.uncorrected_ns
    assert sum(shares.layers) + sum(shares.ends.values()) == pytest.approx(whole)
    assert set(shares.ends) == {"embedding", "head"}
