"""Operators' arithmetic against figures known from elsewhere."""

import numpy as np
import pytest
import torch

from edgeprof.bench.gate import reference_output, relative_error
from edgeprof.core.errors import UsageError
from edgeprof.operators.arrays import random_input, random_weights
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.gqa.spec import sum_of_contexts
from edgeprof.operators.registry import OPERATORS, make_spec

LFM2_350M: dict[str, OperatorSpec] = {
    "embedding": make_spec("embedding", {"vocab": 65536, "d_model": 1024}),
    "short_conv": make_spec("short_conv", {"d_model": 1024}),
    "gqa": make_spec("gqa", {"d_model": 1024, "n_heads": 16, "n_kv_heads": 8, "head_dim": 64}),
    "swiglu": make_spec("swiglu", {"d_model": 1024, "d_ff": 4608}),
    "rms_norm": make_spec("rms_norm", {"d_model": 1024}),
    "head": make_spec("head", {"vocab": 65536, "d_model": 1024, "tied": True}),
}


def test_the_operators_of_lfm2_350m_have_its_parameters() -> None:
    """Ten convolutions and six attentions, each with a feed-forward and two norms, a tied head.

    Source: LFM2 technical report, arXiv 2511.23404; the count is that of the published checkpoint.
    """
    counts = {"embedding": 1, "short_conv": 10, "gqa": 6, "swiglu": 16, "rms_norm": 32, "head": 1}
    assert sum(n * LFM2_350M[op].params() for op, n in counts.items()) == 354_483_968


def test_an_untied_head_has_the_projection_for_its_own() -> None:
    dims = {"vocab": 65536, "d_model": 1024}
    tied, untied = make_spec("head", dims | {"tied": True}), make_spec("head", dims | {"tied": False})
    assert untied.params() - tied.params() == 65536 * 1024
    assert untied.weight_bytes("fp32") == tied.weight_bytes("fp32")  # it is read all the same


def test_state_of_lfm2_350m_at_a_context() -> None:
    conv = LFM2_350M["short_conv"].state_bytes(batch=1, kv_len=32768, kv_dtype="fp32")
    attention = LFM2_350M["gqa"].state_bytes(batch=1, kv_len=32768, kv_dtype="bf16")
    assert conv == 2 * 1024 * 4
    assert attention == 32768 * 2 * 8 * 64 * 2


def test_four_bit_weights_take_their_scales_along_and_leave_vectors_alone() -> None:
    spec = LFM2_350M["short_conv"]
    matrices, kernel = 4 * 1024 * 1024, 3 * 1024
    assert spec.weight_bytes("int4") == matrices // 2 + matrices // 32 * 4 + kernel * 4
    assert spec.weight_bytes("8da4w") == matrices // 2 + matrices // 32 * 2 + kernel * 4


def test_an_embedding_moves_the_rows_that_it_looks_up() -> None:
    spec = LFM2_350M["embedding"]
    assert spec.bytes_moved(batch=2, q_len=3, kv_len=9, dtype="fp32", kv_dtype="fp32") == 6 * (1024 * 4 * 2 + 8)
    assert spec.flops(batch=2, q_len=3, kv_len=9) == 0
    scaled = make_spec("embedding", spec.dims() | {"scale": 32})
    assert scaled.flops(batch=2, q_len=3, kv_len=9) == 6 * 1024


def test_gated_feed_forwards_differ_by_their_activation_only() -> None:
    swiglu, geglu = (make_spec(op, {"d_model": 640, "d_ff": 2048}) for op in ("swiglu", "geglu"))
    assert swiglu.weights() == geglu.weights()
    assert swiglu.flops(batch=1, q_len=3, kv_len=9) == geglu.flops(batch=1, q_len=3, kv_len=9)


def test_a_full_prefill_has_half_of_the_square_and_its_diagonal() -> None:
    assert sum_of_contexts(10, 10, window=None) == 55
    assert sum_of_contexts(10, 10, window=1) == 10
    assert sum_of_contexts(1, 4096, window=512) == 512
    assert sum_of_contexts(1, 4096, window=None) == 4096


def test_short_conv_does_not_depend_on_the_context() -> None:
    spec = LFM2_350M["short_conv"]
    flops = {spec.flops(batch=1, q_len=1, kv_len=n) for n in (1, 1024, 32768)}
    assert flops == {2 * 4 * 1024**2 + 2 * 3 * 1024 + 2 * 1024}


@pytest.mark.parametrize("op", list(OPERATORS))
def test_dims_rebuild_the_spec(op: str, tiny_dims) -> None:
    spec = make_spec(op, tiny_dims[op])
    assert make_spec(op, spec.dims()) == spec
    assert spec.name == op


IMPLIED = [("gqa", "eps"), ("swa", "eps"), ("head", "eps"), ("rms_norm", "eps"), ("embedding", "scale")]


