"""The reference of blocks and models, against their parts composed by hand."""

import numpy as np
import pytest

from edgeprof.bench.gate import reference_output
from edgeprof.models.block import block_of
from edgeprof.models.composite import part_weights
from edgeprof.models.config import config_of_pattern
from edgeprof.models.model import model_of
from edgeprof.operators.arrays import Array, Weights, random_input, random_weights
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.registry import make_spec

HEADS = {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8}


def part(spec: OperatorSpec, weights: Weights, path: str, x: Array, start: int) -> Array:
    """One part's reference."""
    return reference_output(spec, part_weights(weights, path), x, start)


@pytest.mark.parametrize("sandwich", [False, True])
def test_a_block_adds_mixer_and_feed_forward_to_its_stream(sandwich: bool) -> None:
    mixer, ffn = make_spec("gqa", HEADS), make_spec("swiglu", {"d_model": 32, "d_ff": 48})
    block = block_of(mixer, ffn, eps=1e-2, sandwich=sandwich)
    norm = make_spec("rms_norm", {"d_model": 32, "eps": 1e-2})
    weights = random_weights(block, 1)
    x = random_input(block, batch=2, q_len=5, seed=2)
    h = x.astype(np.float64)
    for name, operator in (("mixer", mixer), ("ffn", ffn)):
        y = part(operator, weights, name, part(norm, weights, f"{name}_norm", h, 3), 3)
        h = h + (part(norm, weights, f"{name}_post", y, 3) if sandwich else y)
    assert np.abs(reference_output(block, weights, x, 3) - h).max() < 1e-12


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_embeds_runs_its_blocks_and_projects_every_token(tied: bool) -> None:
    dims = {n: v for n, v in HEADS.items() if n != "d_model"} | {"window": 3, "d_ff": 48}
    arch = config_of_pattern("CS", dims, name="m", d_model=32, vocab=20, tied=tied, embedding_scale=5.0)
    model = model_of(arch)
    weights = random_weights(model, 1)
    x = random_input(model, batch=2, q_len=5, seed=2)
    h = 5 * weights["embedding.table"].astype(np.float64)[x]
    for index, layer in enumerate(arch.layers):
        h = part(layer, weights, f"layers.{index}", h, 2)
    h = h / np.sqrt((h**2).mean(-1, keepdims=True) + arch.norm_eps) * weights["head.norm"]
    logits = h @ weights["embedding.table" if tied else "head.w_vocab"].T
    assert np.abs(reference_output(model, weights, x, 2) - logits).max() < 1e-12


def test_a_tied_projection_that_is_given_apart_counts() -> None:
    """In 8da4w the projection is rounded and the embedding's table is not."""
    arch = config_of_pattern("C", {"d_ff": 48}, name="m", d_model=32, vocab=20)
    model = model_of(arch)
    weights = random_weights(model, 1)
    x = random_input(model, batch=1, q_len=3, seed=2)
    apart = reference_output(model, weights | {"head.w_vocab": 2 * weights["embedding.table"]}, x, 0)
    assert np.abs(apart - 2 * reference_output(model, weights, x, 0)).max() < 1e-12
