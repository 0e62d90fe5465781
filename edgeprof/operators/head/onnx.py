"""The language-model head in ONNX."""

from edgeprof.operators.arrays import Weights
from edgeprof.operators.head.spec import HeadSpec
from edgeprof.operators.onnx_graph import Graph


def emit(graph: Graph, spec: HeadSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """Logits (batch, tokens, vocab) of ``x`` (batch, tokens, D)."""
    normed = graph.rms_norm(x, f"{prefix}norm", weights["norm"], spec.eps)
    return graph.linear(normed, f"{prefix}w_vocab", weights["w_vocab"])
