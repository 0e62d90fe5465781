"""The forms of operators in ONNX that were tried beside the used ones; forms_onnxruntime.py times them."""

from collections.abc import Callable
from functools import partial

import numpy as np

from edgeprof.operators.attribute import form
from edgeprof.operators.geglu.executorch import CUBIC, LINEAR
from edgeprof.operators.gqa.onnx import attention, norm_heads
from edgeprof.operators.onnx_graph import BATCH, MICROSOFT, ROWS, Emit, Graph
from edgeprof.operators.swiglu.onnx import gated

D_MODEL, HEAD_DIM, WINDOW = 1024, 64, 512


def linear_matmul(graph: Graph, x: str, name: str, weight: np.ndarray) -> str:
    return graph.node("MatMul", [x, graph.matrix(name, np.ascontiguousarray(weight.T))], [f"{name}.y"])


def linear_gemm(graph: Graph, x: str, name: str, weight: np.ndarray) -> str:
    rows = graph.node("Reshape", [x, graph.constant(f"{name}.in", np.array([-1, weight.shape[1]]))], [f"{name}.rows"])
    y = graph.node("Gemm", [rows, graph.matrix(name, weight)], [f"{name}.gemm"], transB=1)
    return graph.node("Reshape", [y, graph.constant(f"{name}.out", np.array([1, -1, len(weight)]))], [f"{name}.y"])


def linear_int4(level: int) -> Callable[..., str]:
    def linear(graph: Graph, x: str, name: str, weight: np.ndarray) -> str:
        n, k = weight.shape
        sizes = {"N": n, "K": k, "bits": 4, "block_size": 32, "accuracy_level": level}
        return graph.node("MatMulNBits", [x, *graph.quantized(name, weight)], [f"{name}.y"], domain=MICROSOFT, **sizes)

    return linear


def projections(graph, x, w, names, pack):
    """Projections of ``x``, packed in one product and split, or apart."""
    if not pack:
        return [graph.linear(x, name, w[name]) for name in names]
    y, outputs = graph.linear(x, "packed", np.concatenate([w[name] for name in names])), [f"{n}.part" for n in names]
    graph.node("Split", [y, graph.constant("sizes", np.array([len(w[name]) for name in names]))], outputs, axis=-1)
    return outputs


# swiglu


def swiglu(linear=Graph.linear, activate="quick", pack=False) -> Emit:
    def emit(graph, spec, w, x, prefix):
        if pack:
            gate, up = projections(graph, x, w, ("w_gate", "w_up"), pack)
        else:
            gate, up = (linear(graph, x, name, w[name]) for name in ("w_gate", "w_up"))
        return linear(graph, activations[activate](graph, gate, up), "w_down", w["w_down"])

    return emit


def _quick_gelu(graph, gate, up):
    active = graph.node("QuickGelu", [gate], ["active"], domain=MICROSOFT, alpha=1.0)
    return graph.node("Mul", [active, up], ["hidden"])


def _sigmoid(graph, gate, up):
    active = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], ["sigmoid"])], ["active"])
    return graph.node("Mul", [active, up], ["hidden"])


def _swiglu(graph, gate, up):
    return graph.node("SwiGLU", [gate, up], ["hidden"], domain=MICROSOFT)


activations = {"quick": _quick_gelu, "sigmoid": _sigmoid, "swiglu": _swiglu}


# geglu


def geglu(activate: Callable[[Graph, str, str], str]) -> Emit:
    return lambda graph, spec, w, x, prefix: gated(graph, w, x, prefix, partial(activate, graph))


def fast_gelu(graph: Graph, gate: str, active: str) -> str:
    return graph.node("FastGelu", [gate], [active], domain=MICROSOFT)


def gelu_by_sigmoid(graph: Graph, gate: str, active: str) -> str:
    linear, cubic = (graph.constant(n, np.float32(v)) for n, v in (("linear", LINEAR), ("cubic", CUBIC)))
    square = graph.node("Mul", [gate, gate], ["square"])
    factor = graph.node("Add", [graph.node("Mul", [square, cubic], ["squares"]), linear], ["factor"])
    sigmoid = graph.node("Sigmoid", [graph.node("Mul", [gate, factor], ["argument"])], ["sigmoid"])
    return graph.node("Mul", [gate, sigmoid], [active])


