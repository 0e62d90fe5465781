"""Sliding-window attention in ONNX."""

from edgeprof.operators.arrays import Weights
from edgeprof.operators.gqa.onnx import attention
from edgeprof.operators.onnx_graph import Graph
from edgeprof.operators.swa.spec import SwaSpec


def emit(graph: Graph, spec: SwaSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """``x`` (batch, tokens, D) attending to a cache of its own size, from which the operator drops what left the window."""
    window = {"local_window_size": spec.window, "sliding_window_cache": 1}
    return attention(graph, spec, weights, x, prefix, rows=cache_rows(spec.window), **window)


def cache_rows(window: int) -> int:
    """Rows of the cache: the window and about a sixteenth more, which saves moving the cache at every token.

    A cache of C rows is moved down by G = C - window + 1 rows whenever it is full: when G divides T - window, with T tokens
    so far. In between rows only fill up, so that a step repeated at a fixed T is a typical one, and leaves out 1/G of a
    move (0.4 to 1 % of a step, docs/forms-onnxruntime.md). G is a prime, so that it does not divide the round lengths which are
    measured.

    Source: L(T) in the description of GroupQueryAttention, "Windowed KV Cache", ONNX Runtime 1.32's contrib operators.
    """
    return window + _largest_prime(window // 16) - 1


def _largest_prime(limit: int) -> int:
    """The largest prime up to ``limit``, or 1 if there is none."""
    return next((n for n in range(limit, 1, -1) if all(n % d for d in range(2, int(n**0.5) + 1))), 1)
