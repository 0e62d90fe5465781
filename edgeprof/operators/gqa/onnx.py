"""Grouped-query attention in ONNX, and what the windowed kind shares with it."""

from typing import Any

import numpy as np

from edgeprof.operators.arrays import Array, Weights
from edgeprof.operators.gqa.spec import GqaSpec
from edgeprof.operators.onnx_graph import BATCH, MICROSOFT, NORM_EPSILON, ROWS, Dim, Graph
from edgeprof.operators.swa.spec import SwaSpec

CALIBRATION_TOKENS = 512
HEADROOM = 1.1
"""How much further than the calibration's largest value an int8 cache's range reaches."""


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
    return graph.node("Reshape", [graph.rms_norm(heads, name, scale), merge], [f"{name}.merged"])


def _scales(graph: Graph, spec: GqaSpec | SwaSpec, prefix: str) -> list[str]:
    """Scales of keys and values, (1, n_kv_heads, 1, head_dim), from the ranges that unit normal inputs produce."""
    x_TD = np.random.default_rng(0).standard_normal((CALIBRATION_TOKENS, spec.d_model), dtype=np.float32)
    k_TKE, v_TKE = (
        (x_TD @ graph.effective[f"{prefix}{name}"].T).reshape(CALIBRATION_TOKENS, spec.n_kv_heads, spec.head_dim)
        for name in ("w_k", "w_v")
    )
    if spec.qk_norm:
        k_TKE = (
            k_TKE / np.sqrt(np.mean(k_TKE**2, -1, keepdims=True) + NORM_EPSILON) * graph.effective[f"{prefix}k_norm"]
        )
    half = spec.head_dim // 2
    pair_TKE = np.hypot(k_TKE[..., :half], k_TKE[..., half:])  # RoPE turns a pair: either value may become this long
    names = []
    for name, values in (("k", np.concatenate([pair_TKE, pair_TKE], -1)), ("v", np.abs(v_TKE))):
        scale = (HEADROOM / 127 * values.max(0)).astype(np.float32)[None, :, None]
        names.append(graph.constant(f"{prefix}{name}_scale", scale))
    return names
