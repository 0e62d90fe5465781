"""The token embedding in ONNX."""

import numpy as np

from edgeprof.core.dtypes import QUANT_GROUP
from edgeprof.operators.arrays import Weights
from edgeprof.operators.embedding.spec import EmbeddingSpec
from edgeprof.operators.onnx_graph import MICROSOFT, Graph


def emit(graph: Graph, spec: EmbeddingSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """Rows (batch, tokens, D) of token ids ``x`` (batch, tokens), scaled where the model does."""
    row = _row(graph, weights, x, prefix)
    if spec.scale == 1:
        return row
    scale = graph.constant(f"{prefix}scale", np.array(spec.scale, np.float32))
    return graph.node("Mul", [row, scale], [f"{prefix}scaled"])


def _row(graph: Graph, weights: Weights, x: str, prefix: str) -> str:
    """Rows as stored; 4-bit ones are dequantised as they are read."""
    name, y = f"{prefix}table", f"{prefix}row"
    if graph.dtype == "fp32":
        return graph.node("Gather", [graph.matrix(name, weights["table"]), x], [y])
    packed, scales = graph.quantized_table(name, weights["table"])
    bits = {"bits": 4, "block_size": QUANT_GROUP, "gather_axis": 0, "quantize_axis": 1}
    return graph.node("GatherBlockQuantized", [packed, x, scales], [y], domain=MICROSOFT, **bits)
