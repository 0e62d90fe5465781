"""RMSNorm in ONNX."""

from edgeprof.operators.arrays import Weights
from edgeprof.operators.onnx_graph import Graph
from edgeprof.operators.rms_norm.spec import RmsNormSpec


def emit(graph: Graph, spec: RmsNormSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """``x`` (batch, tokens, D) normed, by the fused operator."""
    return graph.rms_norm(x, f"{prefix}norm", weights["norm"], spec.eps)