# short_conv


def short_conv(mix, pack=False) -> Emit:
    def emit(graph, spec, w, x, prefix):
        b, c, h = projections(graph, x, w, ("w_b", "w_c", "w_h"), pack)
        y = mix(graph, spec, w["kernel"], graph.node("Mul", [b, h], ["gated"]))
        return graph.linear(graph.node("Mul", [c, y], ["mixed"]), "w_out", w["w_out"])

    return emit


def conv_fused(graph, spec, kernel, gated):
    graph.vector("kernel", np.ascontiguousarray(kernel.T[:, None]))
    past, present = graph.state("gated_past", np.float32, (BATCH, spec.kernel_size - 1, spec.d_model))
    inputs, attributes = [gated, "kernel", "", past], {"ndim": 1, "channels_last": 1}
    return graph.node("CausalConvWithState", inputs, ["conv", present], domain=MICROSOFT, **attributes)


def conv_fused_by_channel(graph, spec, kernel, gated):
    graph.vector("kernel", np.ascontiguousarray(kernel.T[:, None]))
    past, present = graph.state("gated_past", np.float32, (BATCH, spec.d_model, spec.kernel_size - 1))
    turned = graph.node("Transpose", [gated], ["turned"], perm=[0, 2, 1])
    inputs, attributes = [turned, "kernel", "", past], {"ndim": 1}
    y = graph.node("CausalConvWithState", inputs, ["conv", present], domain=MICROSOFT, **attributes)
    return graph.node("Transpose", [y], ["back"], perm=[0, 2, 1])


def _with_past(graph, spec, gated):
    """Past and new gated inputs in a row; the last ones become the state."""
    past, present = graph.state("gated_past", np.float32, (BATCH, spec.kernel_size - 1, spec.d_model))
    rows = graph.node("Concat", [past, gated], ["rows"], axis=1)
    bounds = [graph.constant(n, np.array([v])) for n, v in (("s", 1 - spec.kernel_size), ("e", 2**31), ("a", 1))]
    graph.node("Slice", [rows, *bounds], [present])
    return rows


def conv_sum(graph, spec, kernel, gated):
    """One token only: every tap's product, summed."""
    products = graph.node("Mul", [_with_past(graph, spec, gated), graph.vector("kernel", kernel[None])], ["products"])
    return graph.node("ReduceSum", [products, graph.constant("axis", np.array([1]))], ["conv"], keepdims=1)


def conv_depthwise(graph, spec, kernel, gated):
    turned = graph.node("Transpose", [_with_past(graph, spec, gated)], ["turned"], perm=[0, 2, 1])
    weight = graph.vector("kernel", np.ascontiguousarray(kernel.T[:, None]))
    y = graph.node("Conv", [turned, weight], ["conv"], group=spec.d_model)
    return graph.node("Transpose", [y], ["back"], perm=[0, 2, 1])


def conv_shifted(graph, spec, kernel, gated):
    """A multiply-add a tap over shifted slices."""
    rows = _with_past(graph, spec, gated)
    total, axis = None, graph.constant("axis", np.array([1]))
    for tap in range(spec.kernel_size):
        behind = spec.kernel_size - 1 - tap
        bounds = [
            graph.constant(f"from{tap}", np.array([tap])),
            graph.constant(f"to{tap}", np.array([-behind or 2**31])),
        ]
        part = graph.node("Slice", [rows, *bounds, axis], [f"shifted{tap}"])
        part = graph.node("Mul", [part, graph.vector(f"kernel{tap}", kernel[tap])], [f"product{tap}"])
        total = part if total is None else graph.node("Add", [total, part], [f"sum{tap}"])
    return total


# gqa and swa


