"""Identity in ONNX."""

from edgeprof.operators.arrays import Weights
from edgeprof.operators.identity.spec import IdentitySpec
from edgeprof.operators.onnx_graph import Graph


def emit(graph: Graph, spec: IdentitySpec, weights: Weights, x: str, prefix: str = "") -> str:
    """``x`` (batch, tokens, D), copied."""
    return graph.node("Identity", [x], [f"{prefix}same"])
