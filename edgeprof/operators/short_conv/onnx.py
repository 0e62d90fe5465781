"""The gated short convolution in ONNX."""

import numpy as np

from edgeprof.operators.arrays import Weights
from edgeprof.operators.onnx_graph import BATCH, MICROSOFT, Graph
from edgeprof.operators.short_conv.spec import ShortConvSpec


def emit(graph: Graph, spec: ShortConvSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """``x`` (batch, tokens, D) through one packed projection, the fused stateful convolution, and the output projection."""
    b, c, h = (graph.linear(x, f"{prefix}{name}", weights[name]) for name in ("w_b", "w_c", "w_h"))
    gated = graph.node("Mul", [b, h], [f"{prefix}gated"])
    mixed = graph.node("Mul", [c, _convolve(graph, spec, weights, gated, prefix)], [f"{prefix}mixed"])
    return graph.linear(mixed, f"{prefix}w_out", weights["w_out"])


def _convolve(graph: Graph, spec: ShortConvSpec, weights: Weights, gated: str, prefix: str) -> str:
    """The convolution over (batch, D, tokens): between two transposes it is faster than with ``channels_last``."""
    kernel, conv = f"{prefix}kernel", f"{prefix}conv"
    if spec.kernel_size == 1:
        return graph.node("Mul", [gated, graph.vector(kernel, weights["kernel"])], [conv])
    graph.vector(kernel, np.ascontiguousarray(weights["kernel"].T[:, None]))
    graph.effective[kernel] = weights["kernel"]
    past, present = graph.state(f"{prefix}past", np.float32, (BATCH, spec.d_model, spec.kernel_size - 1))
    by_channel = graph.node("Transpose", [gated], [f"{prefix}by_channel"], perm=[0, 2, 1])
    inputs = [by_channel, kernel, "", past]
    mixed = graph.node("CausalConvWithState", inputs, [f"{prefix}mixed_by_channel", present], domain=MICROSOFT)
    return graph.node("Transpose", [mixed], [conv], perm=[0, 2, 1])
