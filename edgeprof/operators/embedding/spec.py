"""What the token embedding costs."""

import math
from dataclasses import dataclass
from typing import ClassVar

from edgeprof.core.dtypes import weight_dtype
from edgeprof.operators.base import OperatorSpec, Weight, activation_bytes, implied


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSpec(OperatorSpec):
    """Token embedding: ``scale`` times a row of the table for each token id (Gemma scales by the root of d_model)."""

    name: ClassVar[str] = "embedding"
    meaning: ClassVar[str] = "token embedding (row look-up)"
    takes_tokens: ClassVar[bool] = True
    module: ClassVar[str] = "edgeprof.operators.embedding.module:Embedding"
    reference: ClassVar[str] = "edgeprof.operators.embedding.reference:embedding"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.operators.embedding.onnx:emit",
        "executorch": "edgeprof.operators.embedding.executorch:EmbeddingForm",
    }

    vocab: int
    d_model: int
    scale: float = implied(1.0)

    def weights(self) -> dict[str, Weight]:
        """The table, (vocab, d_model)."""
        return {"table": Weight(shape=(self.vocab, self.d_model), kind="embedding")}

    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """None where rows are copied, one multiplication a value where they are scaled."""
        return 0 if self.scale == 1 else batch * q_len * self.d_model

    def weight_bytes_moved(self, *, batch: int, q_len: int, dtype: str) -> int:
        """Only the rows that are looked up."""
        return math.ceil(batch * q_len * self.d_model * weight_dtype(dtype).embedding_bits / 8)

    def io_bytes(self, *, batch: int, q_len: int, dtype: str) -> int:
        """64-bit token ids in, rows out."""
        return batch * q_len * (8 + self.d_model * activation_bytes(dtype))
