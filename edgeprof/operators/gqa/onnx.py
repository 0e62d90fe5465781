"""Grouped-query attention in ONNX, and what the windowed kind shares with it."""

from typing import Any

import numpy as np

from edgeprof.operators.arrays import Array, Weights
from edgeprof.operators.gqa.spec import GqaSpec
from edgeprof.operators.onnx_graph import BATCH, MICROSOFT, ROWS, Dim, Graph
from edgeprof.operators.swa.spec import SwaSpec

INT8_RANGE = 4.5
"""Standard deviations that an int8 cache's range reaches: one normal value in 150,000 lies beyond and is clipped."""


def emit(graph: Graph, spec: GqaSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """``x`` (batch, tokens, D) attending to a flat cache of ``rows`` tokens, which the runner allocates."""
    return attention(graph, spec, weights, x, prefix, rows=ROWS)


def attention(
    graph: Graph, spec: GqaSpec | SwaSpec, weights: Weights, x: str, prefix: str, *, rows: Dim, **attributes: Any
) -> str:
    """Projections and QK-norm around the fused operator, which rotates, appends to the cache and attends.

    The cache is (batch, n_kv_heads, rows, head_dim), written in place; in int8 with a fixed scale for each channel.
    """
    q, k, v = (graph.linear(x, f"{prefix}{name}", weights[name]) for name in ("w_q", "w_k", "w_v"))
    if spec.qk_norm:
        q = norm_heads(graph, spec, q, f"{prefix}q_norm", weights["q_norm"])
        k = norm_heads(graph, spec, k, f"{prefix}k_norm", weights["k_norm"])
    shape = (BATCH, spec.n_kv_heads, rows, spec.head_dim)
    dtype = np.int8 if graph.kv_dtype == "int8" else np.float32
    past_k, next_k = graph.state(f"{prefix}k", dtype, shape)
    past_v, next_v = graph.state(f"{prefix}v", dtype, shape)
    scales = ["", ""]
    if graph.kv_dtype == "int8":
        scales = _scales(graph, spec, prefix)
        attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    last = graph.input("seqlens_k", np.int32, (BATCH,))
    total = graph.input("total_sequence_length", np.int32, ())
    new = graph.input("query_seqlens", np.int32, (BATCH,))  # allows several tokens at once onto a past of a batch
    rope = graph.rope(spec.head_dim, spec.rope_theta)
    inputs = [q, k, v, past_k, past_v, last, total, *rope, "", "", "", *scales, "", "", new]
    heads = {"num_heads": spec.n_heads, "kv_num_heads": spec.n_kv_heads, "do_rotary": 1}
    outputs = [f"{prefix}heads", next_k, next_v]
    y = graph.node("GroupQueryAttention", inputs, outputs, domain=MICROSOFT, **heads, **attributes)
    return graph.linear(y, f"{prefix}w_o", weights["w_o"])


def norm_heads(graph: Graph, spec: GqaSpec | SwaSpec, x: str, name: str, scale: Array) -> str:
    """``x`` (batch, tokens, heads x head_dim) normed head by head.

    The fused operator has inputs for this norm, but its CPU kernel refuses them (onnxruntime 1.32).
    """
    split = graph.constant(f"{name}.split", np.array([0, 0, -1, spec.head_dim]))
    heads = graph.node("Reshape", [x, split], [f"{name}.heads"])
    merge = graph.constant(f"{name}.merge", np.array([0, 0, -1]))
    return graph.node("Reshape", [graph.rms_norm(heads, name, scale, spec.eps), merge], [f"{name}.merged"])


def _scales(graph: Graph, spec: GqaSpec | SwaSpec, prefix: str) -> list[str]:
    """Scales of keys and values, (1, n_kv_heads, 1, head_dim), for inputs of unit variance as a block's norm makes them.

    A value's standard deviation is then its row's length, or the QK-norm's scale; RoPE turns pairs of values into each other,
    so that both get the wider range.
    """
    k_KE, v_KE = (
        np.linalg.norm(graph.effective[f"{prefix}{name}"], axis=-1).reshape(spec.n_kv_heads, spec.head_dim)
        for name in ("w_k", "w_v")
    )
    if spec.qk_norm:
        k_KE = np.broadcast_to(np.abs(graph.effective[f"{prefix}k_norm"]), k_KE.shape)
    first, second = np.split(k_KE, 2, axis=-1)
    pair_KE = np.maximum(first, second)
    deviations = {"k": np.concatenate([pair_KE, pair_KE], -1), "v": v_KE}
    return [
        graph.constant(f"{prefix}{name}_scale", (INT8_RANGE / 127 * values).astype(np.float32)[None, :, None])
        for name, values in deviations.items()
    ]
