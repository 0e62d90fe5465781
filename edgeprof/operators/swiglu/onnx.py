"""The SwiGLU feed-forward in ONNX."""

from collections.abc import Callable

from edgeprof.operators.arrays import Weights
from edgeprof.operators.onnx_graph import MICROSOFT, Graph
from edgeprof.operators.swiglu.spec import SwigluSpec


def emit(graph: Graph, spec: SwigluSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """``x`` (batch, tokens, D) through gate, up and down; QuickGelu with alpha 1 is silu."""

    def silu(gate: str, active: str) -> str:
        return graph.node("QuickGelu", [gate], [active], domain=MICROSOFT, alpha=1.0)

    return gated(graph, weights, x, prefix, silu)


def gated(graph: Graph, weights: Weights, x: str, prefix: str, activate: Callable[[str, str], str]) -> str:
    """A gated feed-forward; ``activate`` adds the activation, from its input to the output that it is to have."""
    gate, up = (graph.linear(x, f"{prefix}{name}", weights[name]) for name in ("w_gate", "w_up"))
    active = activate(gate, f"{prefix}active")
    hidden = graph.node("Mul", [active, up], [f"{prefix}hidden"])
    return graph.linear(hidden, f"{prefix}w_down", weights["w_down"])
