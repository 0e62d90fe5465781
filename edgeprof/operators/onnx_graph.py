"""A builder of ONNX graphs that operators' forms add themselves to, one after another.

Weights go to one raw file beside the model (ONNX's external data), so that sizes above protobuf's 2 GB work. What a
runner must know besides the graph's inputs is JSON in the model's metadata: ``states`` maps each state input to the output
that succeeds it, ``rope`` each table input to what it holds, ``tokens_per_run`` bounds the tokens of a run. An input
``wanted`` lists which of a run's tokens are to have an output.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeprof.core.dtypes import QUANT_GROUP
from edgeprof.core.types import FreshRange
from edgeprof.operators.arrays import Array, Weights
from edgeprof.operators.base import OperatorSpec

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "weights.bin"
MICROSOFT = "com.microsoft"
BATCH, TOKENS, ROWS, POSITIONS, WANTED = "batch", "tokens", "rows", "positions", "wanted"

_OPSET = 24
_IR_VERSION = 12  # what opset 24 came with; ONNX Runtime refuses versions that are newer than it knows
_ALIGNMENT = 4096  # a page: ONNX Runtime maps initialisers from the file and wants them to begin on one
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level that multiplies in int8

Dim = int | str
Emit = Callable[["Graph", Any, Weights, str, str], str]
"""A form: given a graph, an operator's spec and weights, its input tensor and a prefix for names, it adds the operator's
nodes to the graph and returns the name of its output."""


@dataclass(slots=True)
class _Initializer:
    array: Array
    fresh: Literal["float", "packed"] | None


@dataclass(slots=True)
class GraphFiles:
    """What ``Graph.save`` leaves: file names by role, bytes of weights, and the bytes that may be varied between loads."""

    files: dict[str, str]
    weight_bytes: int
    fresh: list[FreshRange]


@dataclass(slots=True)
class Graph:
    """Nodes, initialisers, inputs and states of a graph under construction; tensors are named by strings.

    ``dtype`` is the format of linear weights and tables, ``kv_dtype`` that of KV caches; activations are fp32.
    ``tokens_per_run`` is how many tokens a run takes at most; runners split longer calls, which is faster than one long
    run (docs/forms-onnxruntime.md). ``effective`` collects the weights that the graph really computes with, (out, in).
    """

    dtype: str = "fp32"
    kv_dtype: str = "fp32"
    tokens_per_run: int = 128
    effective: Weights = field(default_factory=dict)
    _nodes: list[onnx.NodeProto] = field(default_factory=list)
    _initializers: dict[str, _Initializer] = field(default_factory=dict)
    _constants: dict[str, TensorProto] = field(default_factory=dict)
    _inputs: dict[str, onnx.ValueInfoProto] = field(default_factory=dict)
    _outputs: dict[str, onnx.ValueInfoProto] = field(default_factory=dict)
    _states: dict[str, str] = field(default_factory=dict)
    _rope: dict[str, tuple[str, int, float]] = field(default_factory=dict)

    def input(self, name: str, dtype: type, shape: Sequence[Dim]) -> str:
        """An input of the call; asking again for the same name gives the same input."""
        if name not in self._inputs:
            self._inputs[name] = helper.make_tensor_value_info(name, _element_type(dtype), list(shape))
        return name

    def output(self, name: str, shape: Sequence[Dim]) -> None:
        """Declares a tensor to be the graph's output; comes before any state in the session's list."""
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
        self._outputs = {name: info} | self._outputs

    def state(self, name: str, dtype: type, shape: Sequence[Dim]) -> tuple[str, str]:
        """A tensor kept from call to call: its name before the call and after; a runner binds both to the same memory."""
        after = f"{name}.next"
        self.input(name, dtype, shape)
        self._outputs[after] = helper.make_tensor_value_info(after, _element_type(dtype), list(shape))
        self._states[name] = after
        return name, after

    def wanted(self) -> str:
        """The tokens of a run that are to have an output, counted from its end by negative numbers; none is allowed."""
        return self.input(WANTED, np.int64, (WANTED,))

    def rope(self, head_dim: int, theta: float) -> tuple[str, str]:
        """Tables of cosines and sines (positions, head_dim / 2), once for each pair of head_dim and theta.

        They are inputs, filled by the runner for as many positions as its capacity needs: tables for 128k positions would
        weigh more than most operators.
        """
        cos, sin = (self._rope_table(kind, head_dim, theta) for kind in ("cos", "sin"))
        return cos, sin

    def _rope_table(self, kind: str, head_dim: int, theta: float) -> str:
        name = self.input(f"rope_{kind}_{head_dim}_{theta:g}", np.float32, (POSITIONS, head_dim // 2))
        self._rope[name] = (kind, head_dim, theta)
        return name

    def node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], *, domain: str = "", **attributes: Any
    ) -> str:
        """Adds a node and returns its first output; an optional input that is left out is ""."""
        name = f"{outputs[0]}/{op}"
        self._nodes.append(helper.make_node(op, list(inputs), list(outputs), name=name, domain=domain, **attributes))
        return outputs[0]

    def constant(self, name: str, array: Array) -> str:
        """A small constant that is no weight, such as a shape; it is part of the model's own file."""
        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def vector(self, name: str, array: Array) -> str:
        """A small weight that stays in fp32 and unvaried: a norm's scales, a depthwise kernel."""
        self.effective[name] = array
        self._initializers[name] = _Initializer(array, None)
        return name

    def matrix(self, name: str, array: Array) -> str:
        """A large fp32 weight as it is; the same array under another name is stored once."""
        for known, item in self._initializers.items():
            if item.array is array:
                return known
        self.effective[name] = array
        self._initializers[name] = _Initializer(array, "float")
        return name

    def quantized(self, name: str, array_NK: Array) -> tuple[str, str]:
        """A matrix (out, in) in 4 bits: names of its packed values (N, blocks, 16) and scales (N, blocks)."""
        packed, scales = quantize_rows(array_NK)
        self.effective[name] = dequantize_rows(packed, scales, array_NK.shape[1])
        self._initializers[f"{name}.packed"] = _Initializer(packed, "packed")
        self._initializers[f"{name}.scales"] = _Initializer(scales, None)
        return f"{name}.packed", f"{name}.scales"

    def quantized_table(self, name: str, table: Array) -> tuple[str, str]:
        """A table of rows in 4 bits as GatherBlockQuantized wants it: packed values (rows, columns / 2), and scales."""
        packed, scales = self.quantized(name, table)
        rows = self._initializers[packed].array.reshape(len(table), -1)
        self._initializers[packed].array = rows[:, : table.shape[1] // 2]
        return packed, scales

    def linear(self, x: str, name: str, weight: Array) -> str:
        """``x`` times the transpose of ``weight`` (out, in), in the graph's dtype."""
        y = f"{name}.y"
        if self.dtype == "fp32":
            inputs = [x, self.matrix(name, weight)]
            return self.node("FusedMatMul", inputs, [y], domain=MICROSOFT, transB=1)
        n, k = weight.shape
        inputs = [x, *self.quantized(name, weight)]
        bits = {"bits": 4, "block_size": QUANT_GROUP, "accuracy_level": _INT8_ACTIVATIONS}
        return self.node("MatMulNBits", inputs, [y], domain=MICROSOFT, N=n, K=k, **bits)

    def rms_norm(self, x: str, name: str, scale: Array, eps: float) -> str:
        """RMSNorm over the last axis, as the fused operator.

        The operator that also adds two inputs first, SkipSimplifiedLayerNormalization, gains nothing on the CPU over Add and
        this one: 0 to 3 % slower in decode of eight blocks of d_model 512 (onnxruntime 1.32, which fuses neither by itself).
        """
        inputs = [x, self.vector(name, scale)]
        return self.node("SimplifiedLayerNormalization", inputs, [f"{name}.y"], axis=-1, epsilon=float(eps))

    def save(self, folder: Path) -> GraphFiles:
        """Writes the model and its weights' file."""
        inputs, outputs = list(self._inputs.values()), list(self._outputs.values())
        graph = helper.make_graph(self._nodes, "edgeprof", inputs, outputs, list(self._constants.values()))
        fresh, offset, weight_bytes = [], 0, 0
        with (folder / WEIGHTS_FILE).open("wb") as file:
            for name, item in self._initializers.items():
                array = np.ascontiguousarray(item.array)
                offset += -offset % _ALIGNMENT
                file.seek(offset)
                array.tofile(file)
                graph.initializer.append(_external(name, array, offset))
                fresh += _fresh_ranges(item, offset)
                offset += array.nbytes
                weight_bytes += array.nbytes
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="edgeprof")
        told = {"states": self._states, "rope": self._rope, "tokens_per_run": self.tokens_per_run}
        helper.set_model_props(model, {key: json.dumps(value) for key, value in told.items()})
        onnx.save(model, folder / MODEL_FILE)
        return GraphFiles({"model": MODEL_FILE, "weights": WEIGHTS_FILE}, weight_bytes, fresh)


