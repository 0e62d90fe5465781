"""What sliding-window attention costs."""

import math
from dataclasses import dataclass
from typing import ClassVar

from edgeprof.operators.base import NORM_EPSILON, OperatorSpec, Weight, cache_bytes, check_heads, implied, linear_flops
from edgeprof.operators.gqa.spec import attention_weights, sum_of_contexts


@dataclass(frozen=True, slots=True, kw_only=True)
class SwaSpec(OperatorSpec):
    """Grouped-query attention over the last ``window`` tokens (the current one included), with RoPE and optional QK-norm.

    Source: Mistral 7B, arXiv 2310.06825, section 2 (rolling buffer cache); Gemma 3 interleaves it with full attention.
    """

    name: ClassVar[str] = "swa"
    meaning: ClassVar[str] = "sliding-window attention"
    module: ClassVar[str] = "edgeprof.operators.swa.module:Swa"
    reference: ClassVar[str] = "edgeprof.operators.swa.reference:swa"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.operators.swa.onnx:emit",
        "executorch": "edgeprof.operators.swa.executorch:SwaForm",
    }

    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    window: int
    qk_norm: bool = True
    rope_theta: float = 1e6
    eps: float = implied(NORM_EPSILON)

    def weights(self) -> dict[str, Weight]:
        """Projections of queries, keys, values and output, and the QK-norm's scales."""
        return attention_weights(self.d_model, self.n_heads, self.n_kv_heads, self.head_dim, self.qk_norm)

    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """Projections, and scores and weighted sum over each query's own window (norms, RoPE, softmax left out)."""
        pairs = sum_of_contexts(q_len, kv_len, window=self.window)
        projections = sum(w.size for w in self.weights().values() if w.kind == "linear")
        return linear_flops(batch * q_len, projections) + 4 * batch * pairs * self.n_heads * self.head_dim

    def state_bytes(self, *, batch: int, kv_len: int, kv_dtype: str) -> int:
        """Keys and values of the last ``window`` tokens: stops growing at the window."""
        rows = min(kv_len, self.window)
        return cache_bytes(
            batch=batch, rows=rows, n_kv_heads=self.n_kv_heads, head_dim=self.head_dim, kv_dtype=kv_dtype
        )

    def state_bytes_moved(self, *, batch: int, q_len: int, kv_len: int, kv_dtype: str) -> int:
        """The window before the call is read once; of the new rows at most a window is written."""
        rows = min(kv_len - q_len, self.window - 1) + min(q_len, self.window)
        return cache_bytes(
            batch=batch, rows=rows, n_kv_heads=self.n_kv_heads, head_dim=self.head_dim, kv_dtype=kv_dtype
        )

    def state_rows(self, capacity: int) -> int:
        """A window, however long the context."""
        return self.window

    def gate_calls(self, q_len: int) -> int:
        """Enough calls to fill the window and wrap around it."""
        return max(4, math.ceil((self.window + 16) / q_len))

    def check(self) -> None:
        """Checks sizes and heads."""
        OperatorSpec.check(self)
        check_heads(self)
