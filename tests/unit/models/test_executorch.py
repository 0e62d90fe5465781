"""The ExecuTorch forms of blocks and models before they are lowered: which takes seconds, while all shapes take none."""

from typing import Any

import numpy as np
import pytest
import torch

from edgeprof.bench.gate import reference_output, relative_error
from edgeprof.models.block import block_of
from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.models.model import model_of
from edgeprof.operators.arrays import Array, random_input, random_weights
from edgeprof.operators.attribute import form
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.executorch_form import CallShape, Chain, chain_inputs
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.executorch import RUNTIME
from edgeprof.runtimes.executorch_build import fresh_ranges, quantize
from edgeprof.runtimes.executorch_libraries import import_lowering

HEADS = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
SHAPES = {"decode": (1, True, 10), "few": (3, True, 4), "prefill": (20, False, 1), "chunk": (12, True, 3)}
"""Tokens of a call, whether it follows others, and calls."""


def arch(pattern: str, **fields: Any) -> ArchConfig:
    dims = HEADS | {"window": 6, "d_ff": 96}
    return config_of_pattern(pattern, dims, **{"name": "m", "d_model": 64, "vocab": 96, **fields})


OPERATORS: dict[str, OperatorSpec] = {
    "gemma": block_of(
        make_spec("swa", HEADS | {"d_model": 64, "window": 6, "rope_theta": 1e4}),
        make_spec("geglu", {"d_model": 64, "d_ff": 96}),
        eps=1e-2,
        sandwich=True,
    ),
    "tied": model_of(arch("CSGC")),
    "untied": model_of(arch("GCS", tied=False)),
    "all logits": model_of(arch("CG", embedding_scale=8.0), all_logits=True),
}


@pytest.fixture(autouse=True, scope="module")
def kernels() -> None:
    """The attention kernels' registration."""
    import_lowering()


def run(chain: Chain, operator: OperatorSpec, shape: CallShape, x: Array, start: int) -> Array:
    """The outputs of all calls, each of ``shape.q_len`` tokens."""
    outputs = []
    for begin in range(0, x.shape[1], shape.q_len):
        inputs = chain_inputs([operator], shape, start + begin).values()
        arguments = [torch.from_numpy(np.asarray(a)) for a in (x[:, begin : begin + shape.q_len], *inputs)]
        with torch.inference_mode():
            outputs.append(chain(*arguments).numpy())
    return np.concatenate(outputs, 1)


@pytest.mark.parametrize("dtype", ["fp32", "8da4w"])
@pytest.mark.parametrize("how", SHAPES)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_form_computes_what_the_reference_says(name: str, how: str, dtype: str) -> None:
    operator, (q_len, has_past, calls) = OPERATORS[name], SHAPES[how]
    shape = CallShape(batch=1, q_len=q_len, capacity=48 if has_past else q_len, has_past=has_past)
    weights = random_weights(operator, 1)
    module = form(operator, "executorch")(operator, shape)
    module.load({n: torch.from_numpy(w) for n, w in weights.items()})
    effective = weights | (quantize(module) if dtype == "8da4w" else {})
    start = 5 if has_past else 0
    x = random_input(operator, batch=1, q_len=q_len * calls, seed=2)
    y = run(Chain([module], list(chain_inputs([operator], shape, start))), operator, shape, x, start)
    last = operator.output_tokens(q_len)
    expected = reference_output(operator, effective, x, start).reshape(calls, q_len, -1)[:, -last:]
    assert relative_error(y, expected.reshape(y.shape)) < (1e-5 if dtype == "fp32" else 0.1)


def test_quantising_gives_every_matrix_by_path_and_a_tied_projection_apart_from_its_table() -> None:
    operator = OPERATORS["tied"]
    shape = CallShape(batch=1, q_len=1, capacity=8, has_past=True)
    weights = random_weights(operator, 1)
    module = form(operator, "executorch")(operator, shape)
    module.load({n: torch.from_numpy(w) for n, w in weights.items()})
    effective = quantize(module)
    assert set(effective) == {n for n, w in operator.weights().items() if w.kind == "linear"} | {"head.w_vocab"}
    given = weights | {"head.w_vocab": weights["embedding.table"]}
    for name, w in effective.items():
        assert 0.02 < np.linalg.norm(w - given[name]) / np.linalg.norm(w) < 0.2
    assert np.array_equal(module.get_parameter("embedding.table").numpy(), weights["embedding.table"])


def test_state_is_named_by_path_and_blocks_share_their_inputs() -> None:
    operator = model_of(arch("GSSG"))
    shape = CallShape(batch=1, q_len=1, capacity=8, has_past=True)
    module = form(operator, "executorch")(operator, shape)
    states = [name for name, _ in module.named_buffers() if not name.endswith(".band")]
    assert states == [f"layers.{i}.mixer.{cache}" for i in range(4) for cache in ("k", "v")]
    names = list(chain_inputs([operator], shape, 7))
    assert names == ["cos_16_1e+06", "sin_16_1e+06", "gqa_row", "gqa_start_2", "swa6_row", "swa6_start_2"]


def test_a_window_does_not_hide_a_growing_cache_from_the_capacity(make_case) -> None:
    """The window's rows outnumber the growing cache's at short contexts."""
    for pattern, capacity in (("SG", 4096), ("GS", 4096), ("CS", 1)):
        case = make_case("model", dims=model_of(arch(pattern)).dims(), kv_len=100, runtime="executorch")
        assert RUNTIME.capacity(case) == capacity


def test_a_tied_table_may_be_varied_in_both_places_where_the_file_has_it() -> None:
    table, norm = b"\x01\x02\x03\x04" * 4, b"\x05\x06\x07\x08"
    stored = [(table, 4), (norm, 4), (b"elsewhere", 1), (table, 4)]
    found = list(fresh_ranges(b"head" + table + b"middle" + norm + table, stored))
    assert [(part.offset, part.length, part.stride) for part in found] == [(4, 16, 4), (26, 4, 4), (30, 16, 4)]