def gqa(pack=False, rope_apart=False, norm_inside=False) -> Emit:
    """RoPE may be an operator of its own (one token only: positions are the last one's)."""

    def emit(graph, spec, w, x, prefix):
        q, k, v = projections(graph, x, w, ("w_q", "w_k", "w_v"), pack)
        if norm_inside:
            return _attend(graph, spec, w, (q, k, v), norms=[graph.vector(n, w[n]) for n in ("q_norm", "k_norm")])
        q, k = norm_heads(graph, spec, q, "q_norm", w["q_norm"]), norm_heads(graph, spec, k, "k_norm", w["k_norm"])
        if rope_apart:
            inputs = [_position(graph), *graph.rope(spec.head_dim, spec.rope_theta)]
            q, k = (
                graph.node("RotaryEmbedding", [t, *inputs], [f"{t}.turned"], domain=MICROSOFT, num_heads=heads)
                for t, heads in ((q, spec.n_heads), (k, spec.n_kv_heads))
            )
        return _attend(graph, spec, w, (q, k, v), do_rotary=int(not rope_apart))

    return emit


def int8_cache(graph, spec, w, x, prefix) -> str:
    """The form in use with another format of the cache: not an alternative but another precision."""
    graph.kv_dtype = "int8"
    return form(spec, "onnx")(graph, spec, w, x, prefix)


def _position(graph) -> str:
    last = graph.node("Cast", [graph.input("seqlens_k", np.int32, (BATCH,))], ["last"], to=7)
    return graph.node("Unsqueeze", [last, graph.constant("axis", np.array([1]))], ["position"])


def _attend(graph, spec, w, qkv, do_rotary=1, norms=()) -> str:
    shape = (BATCH, spec.n_kv_heads, ROWS, spec.head_dim)
    (past_k, next_k), (past_v, next_v) = (graph.state(name, np.float32, shape) for name in "kv")
    last, total = graph.input("seqlens_k", np.int32, (BATCH,)), graph.input("total_sequence_length", np.int32, ())
    rope = graph.rope(spec.head_dim, spec.rope_theta) if do_rotary else ()
    heads = {"num_heads": spec.n_heads, "kv_num_heads": spec.n_kv_heads, "do_rotary": do_rotary}
    inputs, outputs = [*qkv, past_k, past_v, last, total, *rope], ["heads", next_k, next_v]
    inputs += [""] * 5 + list(norms) if norms else []
    return graph.linear(graph.node("GroupQueryAttention", inputs, outputs, domain=MICROSOFT, **heads), "w_o", w["w_o"])


def swa_sliding(rows: int) -> Emit:
    def emit(graph, spec, w, x, prefix):
        window = {"local_window_size": spec.window, "sliding_window_cache": 1}
        return attention(graph, spec, w, x, prefix, rows=rows, **window)

    return emit


def swa_flat(graph, spec, w, x, prefix) -> str:
    """The whole context cached, what left the window masked."""
    return attention(graph, spec, w, x, prefix, rows=ROWS, local_window_size=spec.window)


def swa_ring(fused: bool) -> Emit:
    """Position p in row p mod window, one token at a time, once the window is full."""

    def emit(graph, spec, w, x, prefix):
        position, tables = _position(graph), graph.rope(spec.head_dim, spec.rope_theta)

        def heads(name):
            split = graph.constant(f"{name}.split", np.array([0, 0, -1, spec.head_dim]))
            y = graph.node("Reshape", [graph.linear(x, f"w_{name}", w[f"w_{name}"]), split], [f"{name}.split_heads"])
            if name != "v":
                y = graph.rms_norm(y, f"{name}_norm", w[f"{name}_norm"], spec.eps)
            y = graph.node("Transpose", [y], [f"{name}.turned"], perm=[0, 2, 1, 3])
            inputs = [y, position, *tables]
            return y if name == "v" else graph.node("RotaryEmbedding", inputs, [f"{name}.rope"], domain=MICROSOFT)

        heads("q")
        for name in "kv":
            past, present = graph.state(name, np.float32, (BATCH, spec.n_kv_heads, spec.window, spec.head_dim))
            graph.node("TensorScatter", [past, heads(name), "last"], [present], mode="circular", axis=2)
        y = _attend_fused(graph) if fused else _attend_matmul(graph, spec)
        merge = graph.constant("merge", np.array([0, 1, -1]))
        return graph.linear(graph.node("Reshape", [y, merge], ["merged"]), "w_o", w["w_o"])

    return emit


