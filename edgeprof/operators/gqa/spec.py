"""What grouped-query attention costs."""

from dataclasses import dataclass
from typing import ClassVar

from edgeprof.operators.base import NORM_EPSILON, OperatorSpec, Weight, cache_bytes, check_heads, implied, linear_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class GqaSpec(OperatorSpec):
    """Causal grouped-query attention with RoPE and optional QK-norm; n_kv_heads = n_heads is MHA, 1 is MQA.

    Sources: GQA, arXiv 2305.13245; RoPE, arXiv 2104.09864 (halves rotated, as in Llama and LFM2); QK-norm is an RMSNorm over
    each head's queries and keys before RoPE.
    """

    name: ClassVar[str] = "gqa"
    meaning: ClassVar[str] = "grouped-query attention over the whole context"
    module: ClassVar[str] = "edgeprof.operators.gqa.module:Gqa"
    reference: ClassVar[str] = "edgeprof.operators.gqa.reference:gqa"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.operators.gqa.onnx:emit",
        "executorch": "edgeprof.operators.gqa.executorch:GqaForm",
    }

    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    qk_norm: bool = True
    rope_theta: float = 1e6
    eps: float = implied(NORM_EPSILON)

    def weights(self) -> dict[str, Weight]:
        """Projections of queries, keys, values and output, and the QK-norm's scales."""
        return attention_weights(self.d_model, self.n_heads, self.n_kv_heads, self.head_dim, self.qk_norm)

    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """Projections, and scores and weighted sum over each query's own context (norms, RoPE, softmax left out)."""
        pairs = sum_of_contexts(q_len, kv_len, window=None)
        projections = sum(w.size for w in self.weights().values() if w.kind == "linear")
        return linear_flops(batch * q_len, projections) + 4 * batch * pairs * self.n_heads * self.head_dim

    def state_bytes(self, *, batch: int, kv_len: int, kv_dtype: str) -> int:
        """Keys and values of every token so far, (2, batch, n_kv_heads, kv_len, head_dim): grows with kv_len."""
        return cache_bytes(
            batch=batch, rows=kv_len, n_kv_heads=self.n_kv_heads, head_dim=self.head_dim, kv_dtype=kv_dtype
        )

    def state_bytes_moved(self, *, batch: int, q_len: int, kv_len: int, kv_dtype: str) -> int:
        """The past is read once, the new rows are written once."""
        return self.state_bytes(batch=batch, kv_len=kv_len, kv_dtype=kv_dtype)

    def state_rows(self, capacity: int) -> int:
        """One row a token."""
        return capacity

    def check(self) -> None:
        """Checks sizes and heads."""
        OperatorSpec.check(self)
        check_heads(self)


def attention_weights(d_model: int, n_heads: int, n_kv_heads: int, head_dim: int, qk_norm: bool) -> dict[str, Weight]:
    """The weights of an attention layer by name."""
    weights = {
        "w_q": Weight(shape=(n_heads * head_dim, d_model)),
        "w_k": Weight(shape=(n_kv_heads * head_dim, d_model)),
        "w_v": Weight(shape=(n_kv_heads * head_dim, d_model)),
        "w_o": Weight(shape=(d_model, n_heads * head_dim)),
    }
    if qk_norm:
        scale = Weight(shape=(head_dim,), kind="vector")
        weights |= {"q_norm": scale, "k_norm": scale}
    return weights


def sum_of_contexts(q_len: int, kv_len: int, window: int | None) -> int:
    """Query-key pairs of a causal call: the sum over its queries of the tokens each one sees."""
    past = kv_len - q_len
    limit = kv_len if window is None else window
    growing = max(0, min(q_len, limit - past))  # queries that still see their whole past
    return growing * past + growing * (growing + 1) // 2 + (q_len - growing) * limit
