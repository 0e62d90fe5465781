"""The gated short convolution in ONNX."""

import numpy as np

from edgeprof.operators.arrays import Weights
from edgeprof.operators.onnx_graph import BATCH, MICROSOFT, Graph
from edgeprof.operators.short_conv.spec import ShortConvSpec


def emit(graph: Graph, spec: ShortConvSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """``x`` (batch, tokens, D) through three projections, the fused stateful convolution, and the output projection."""
    b, c, h = graph.linears(x, prefix, {name: weights[name] for name in ("w_b", "w_c", "w_h")})
    gated = graph.node("Mul", [b, h], [f"{prefix}gated"])
    mixed = graph.node("Mul", [c, _convolve(graph, spec, weights, gated, prefix)], [f"{prefix}mixed"])
    return graph.linear(mixed, f"{prefix}w_out", weights["w_out"])


def _convolve(graph: Graph, spec: ShortConvSpec, weights: Weights, gated: str, prefix: str) -> str:
    kernel, y = f"{prefix}kernel", f"{prefix}conv"
    if spec.kernel_size == 1:
        return graph.node("Mul", [gated, graph.vector(kernel, weights["kernel"])], [y])
    graph.vector(kernel, np.ascontiguousarray(weights["kernel"].T[:, None]))
    graph.effective[kernel] = weights["kernel"]
    shape = (BATCH, spec.kernel_size - 1, spec.d_model)
    past, present = graph.state(f"{prefix}gated_past", np.float32, shape)
    return graph.node(
        "CausalConvWithState", [gated, kernel, "", past], [y, present], domain=MICROSOFT, ndim=1, channels_last=1
    )