def _attend_fused(graph) -> str:
    return graph.node("Attention", ["q.rope", "k.next", "v.next"], ["attended"])


def _attend_matmul(graph, spec) -> str:
    groups = graph.constant("groups", np.array([0, spec.n_kv_heads, -1, spec.head_dim]))
    q = graph.node("Reshape", ["q.rope", groups], ["grouped"])
    scale = {"transB": 1, "alpha": spec.head_dim**-0.5}
    scores = graph.node("FusedMatMul", [q, "k.next"], ["scores"], domain=MICROSOFT, **scale)
    return graph.node("MatMul", [graph.node("Softmax", [scores], ["weights"], axis=-1), "v.next"], ["attended"])


# norms


def rms_norm_standard(graph, spec, w, x, prefix) -> str:
    return graph.node("RMSNormalization", [x, graph.vector("norm", w["norm"])], ["y"], axis=-1, epsilon=spec.eps)


def rms_norm_primitive(graph, spec, w, x, prefix) -> str:
    square = graph.node("Mul", [x, x], ["square"])
    mean = graph.node("ReduceMean", [square, graph.constant("axis", np.array([-1]))], ["mean"])
    root = graph.node(
        "Sqrt", [graph.node("Add", [mean, graph.constant("eps", np.float32([spec.eps]))], ["shifted"])], ["root"]
    )
    return graph.node("Mul", [graph.node("Div", [x, root], ["unit"]), graph.vector("norm", w["norm"])], ["y"])


FORMS: dict[str, dict[str, Emit]] = {
    "swiglu": {
        "gate and up packed, Split": swiglu(pack=True),
        "Sigmoid and Mul for QuickGelu": swiglu(activate="sigmoid"),
        "SwiGLU for QuickGelu and Mul": swiglu(activate="swiglu"),
        "MatMul over (in, out) weights": swiglu(linear_matmul),
        "Gemm between Reshapes": swiglu(linear_gemm),
        "MatMulNBits, accuracy_level 0": swiglu(linear_int4(0)),
        "MatMulNBits, accuracy_level 1": swiglu(linear_int4(1)),
    },
    "geglu": {"FastGelu for Gelu": geglu(fast_gelu), "Mul, Add and Sigmoid for Gelu": geglu(gelu_by_sigmoid)},
    "short_conv": {
        "projections packed, Split": short_conv(conv_fused_by_channel, pack=True),
        "CausalConvWithState with channels_last": short_conv(conv_fused),
        "Concat, Mul, ReduceSum (one token)": short_conv(conv_sum),
        "Concat, a multiply-add a tap": short_conv(conv_shifted),
        "Concat, Conv with groups": short_conv(conv_depthwise),
    },
    "gqa": {
        "projections packed, Split": gqa(pack=True),
        "without query_seqlens": gqa(),
        "int8 KV cache": int8_cache,
        "QK-norm inside GroupQueryAttention": gqa(norm_inside=True),
        "RotaryEmbedding apart (one token)": gqa(rope_apart=True),
    },
    "swa": {
        f"cache of W = {WINDOW} rows": swa_sliding(WINDOW),
        f"cache of W + W/8 = {WINDOW + WINDOW // 8} rows": swa_sliding(WINDOW + WINDOW // 8),
        f"cache of 2 W = {2 * WINDOW} rows": swa_sliding(2 * WINDOW),
        "flat cache, masked": swa_flat,
        "int8 KV cache": int8_cache,
        "ring, MatMul and Softmax (one token)": swa_ring(fused=False),
        "ring, Attention (one token)": swa_ring(fused=True),
    },
    "rms_norm": {"RMSNormalization": rms_norm_standard, "Mul, ReduceMean, Sqrt, Div, Mul": rms_norm_primitive},
}
