"""Which cells a call is made of, and the rings around its working set."""

import pytest

from edgeprof.models.config import from_file
from edgeprof.models.schema import parse_document
from edgeprof.operators.traffic import case_bytes, working_set_bytes
from edgeprof.predict.plan import cell_rings, cells, decode_call, model_case, model_ring, prefill_calls, working_set
from edgeprof.predict.types import ModelCall


def test_a_call_is_the_embedding_each_distinct_block_and_the_head(make_target) -> None:
    found = cells(make_target("CCGSC"), decode_call(64))
    assert [(c.label, c.count) for c in found] == [
        ("embedding", 1),
        ("short_conv k3 + swiglu 64", 3),
        ("gqa 4/2x16 + swiglu 64", 1),
        ("swa 4/2x16 w8 + swiglu 64", 1),
        ("head", 1),
    ]


def test_another_feed_forward_width_makes_another_cell(make_target) -> None:
    mixer = {"op": "short_conv", "kernel_size": 3}
    layers = [{"mixer": mixer, "ffn": {"op": "swiglu", "d_ff": d_ff}} for d_ff in (32, 96, 32)]
    document = {"schema_version": 1, "d_model": 32, "vocab": 40, "layers": layers}
    config = from_file(parse_document(document, "x"), "x", default_name="x")
    blocks = cells(make_target(config=config), decode_call(8))[1:-1]
    assert [(c.label, c.count) for c in blocks] == [("short_conv k3 + swiglu 32", 2), ("short_conv k3 + swiglu 96", 1)]
    assert len({c.case.key for c in blocks}) == 2


def test_the_ends_know_no_context(make_target) -> None:
    near, far = (cells(make_target(), decode_call(n)) for n in (64, 4096))
    assert (near[0].case.key, near[-1].case.key) == (far[0].case.key, far[-1].case.key)
    assert near[1].case.key != far[1].case.key


@pytest.mark.parametrize(
    ("prompt", "chunk", "wanted"),
    [
        (256, None, [(256, 256)]),
        (256, 256, [(256, 256)]),
        (256, 512, [(256, 256)]),
        (256, 128, [(128, 128), (128, 256)]),
        (300, 128, [(128, 128), (128, 256), (44, 300)]),
        (1, None, [(1, 1)]),
    ],
)
def test_a_prompt_comes_whole_or_in_chunks_at_its_growing_context(prompt: int, chunk: int | None, wanted: list) -> None:
    assert [(c.q_len, c.kv_len) for c in prefill_calls(prompt, chunk)] == wanted


def test_a_prefill_has_the_head_once_on_one_token(make_target) -> None:
    call = ModelCall(phase="prefill", q_len=4096, kv_len=4096)
    for runtime in ("torch_eager", "onnxruntime", "executorch"):
        head = cells(make_target(runtime=runtime), call)[-1]
        assert (head.label, head.count, head.case.q_len) == ("head", 1, 1)


@pytest.mark.parametrize("pattern", ["C", "CG", "CCCCG", "CGSCGSCGS", "G" * 11])
def test_decode_rings_lie_around_the_models_working_set(make_target, pattern: str) -> None:
    target, call = make_target(pattern), decode_call(64)
    sizes = [ring.cases[0].ring_bytes for ring in cell_rings(target, call)]
    assert min(sizes) <= working_set(target, call) * 1.0001
    assert max(sizes) >= working_set(target, call) * 0.98
    assert len(sizes) <= 2


def test_a_ring_states_what_its_cells_touch(make_target) -> None:
    for ring in cell_rings(make_target("CCG"), decode_call(64)):
        size = working_set_bytes([ring.first, *ring.turn * ring.turns, ring.last])
        assert {case.ring_bytes for case in ring.cases} == {size}


def test_prefill_rings_stay_small(make_target) -> None:
    call = ModelCall(phase="prefill", q_len=16, kv_len=16)
    assert [ring.turns for ring in cell_rings(make_target("G" * 40), call)] == [1, 2]


def test_the_model_touches_what_its_cells_touch(make_target) -> None:
    target, call = make_target("CCGS"), decode_call(64)
    assert case_bytes(model_case(target, call)) == pytest.approx(working_set(target, call), rel=1e-6)


def test_the_models_own_ring_is_the_model_alone(make_target) -> None:
    ring = model_ring(make_target(), decode_call(64), "g", 2)
    assert (ring.first, ring.last, ring.turns, ring.loads, ring.group) == (None, None, 1, 2, "g")
    assert [case.op for case in ring.turn] == ["model"]