def operator_graph(operator: OperatorSpec, emit: Emit, weights: Weights, *, dtype: str, kv_dtype: str) -> Graph:
    """The graph of one operator's form: ``x`` in, its output and states out."""
    graph = Graph(dtype=dtype, kv_dtype=kv_dtype)
    if operator.takes_tokens:
        x = graph.input("x", np.int64, (BATCH, TOKENS))
    else:
        x = graph.input("x", np.float32, (BATCH, TOKENS, operator.width()))
    y = emit(graph, operator, weights, x, "")
    tokens = TOKENS if operator.output_tokens(2) == 2 else WANTED
    graph.output(y, (BATCH, tokens, operator.output_width()))
    return graph


def quantize_rows(array_NK: Array) -> tuple[Array, Array]:
    """Symmetric 4-bit values in blocks along a row: packed (N, blocks, 16), low nibble first, and scales (N, blocks)."""
    packed, scales, _ = _quantizer().qbits_block_quant(np.ascontiguousarray(array_NK.T))
    return packed, scales.reshape(packed.shape[:2])


def dequantize_rows(packed: Array, scales: Array, columns: int) -> Array:
    """The values that packed 4-bit rows stand for, (N, columns); the zero point is 8.

    Source: the description of MatMulNBits in ONNX Runtime's contrib operators.
    """
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*scales.shape, -1)
    values = (nibbles.astype(np.float32) - 8) * scales[..., None]
    return np.ascontiguousarray(values.reshape(len(packed), -1)[:, :columns])


@lru_cache(maxsize=1)
def _quantizer() -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer

    return DefaultWeightOnlyQuantizer(DefaultWeightOnlyQuantConfig(block_size=QUANT_GROUP, is_symmetric=True, bits=4))


def _element_type(dtype: type) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _external(name: str, array: Array, offset: int) -> TensorProto:
    tensor = TensorProto(name=name, dims=array.shape, data_type=_element_type(array.dtype.type))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_FILE), ("offset", str(offset)), ("length", str(array.nbytes))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def _fresh_ranges(item: _Initializer, offset: int) -> list[FreshRange]:
    if item.fresh is None:
        return []
    stride = item.array.itemsize if item.fresh == "float" else 1
    return [FreshRange(file=WEIGHTS_FILE, offset=offset, length=item.array.nbytes, stride=stride)]
