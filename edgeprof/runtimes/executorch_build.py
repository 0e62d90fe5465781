"""Lowers a chain of forms to a .pte and tells what is in it."""

import json
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeprof.core.dtypes import QUANT_GROUP
from edgeprof.core.types import ArtifactSpec, FreshRange
from edgeprof.models.composite import CompositeSpec
from edgeprof.operators.arrays import Array, Weights, random_input
from edgeprof.operators.attribute import form
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.executorch_form import Chain, call_shape, chain_inputs
from edgeprof.runtimes.base import Built
from edgeprof.runtimes.executorch_instructions import instruction_parts
from edgeprof.runtimes.executorch_libraries import import_lowering, known_warnings_silenced

MODEL_FILE = "model.pte"
SIGNATURE_FILE = "signature.json"
INSTRUCTIONS_FILE = "instructions.json"

NO_COMPUTE = (
    "getitem",
    "alloc",
    "view",
    "squeeze",
    "expand",
    "select",
    "local_scalar",
    "assert",
    "sym_size",
    "clone_dim",
)
"""Operators that move or check but compute nothing, by a part of their name: left out of the delegated share."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A serialised program with what its flatbuffer would otherwise have to be parsed for.

    ``weight_bytes`` are all serialised constants: weights with their scales, and the masks of a prefill's blocks. ``program`` is
    ExecuTorch's own description of it.
    """

    pte: bytes
    weight_bytes: int
    arena_bytes: int
    delegated_share: float | None
    program: Any


def build_operator(operator: OperatorSpec, spec: ArtifactSpec, weights: Weights, folder: Path) -> Built:
    """Lowers one operator into ``folder``: the .pte, the names of its inputs and state, and a composite's parts."""
    shape = call_shape(spec)
    module = form(operator, "executorch")(operator, shape)
    module.load({name: torch.from_numpy(w) for name, w in weights.items()})
    example = torch.from_numpy(random_input(operator, batch=shape.batch, q_len=shape.q_len, seed=0))
    inputs = chain_inputs([operator], shape, shape.capacity - shape.q_len if shape.has_past else 0)
    with redirect_stdout(sys.stderr), known_warnings_silenced():
        effective = quantize(module) if spec.dtype == "8da4w" else {}
        stored = [stored_bytes(w) for w in module.parameters()]
        chain = Chain([module], list(inputs))
        lowered = lower(chain, (example, *map(torch.from_numpy, inputs.values())), quantized=spec.dtype == "8da4w")
    replace_file(folder / MODEL_FILE, lowered.pte)
    replace_file(folder / SIGNATURE_FILE, json.dumps(signature(chain, inputs), indent=1).encode())
    files = {"model": MODEL_FILE, "signature": SIGNATURE_FILE}
    if isinstance(operator, CompositeSpec):
        told = instruction_parts(operator, lowered.program)
        replace_file(folder / INSTRUCTIONS_FILE, json.dumps(told).encode())
        files["instructions"] = INSTRUCTIONS_FILE
    return Built(
        files=files,
        weight_bytes=lowered.weight_bytes,
        effective=weights | effective if effective else None,
        arena_bytes=lowered.arena_bytes,
        delegated_share=lowered.delegated_share,
        fresh=list(fresh_ranges(lowered.pte, stored)),
    )


def quantize(module: nn.Module) -> Weights:
    """Quantises every linear layer to 8da4w in place and returns the weights that they now compute with, by path.

    XNNPACK stores the scales of a group as bfloat16, so these are what the dequantised weights are made with.
    """
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    quantize_(
        module,
        Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4,  # type: ignore[attr-defined]
            weight_granularity=PerGroup(QUANT_GROUP),
        ),
    )
    effective: Weights = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            packed: Any = layer.weight
            scale = packed.scale.to(torch.bfloat16).float().repeat_interleave(QUANT_GROUP, 1)
            effective[name] = (packed.qdata.float() * scale).numpy()
    return effective


def lower(module: nn.Module, example: tuple[Tensor, ...], *, quantized: bool) -> Lowered:
    """Exports and lowers a module to XNNPACK, with planned outputs, inputs bound in place, and state that has names."""
    exir = import_lowering()
    partitioners = [exir.XnnpackPartitioner()]
    if quantized:
        partitioners.insert(0, exir.XnnpackDynamicallyQuantizedPartitioner())
    with torch.no_grad():
        exported = torch.export.export(module.eval(), example, strict=False)
    edge = exir.to_edge_transform_and_lower(
        exported,
        partitioner=partitioners,
        compile_config=exir.EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
    )
    share = delegated_share(edge.exported_program().graph_module)
    program = edge.to_executorch(
        exir.ExecutorchBackendConfig(
            emit_mutable_buffer_names=True,
            memory_planning_pass=exir.MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=True),
        )
    )
    constants = [len(c.storage) for c in program.executorch_program.constant_buffer]
    named = program._named_data.buffers if program._named_data else []
    return Lowered(
        pte=program.buffer,
        weight_bytes=sum(constants) + sum(len(b) for b in named),
        arena_bytes=sum(program.executorch_program.execution_plan[0].non_const_buffer_sizes),
        delegated_share=share,
        program=program,
    )


def delegated_share(graph_module: Any) -> float | None:
    """Share of the operators that compute something (weights are none) which lie inside delegates; None without any.

    Views, look-ups, scalars, assertions and the (de)quantisation that XNNPACK fuses into its kernels count on neither side.
    """
    inside = outside = 0
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and "call_delegate" in str(node.target):
            lowered = getattr(graph_module, node.args[0].target)
            inside += sum(map(computes, lowered.original_module.graph.nodes))
        else:
            outside += computes(node)
    return inside / (inside + outside) if inside + outside else None


def computes(node: Any) -> bool:
    """Whether a graph's node is an operator that computes something."""
    if node.op != "call_function":
        return False
    name = str(getattr(node.target, "__name__", node.target))
    if type(node.target).__name__ == "builtin_function_or_method" or "quant" in name or "choose_qparams" in name:
        return False
    return not any(part in name for part in NO_COMPUTE)


def signature(chain: Chain, inputs: dict[str, Array]) -> dict[str, list[dict[str, Any]]]:
    """Names, dtypes and shapes of the inputs after ``x``, and of the state buffers, for whoever loads the file."""
    return {
        "inputs": [{"name": n, "dtype": str(a.dtype), "shape": list(a.shape)} for n, a in inputs.items()],
        "state": [
            {"name": n, "dtype": str(b.dtype).removeprefix("torch."), "shape": list(b.shape)}
            for n, b in chain.named_buffers()
            if not n.endswith(".band")
        ],
    }


def stored_bytes(weight: Any) -> tuple[bytes, int]:
    """A weight as XNNPACK or ExecuTorch serialises it, and the stride of the bytes in it that may be flipped."""
    if hasattr(weight, "qdata"):
        return import_lowering().NodeVisitor.convert_to_qc4w(weight.qdata).numpy().tobytes(), 1
    return weight.detach().numpy().tobytes(), 4


def fresh_ranges(pte: bytes, stored: list[tuple[bytes, int]]) -> Iterable[FreshRange]:
    """Where the file holds the weights: any byte of packed 4-bit integers, the lowest mantissa byte of a float.

    Equal weights, a tied projection and its table in fp32, are found one behind the other.
    """
    end: dict[bytes, int] = {}
    for content, stride in stored:
        offset = pte.find(content, end.get(content, 0))
        if offset >= 0:
            end[content] = offset + len(content)
            yield FreshRange(file=MODEL_FILE, offset=offset, length=len(content), stride=stride)


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
