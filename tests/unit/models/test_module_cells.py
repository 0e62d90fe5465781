"""Blocks and models as cells of the torch runtimes: built, loaded and called like any operator."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprof.core.types import Artifact, ArtifactSpec
from edgeprof.models.config import load_config
from edgeprof.models.model import model_of
from edgeprof.models.reference import composite
from edgeprof.operators.arrays import random_input, random_weights
from edgeprof.operators.base import OperatorSpec
from edgeprof.runtimes.torch_compile import TorchCompile
from edgeprof.runtimes.torch_eager import TorchCell, TorchEager

CONFIG = load_config("tiny-hybrid")
SPECS = {"block": CONFIG.layers[-1], "model": model_of(CONFIG)}
CONTEXT = 24


def load(runtime: TorchEager, operator: OperatorSpec, folder: Path, dtype: str = "fp32") -> TorchCell:
    spec = ArtifactSpec(
        op=operator.name, op_version=1, dims=operator.dims(), batch=1, q_len=1, capacity=0, has_past=True,
        dtype=dtype, kv_dtype=dtype, runtime=runtime.name, runtime_version="1", source_hash="",
    )  # fmt: skip
    built = runtime.build(operator, spec, random_weights(operator, 1), folder)
    artifact = Artifact(key="", spec=spec, files=built.files, weight_bytes=built.weight_bytes)
    return runtime.load(operator, artifact, folder, CONTEXT)


def outputs(cell: TorchCell, operator: OperatorSpec, calls: int) -> list[np.ndarray]:
    """What a cell says to one token after the other, from an empty context."""
    cell.reset()
    x = random_input(operator, batch=1, q_len=calls, seed=5)
    found = []
    for pos in range(calls):
        cell.bind(x[:, pos : pos + 1], pos)()
        found.append(cell.output())
    return found


@pytest.mark.parametrize("operator", SPECS.values(), ids=SPECS)
def test_an_eager_cell_decodes_as_the_reference_does(operator: OperatorSpec, tmp_path: Path) -> None:
    cell = load(TorchEager(), operator, tmp_path)
    x = torch.from_numpy(random_input(operator, batch=1, q_len=12, seed=5))
    weights = {n: torch.from_numpy(w) for n, w in random_weights(operator, 1).items()}
    truth = composite(operator, weights, x if operator.takes_tokens else x.double(), 0).numpy()
    for pos, found in enumerate(outputs(cell, operator, 12)):
        assert np.abs(found[:, -1] - truth[:, pos]).max() < 1e-4 * np.abs(truth).max()


@pytest.mark.parametrize("operator", SPECS.values(), ids=SPECS)
def test_reset_forgets_the_context_and_fill_makes_another(operator: OperatorSpec, tmp_path: Path) -> None:
    cell = load(TorchEager(), operator, tmp_path)
    first = outputs(cell, operator, 4)
    assert all(np.array_equal(a, b) for a, b in zip(first, outputs(cell, operator, 4), strict=True))
    x = random_input(operator, batch=1, q_len=1, seed=5)
    filled = []
    for seed in (1, 2, 1):
        cell.fill(seed)
        cell.bind(x, 10)()
        filled.append(cell.output())
    assert np.array_equal(filled[0], filled[2])
    assert not np.array_equal(filled[0], filled[1])


@pytest.mark.parametrize("operator", SPECS.values(), ids=SPECS)
def test_a_bf16_cell_computes_in_bf16(operator: OperatorSpec, tmp_path: Path) -> None:
    cell = load(TorchEager(), operator, tmp_path, dtype="bf16")
    (found,) = outputs(cell, operator, 1)
    assert cell.result is not None
    assert cell.result.dtype == torch.bfloat16
    (full,) = outputs(load(TorchEager(), operator, tmp_path), operator, 1)
    assert np.abs(found - full).max() < 0.1 * np.abs(full).max()


@pytest.mark.slow
@pytest.mark.parametrize("operator", SPECS.values(), ids=SPECS)
def test_a_compiled_cell_says_what_the_eager_one_does(operator: OperatorSpec, tmp_path: Path) -> None:
    x = random_input(operator, batch=1, q_len=1, seed=5)
    found = []
    for runtime in (TorchEager(), TorchCompile()):
        cell = load(runtime, operator, tmp_path)
        cell.fill(3)
        cell.bind(x, CONTEXT - 1)()
        found.append(cell.output())
    torch._dynamo.reset()
    assert np.abs(found[0] - found[1]).max() < 1e-4 * np.abs(found[0]).max()
