"""The residual addition in ONNX."""

from edgeprof.operators.arrays import Weights
from edgeprof.operators.onnx_graph import Graph
from edgeprof.operators.residual.spec import ResidualSpec


def emit(graph: Graph, spec: ResidualSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """``x + x`` for ``x`` (batch, tokens, D)."""
    return graph.node("Add", [x, x], [f"{prefix}sum"])
