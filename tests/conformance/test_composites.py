"""Blocks and whole models in every runtime: built, loaded and judged by the gate as a worker does it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from edgeprof.bench.gate import gate_error, quantization_error, reference_output, refusal, relative_error, tolerance
from edgeprof.core.types import Artifact, BenchCase
from edgeprof.models import onnx as onnx_forms
from edgeprof.models.block import BlockSpec, block_of
from edgeprof.models.composite import part_weights
from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.models.model import ModelSpec, model_of
from edgeprof.models.onnx import emit_model
from edgeprof.models.pair import pair_of
from edgeprof.operators.arrays import Weights, random_input, random_weights
from edgeprof.operators.attribute import form
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.onnx_graph import Graph
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.artifact import WEIGHTS_SEED, artifact_folder, artifact_spec, build_artifact, effective_weights
from edgeprof.runtimes.base import RUNTIMES, Cell

HEADS = {"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
FFN = make_spec("swiglu", {"d_model": 64, "d_ff": 96})
BLOCKS: dict[str, BlockSpec] = {
    "conv": block_of(make_spec("short_conv", {"d_model": 64}), FFN),
    "swa": block_of(make_spec("swa", HEADS | {"window": 6}), FFN),
    "gqa": block_of(make_spec("gqa", HEADS), FFN),
    "gemma": block_of(
        make_spec("gqa", HEADS | {"rope_theta": 1e4, "eps": 1e-3}),
        make_spec("geglu", {"d_model": 64, "d_ff": 96}),
        eps=1e-3,
        sandwich=True,
    ),
}


def arch(pattern: str, **fields: Any) -> ArchConfig:
    dims = HEADS | {"window": 6, "d_ff": 96}
    return config_of_pattern(pattern, {n: v for n, v in dims.items() if n != "d_model"}, **{
        "name": "m", "d_model": 64, "vocab": 96, **fields
    })  # fmt: skip


MODELS: dict[str, OperatorSpec] = {
    "tied": model_of(arch("CSGC")),
    "untied": model_of(arch("GCS", tied=False)),
    "scaled": model_of(arch("G", embedding_scale=8.0, sandwich_norm=True, norm_eps=1e-3)),
    "all logits": model_of(arch("CG"), all_logits=True),
}
OPERATORS = BLOCKS | {"pair": pair_of(BLOCKS["conv"], BLOCKS["gqa"])} | MODELS
SHAPES: dict[str, dict[str, Any]] = {
    "decode": {"q_len": 1, "kv_len": 30},
    "prefill": {"phase": "prefill", "q_len": 24, "kv_len": 24},
    "chunk": {"phase": "prefill", "q_len": 12, "kv_len": 36},
}


def case_of(operator: OperatorSpec, runtime: str, dtype: str, **shape: Any) -> BenchCase:
    fields = {"phase": "decode", "kv_dtype": "fp32"} | shape
    return BenchCase(
        op=operator.name, op_version=1, dims=operator.dims(), runtime=runtime, dtype=dtype, n_threads=1,
        cache_state="hot", **fields,
    )  # fmt: skip


def load(case: BenchCase) -> tuple[Cell, Artifact]:
    runtime = RUNTIMES.get(case.runtime)
    assert runtime.unsupported(case) is None
    artifact = build_artifact(artifact_spec(case))
    if runtime.name != "torch_eager":  # which sets its threads once a process
        runtime.start(1)
    operator = make_spec(case.op, case.dims)
    return runtime.load(operator, artifact, artifact_folder(artifact.key), case.kv_len), artifact


def error_of(case: BenchCase) -> float:
    cell, artifact = load(case)
    return gate_error(cell, make_spec(case.op, case.dims), case, effective_weights(artifact))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(
    ("runtime", "dtype"), [("torch_eager", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int4")]
)
def test_a_composite_computes_what_its_parts_references_say(
    runtime: str, dtype: str, name: str, shape: str, cache
) -> None:
    case = case_of(OPERATORS[name], runtime, dtype, **SHAPES[shape])
    assert error_of(case) < tolerance(case) / (20 if dtype == "fp32" else 1)


@pytest.mark.parametrize("name", ["gemma", "tied"])
def test_a_rounded_cache_keeps_to_its_tolerance(name: str, cache) -> None:
    case = case_of(OPERATORS[name], "onnxruntime", "int4", **SHAPES["decode"], kv_dtype="int8")
    assert tolerance(replace(case, kv_dtype="fp32")) < tolerance(case)
    assert error_of(case) < tolerance(case)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("untied", "fp32", "decode"),
        ("scaled", "8da4w", "prefill"),
        ("pair", "fp32", "decode"),
    ],
)
def test_a_composite_is_lowered_whole(name: str, dtype: str, shape: str, cache) -> None:
    """In 5 to 10 s each; tests/unit/models/test_executorch.py runs all shapes without lowering them."""
    case = case_of(OPERATORS[name], "executorch", dtype, **SHAPES[shape])
    cell, artifact = load(case)
    error = gate_error(cell, make_spec(case.op, case.dims), case, effective_weights(artifact))
    assert error < tolerance(case) / (20 if dtype == "fp32" else 1)
    assert artifact.delegated_share is not None
    assert artifact.delegated_share > 0.8
    assert 0.8 * artifact.weight_bytes < sum(part.length for part in artifact.fresh) <= artifact.weight_bytes


@pytest.mark.parametrize("dtype", ["fp32", "int4"])
def test_a_long_prefill_gives_the_last_tokens_logits_only(dtype: str, cache) -> None:
    """ONNX Runtime computes it in runs of 128 tokens, of which only the last one has a token that is wanted."""
    operator = MODELS["tied"]
    case = case_of(operator, "onnxruntime", dtype, phase="prefill", q_len=300, kv_len=300)
    cell, artifact = load(case)
    x = random_input(operator, batch=1, q_len=300, seed=1)
    cell.bind(x, 0)()
    expected = reference_output(operator, effective_weights(artifact), x, 0)[:, -1:]
    assert cell.output().shape == (1, 1, 96)
    assert relative_error(cell.output(), expected) < tolerance(case)


def test_a_tied_table_is_in_the_onnx_file_once_in_fp32(cache) -> None:
    sizes = {}
    for tied in (True, False):
        case = case_of(model_of(arch("C", tied=tied)), "onnxruntime", "fp32", **SHAPES["decode"])
        artifact = build_artifact(artifact_spec(case))
        sizes[tied] = artifact.weight_bytes
        assert artifact.weight_bytes == 4 * make_spec(case.op, case.dims).params()
    assert sizes[False] - sizes[True] == 4 * 96 * 64


def test_an_onnx_model_names_its_state_by_path_and_shares_inputs(cache) -> None:
    case = case_of(MODELS["untied"], "onnxruntime", "fp32", **SHAPES["decode"])
    artifact = build_artifact(artifact_spec(case))
    graph = onnx.load(artifact_folder(artifact.key) / artifact.files["model"], load_external_data=False).graph
    assert {i.name for i in graph.input} == {
        "x", "wanted", "seqlens_k", "total_sequence_length", "query_seqlens", "rope_cos_16_1e+06", "rope_sin_16_1e+06",
        "layers.0.mixer.k", "layers.0.mixer.v", "layers.1.mixer.past", "layers.2.mixer.k", "layers.2.mixer.v",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["fp32", "int4"])
@pytest.mark.parametrize("name", ["gemma", "tied", "untied"])
def test_effective_weights_carry_the_weights_paths(name: str, dtype: str, cache) -> None:
    operator = OPERATORS[name]
    artifact = build_artifact(artifact_spec(case_of(operator, "onnxruntime", dtype, **SHAPES["decode"])))
    apart = {"head.w_vocab"} if name == "tied" and dtype == "int4" else set()  # the projection's own packing
    assert set(effective_weights(artifact)) == set(operator.weights()) | apart


# Seeded faults: what is built is wrong, what judges it is right.


def judge(case: BenchCase) -> str | None:
    """The gate's word on a case, as a worker asks for it."""
    cell, artifact = load(case)
    operator, weights = make_spec(case.op, case.dims), effective_weights(artifact)
    rounding = None
    if artifact.effective is not None:
        rounding = quantization_error(operator, case, random_weights(operator, WEIGHTS_SEED), weights)
    return refusal(case, gate_error(cell, operator, case, weights), rounding)


