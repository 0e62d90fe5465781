"""The rings of a space: every block is in one, and every model lies between them."""

import random
from typing import Any

import pytest

from edgeprof.operators.registry import make_spec
from edgeprof.predict.evidence import ABOVE, BELOW
from edgeprof.predict.plan import cell_case, decode_call, prefill_calls, working_set
from edgeprof.predict.types import ModelCall, Target
from edgeprof.search.cells import MOST_PREFILL_BLOCKS, RINGS_OF_A_SPACE, space_rings
from edgeprof.search.space import Space, load_space, parse_space, space_names

DECODE = decode_call(256)
(PREFILL,) = prefill_calls(64, None)


def target_of(space: Space, layout: Any) -> Target:
    return Target(config=space.config(layout), runtime="torch_eager", dtype="fp32", kv_dtype="fp32")


def extremes_of(space: Space, call: ModelCall) -> tuple[Target, Target]:
    """The models of least and largest working set: each parameter's choices are exchanged for themselves."""
    ends = []
    for pick in (min, max):
        layout = {name: choices[0] for name, choices in space.parameters.items()}
        for name, choices in space.parameters.items():
            sizes = {c: working_set(target_of(space, {**layout, name: c}), call) for c in choices}
            layout[name] = pick(sizes, key=lambda choice, sizes=sizes: sizes[choice])
        ends.append(target_of(space, layout))
    return ends[0], ends[1]


def rings_of(space: Space, call: ModelCall, **more: Any) -> list[Any]:
    small, large = extremes_of(space, call)
    return space_rings(space, small, call, (small, large), **more)


@pytest.mark.parametrize("call", [DECODE, PREFILL], ids=["decode", "prefill"])
@pytest.mark.parametrize("name", space_names())
def test_every_block_of_the_space_is_in_a_ring(name: str, call: ModelCall) -> None:
    space = load_space(name)
    found = {make_spec(case.op, case.dims) for ring in rings_of(space, call) for case in ring.turn}
    assert found == set(space.blocks())


@pytest.mark.parametrize(
    ("name", "context"),
    [*((name, 512) for name in space_names()), *(("unequal", context) for context in (64, 512, 4096))],
)
def test_every_model_lies_where_the_rings_of_its_blocks_say_something(name: str, context: int) -> None:
    """Also where one block is as large as all others together, as attention's cache makes it in small models."""
    space = parse_space(UNEQUAL, name) if name == "unequal" else load_space(name)
    call = decode_call(context)
    rings: dict[Any, set[int]] = {}
    for ring in rings_of(space, call):
        for case in ring.turn:
            rings.setdefault(make_spec(case.op, case.dims), set()).add(case.ring_bytes)
    assert all(2 <= len(sizes) <= RINGS_OF_A_SPACE for sizes in rings.values())
    rng = random.Random(1)
    alike = [{n: own[i % len(own)] for n, own in space.parameters.items()} for i in range(12)]
    for layout in [*alike, *(space.random(rng) for _ in range(10))]:
        target = target_of(space, layout)
        for block in target.config.layers:
            assert BELOW * min(rings[block]) <= working_set(target, call) <= ABOVE * max(rings[block])


def test_a_prefill_ring_has_few_blocks_in_one_and_in_two_turns() -> None:
    rings = rings_of(load_space("phone-100m"), PREFILL)
    assert max(len(ring.turn) for ring in rings) <= MOST_PREFILL_BLOCKS
    assert {ring.turns for ring in rings} == {1, 2}


def test_rings_of_a_space_share_no_processes_with_others(tiny: Space) -> None:
    assert {ring.group for ring in rings_of(tiny, DECODE)} == {"space-tiny"}


def test_a_block_that_cannot_be_measured_spoils_no_ring(tiny: Space) -> None:
    small, _ = extremes_of(tiny, DECODE)
    bad, *others = tiny.blocks()
    rings = rings_of(tiny, DECODE, without={cell_case(small, DECODE, bad).key})
    assert {make_spec(case.op, case.dims) for ring in rings for case in ring.turn} == set(others)


def test_without_any_block_there_is_no_ring(tiny: Space) -> None:
    small, _ = extremes_of(tiny, DECODE)
    every = {cell_case(small, call, block).key for block in tiny.blocks() for call in (DECODE, PREFILL)}
    assert rings_of(tiny, DECODE, without=every) == []
    assert rings_of(tiny, PREFILL, without=every) == []


def test_what_the_rings_measure_is_all_that_any_layout_needs(tiny: Space, lab: Any) -> None:
    from edgeprof.predict.predict import predict_calls

    known = lab.knowledge(lab.measure(rings_of(tiny, DECODE)))
    evidence = known.evidence()
    rng = random.Random(3)
    for _ in range(15):
        target = target_of(tiny, tiny.random(rng))
        assert predict_calls(target, known, evidence, (DECODE,)).missing == ()


UNEQUAL = """
schema_version = 1
description = "Four layers, three mixers, two feed-forwards for all of them."
d_model = 32
vocab = 64
tied = true
max_context = 8192
layers = 4
[mixers]
conv3 = { op = "short_conv", kernel_size = 3 }
swa16 = { op = "swa", n_heads = 4, n_kv_heads = 2, head_dim = 16, window = 16 }
gqa2 = { op = "gqa", n_heads = 4, n_kv_heads = 2, head_dim = 16 }
[ffns]
ff64 = { op = "swiglu", d_ff = 64 }
ff96 = { op = "swiglu", d_ff = 96 }
"""
