"""The GeGLU feed-forward in ONNX."""

from edgeprof.operators.arrays import Weights
from edgeprof.operators.geglu.spec import GegluSpec
from edgeprof.operators.onnx_graph import Graph
from edgeprof.operators.swiglu.onnx import gated


def emit(graph: Graph, spec: GegluSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """``x`` (batch, tokens, D) through gate, up and down; FastGelu takes the same time (docs/forms-onnxruntime.md)."""

    def gelu(gate: str, active: str) -> str:
        return graph.node("Gelu", [gate], [active], approximate="tanh")

    return gated(graph, weights, x, prefix, gelu)