def swapped(graph: Graph, spec: ModelSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """The first block has the last one's weights and the last the first's."""
    others = {"layers.0.": "layers.3.", "layers.3.": "layers.0."}
    wrong = {others.get(name[:9], name[:9]) + name[9:]: w for name, w in weights.items()}
    return emit_model(graph, spec, wrong, x, prefix)


def other_epsilon(graph: Graph, spec: ModelSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """LFM2's, whatever the model's is."""
    return emit_model(graph, model_of(replace(spec.arch, norm_eps=1e-5, layers=arch("SG").layers)), weights, x, prefix)


def without_residual(graph: Graph, spec: BlockSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """No sum around the mixer."""
    y = x
    for path, part in spec.parts().items():
        y = form(part, "onnx")(graph, part, part_weights(weights, path), y, f"{prefix}{path}.")
    return graph.node("Add", [x, y], [f"{prefix}sum"])


def first_token(graph: Graph, spec: ModelSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """Logits of the first token of a call instead of the last one's."""
    logits = emit_model(graph, replace(spec, all_logits=True), weights, x, prefix)
    first = graph.node("Mul", [graph.wanted(), graph.constant("zero", np.array(0))], ["first"])
    return graph.node("Gather", [logits, first], ["first_logits"], axis=1)


FAULTS: dict[str, tuple[OperatorSpec, Callable[..., str], tuple[str, ...]]] = {
    "swapped blocks": (MODELS["tied"], swapped, ("fp32", "int4")),
    "no residual in a block": (BLOCKS["gqa"], without_residual, ("fp32", "int4")),
    "no residual in a model": (MODELS["tied"], without_residual, ("fp32", "int4")),
    "another epsilon": (model_of(arch("SG", norm_eps=1e-3)), other_epsilon, ("fp32",)),  # 5e-4: less than rounding
    "the first token": (MODELS["untied"], first_token, ("fp32", "int4")),
}
"""What is judged, what is built instead, and the formats in which it must show."""


@pytest.mark.parametrize(("fault", "dtype"), [(fault, dtype) for fault in FAULTS for dtype in FAULTS[fault][2]])
def test_a_seeded_fault_is_refused(fault: str, dtype: str, cache, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, wrong, _ = FAULTS[fault]
    case = case_of(operator, "onnxruntime", dtype, **SHAPES["prefill"])
    monkeypatch.setattr(onnx_forms, "emit_block" if wrong is without_residual else "emit_model", wrong)
    assert "not timed" in str(judge(case))


@pytest.mark.parametrize("dtype", ["fp32", "int4"])
def test_the_right_model_is_not_refused(dtype: str, cache) -> None:
    for operator in (MODELS["tied"], MODELS["untied"], BLOCKS["gqa"]):
        assert judge(case_of(operator, "onnxruntime", dtype, **SHAPES["prefill"])) is None


@pytest.mark.parametrize("pattern", ["C", "G", "CSGCCSGC", "CCCCCCCCCCCCCCCC"])
def test_the_tolerance_grows_as_rounding_does(pattern: str, cache) -> None:
    """Room to spare for layouts not tried, not enough for a fault: another model's logits are 1.4 away."""
    operator = model_of(arch(pattern))
    case = case_of(operator, "onnxruntime", "int4", **SHAPES["decode"])
    error = error_of(case)
    assert tolerance(case) / 8 < error < tolerance(case)
    assert tolerance(case) < 0.35
    exact = replace(case, dtype="fp32")
    assert tolerance(exact) == 1e-4
    assert error_of(exact) < 1e-5