@pytest.mark.parametrize(("op", "name"), IMPLIED)
def test_an_implied_dimension_is_a_dimension_only_where_it_is_another(op: str, name: str, tiny_dims) -> None:
    """Cases that were measured before it was one keep their keys."""
    plain = make_spec(op, tiny_dims[op])
    assert name not in plain.dims()
    assert make_spec(op, tiny_dims[op] | {name: getattr(plain, name)}).dims() == plain.dims()
    assert make_spec(op, tiny_dims[op] | {name: 0.5}).dims() == plain.dims() | {name: 0.5}


@pytest.mark.parametrize(("op", "name"), IMPLIED)
def test_an_implied_dimension_changes_what_the_reference_computes(op: str, name: str, tiny_dims) -> None:
    outputs = []
    for value in ({}, {name: 0.1}):
        spec = make_spec(op, tiny_dims[op] | value)
        x = random_input(spec, batch=1, q_len=4, seed=1)
        outputs.append(reference_output(spec, random_weights(spec, 1), x, 0))
    assert relative_error(outputs[1], outputs[0]) > 1e-2


def test_an_epsilon_is_added_to_the_mean_square() -> None:
    spec = make_spec("rms_norm", {"d_model": 2, "eps": 0.25})
    x, scale = np.array([[[1.0, 7.0]]], np.float32), np.array([2.0, -1.0], np.float32)
    y = reference_output(spec, {"norm": scale}, x, 0)
    assert y.tolist() == [[[2 / 25.25**0.5, -7 / 25.25**0.5]]]


def test_gelu_is_the_tanh_approximation() -> None:
    """Of an identity gate: values of torch's own gelu, whose exact kind is off by 4.7e-4 at 2.2."""
    spec = make_spec("geglu", {"d_model": 1, "d_ff": 1})
    one = dict.fromkeys(("w_gate", "w_up", "w_down"), np.ones((1, 1), np.float32))
    x = torch.tensor([[[-3.0], [-0.5], [0.0], [0.7], [2.2]]])
    y = reference_output(spec, one, x.numpy(), 0)
    tanh, exact = (torch.nn.functional.gelu(x.double(), approximate=a).mul(x).numpy() for a in ("tanh", "none"))
    assert np.abs(y - tanh).max() < 1e-12
    assert np.abs(y - exact).max() > 1e-4


@pytest.mark.parametrize(
    ("op", "change", "message"),
    [
        ("gqa", {"windw": 3}, "gqa.windw: no such dimension"),
        ("swa", {"windw": 3}, "swa.windw: no such dimension; did you mean window?"),
        ("gqa", {"n_heads": 5}, "gqa.n_kv_heads: 2 does not divide n_heads = 5; use a divisor"),
        ("gqa", {"head_dim": 7}, "gqa.head_dim: 7 is odd"),
        ("gqa", {"d_model": 0}, "gqa.d_model: 0 is not a size"),
        ("gqa", {"d_model": -1}, "gqa.d_model: -1 is not a size"),
        ("gqa", {"d_model": 2**25}, "is not a size; use 1 to 16777216"),
        ("gqa", {"d_model": 32.5}, "gqa.d_model: 32.5 is not a whole number"),
        ("gqa", {"d_model": True}, "gqa.d_model: True is not a whole number"),
        ("gqa", {"qk_norm": 1}, "gqa.qk_norm: 1 is not true or false"),
        ("gqa", {"eps": 0.0}, "gqa.eps: 0.0 is not a size"),
        ("embedding", {"scale": "x"}, "embedding.scale: 'x' is not a number"),
        ("short_conv", {"kernel_size": 0}, "short_conv.kernel_size: 0 is not a size"),
    ],
)
def test_dims_that_make_no_operator_are_told(op: str, change: dict, message: str, tiny_dims) -> None:
    with pytest.raises(UsageError) as caught:
        make_spec(op, tiny_dims[op] | change)
    assert message in str(caught.value)


def test_a_missing_dimension_is_named() -> None:
    with pytest.raises(UsageError, match=r"swiglu\.d_ff: missing; give d_ff = a whole number"):
        make_spec("swiglu", {"d_model": 8})


@pytest.mark.parametrize("op", list(OPERATORS))
def test_weights_are_the_same_for_a_seed_and_others_for_another(op: str, tiny_dims) -> None:
    spec = make_spec(op, tiny_dims[op])
    one, again, other = (random_weights(spec, seed) for seed in (1, 1, 2))
    assert all((one[n] == again[n]).all() and (one[n] != other[n]).any() for n in one)
    assert {n: w.dtype for n, w in one.items()} == dict.fromkeys(one, "float32")


def test_equal_shapes_of_one_operator_get_different_weights(tiny_dims) -> None:
    """Otherwise swapped projections would go unseen."""
    weights = random_weights(make_spec("short_conv", tiny_dims["short_conv"]), 1)
    assert (weights["w_b"] != weights["w_c"]).any()


def test_token_ids_lie_in_the_vocabulary(tiny_dims) -> None:
    ids = random_input(make_spec("embedding", tiny_dims["embedding"]), batch=2, q_len=500, seed=1)
    assert ids.shape == (2, 500)
    assert (ids.min(), ids.max()) == (0, 39)
