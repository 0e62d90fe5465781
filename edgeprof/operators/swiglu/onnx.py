"""The SwiGLU feed-forward in ONNX."""

from edgeprof.operators.arrays import Weights
from edgeprof.operators.onnx_graph import MICROSOFT, Graph
from edgeprof.operators.swiglu.spec import SwigluSpec


def emit(graph: Graph, spec: SwigluSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """``x`` (batch, tokens, D) through gate, up and down; QuickGelu with alpha 1 is silu."""
    gate, up = (graph.linear(x, f"{prefix}{name}", weights[name]) for name in ("w_gate", "w_up"))
    active = graph.node("QuickGelu", [gate], [f"{prefix}active"], domain=MICROSOFT, alpha=1.0)
    hidden = graph.node("Mul", [active, up], [f"{prefix}hidden"])
    return graph.linear(hidden, f"{prefix}w_down", weights["w_down"])
