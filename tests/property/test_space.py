"""Any space: layouts and architectures are one to one, and what is linear is exact."""

import random
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgeprof.core.dtypes import WEIGHT_DTYPES
from edgeprof.core.errors import UsageError
from edgeprof.models.accounting import parameters
from edgeprof.models.config import from_file, to_document
from edgeprof.models.schema import parse_document
from edgeprof.search.budgets import parse_budget, static_limits, static_value
from edgeprof.search.space import Space, load_space

MIXERS = {
    "conv3": '{ op = "short_conv", kernel_size = 3 }',
    "conv7": '{ op = "short_conv", kernel_size = 7 }',
    "swa5": '{ op = "swa", n_heads = 4, n_kv_heads = 2, head_dim = 8, window = 5 }',
    "gqa4": '{ op = "gqa", n_heads = 4, n_kv_heads = 4, head_dim = 8, qk_norm = false }',
    "gqa1": '{ op = "gqa", n_heads = 4, n_kv_heads = 1, head_dim = 8 }',
}
FFNS = {f"ff{n}": f'{{ op = "swiglu", d_ff = {n} }}' for n in (24, 33, 48)} | {"ge24": '{ op = "geglu", d_ff = 24 }'}
OPERATORS = {"conv3": "short_conv", "conv7": "short_conv", "swa5": "swa", "gqa4": "gqa", "gqa1": "gqa"}


@st.composite
def rules(draw: st.DrawFn, layers: int, mixers: list[str]) -> list[dict[str, int | str]]:
    found = []
    for _ in range(draw(st.integers(0, 2))):
        of = draw(st.sampled_from([*mixers, *sorted({OPERATORS[m] for m in mixers})]))
        bound = draw(st.sampled_from(["at_least", "at_most", "in_a_row"]))
        found.append({"of": of, bound: draw(st.integers(1, min(layers, 3)))})
    return found


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    layers = draw(st.integers(1, 7))
    period = draw(st.integers(1, layers))
    mixers = draw(st.lists(st.sampled_from(sorted(MIXERS)), min_size=1, unique=True))
    ffns = draw(st.lists(st.sampled_from(sorted(FFNS)), min_size=1, unique=True))
    lines = ["schema_version = 1", 'description = "any"', f"layers = {layers}", f"period = {period}"]
    lines += ["d_model = 24", "vocab = 37", f"tied = {str(draw(st.booleans())).lower()}"]
    lines += [
        f"ffn_per_layer = {str(draw(st.booleans())).lower()}",
        f"sandwich_norm = {str(draw(st.booleans())).lower()}",
    ]
    lines += [
        "[mixers]",
        *(f"{m} = {MIXERS[m]}" for m in mixers),
        "[ffns]",
        *(f"{f} = {FFNS[f]}" for f in ffns),
        "[slots]",
    ]
    for slot in draw(st.sets(st.integers(0, period - 1), max_size=2)):
        lines.append(f'"{slot}" = {draw(st.lists(st.sampled_from(mixers), min_size=1, unique=True))}')
    for rule in draw(rules(layers, mixers)):
        lines += ["[[rules]]", *(f"{name} = {value!r}" for name, value in rule.items())]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "any.toml"
        path.write_text("\n".join(lines))
        try:
            return load_space(str(path))
        except UsageError as error:
            assert "rules: no layout" in str(error)  # noqa: PT017 - the other outcome is no exception
            assume(False)
            raise


def layouts(space: Space) -> st.SearchStrategy[dict[str, str]]:
    """Layouts of a space, those that break its rules among them."""
    return st.fixed_dictionaries({name: st.sampled_from(choices) for name, choices in space.parameters.items()})


@given(spaces(), st.data())
@settings(max_examples=80, deadline=None)
def test_a_layout_comes_back_from_its_architecture_and_from_a_file_of_it(space: Space, data: st.DataObject) -> None:
    layout = data.draw(layouts(space))
    config = space.config(layout)
    assert space.layout_of(config) == layout
    read = from_file(parse_document(to_document(config), "x"), "x", default_name="x")
    assert space.layout_of(read) == layout
    assert set(config.layers) <= set(space.blocks())


@given(spaces(), st.data())
@settings(max_examples=80, deadline=None)
def test_a_sum_over_choices_is_the_exact_size_of_the_model(space: Space, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(sorted(WEIGHT_DTYPES)))
    context = data.draw(st.integers(1, 12))
    texts = {"params": "1M", "file_size": "1MB", "state": f"1MiB@{context}"}
    budgets = [parse_budget(m, text).filled(runtime="-", dtype=dtype, n_threads=1) for m, text in texts.items()]
    layout = data.draw(layouts(space))
    for budget, limit in zip(budgets, static_limits(space, budgets), strict=True):
        assert limit.value(layout) == static_value(budget, space.config(layout))
        assert limit.least() <= limit.value(layout) <= limit.most()


@given(spaces(), st.data())
@settings(max_examples=40, deadline=None)
def test_with_the_feed_forward_fixed_any_cost_of_blocks_is_a_sum_over_slots(space: Space, data: st.DataObject) -> None:
    layout = data.draw(layouts(space))
    ffn = layout.get("ffn", space.ffns[0])
    fixed = space if space.ffn_per_layer else space.fixed_ffn(ffn)
    costs = {block: float(i * i + 1) for i, block in enumerate(fixed.blocks())}
    weights, constant = fixed.block_sum(costs.__getitem__)
    total = constant + sum(choices[layout[name]] for name, choices in weights.items())
    assert total == sum(costs[block] for block in space.config(layout).layers)


@given(spaces(), st.data())
@settings(max_examples=120, deadline=None)
def test_rules_are_broken_where_counting_says_so(space: Space, data: st.DataObject) -> None:
    layout = data.draw(layouts(space))
    blocks = space.config(layout).layers
    by_block = {space.table[labels]: labels[0] for labels in space.table}
    is_broken = False
    for rule in space.rules:
        hits = [by_block[block] in rule.mixers for block in blocks]
        longest = max((len(list(run)) for hit, run in groupby(hits) if hit), default=0)
        is_broken |= rule.at_least is not None and sum(hits) < rule.at_least
        is_broken |= rule.at_most is not None and sum(hits) > rule.at_most
        is_broken |= rule.in_a_row is not None and longest > rule.in_a_row
    assert bool(space.broken_rules(layout)) is is_broken
    assert all(limit.keeps(layout) for limit in space.limits) is not is_broken


@given(spaces(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_random_layout_is_one_of_the_space_and_keeps_its_rules(space: Space, seed: int) -> None:
    layout = space.random(random.Random(seed))
    space.check(layout)
    assert space.broken_rules(layout) == []
    assert parameters(space.config(layout)) > 37 * 24
