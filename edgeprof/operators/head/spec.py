"""What the language-model head costs."""

from dataclasses import dataclass
from typing import ClassVar

from edgeprof.operators.base import NORM_EPSILON, OperatorSpec, Weight, activation_bytes, implied, linear_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec(OperatorSpec):
    """Final RMSNorm and the projection onto the vocabulary, for every token it is given.

    With ``tied`` the projection is the embedding's table: it costs the same time and no parameters of its own. A prefill needs
    logits for its last token only: give the head one token then.
    """

    name: ClassVar[str] = "head"
    meaning: ClassVar[str] = "final norm and projection onto the vocabulary"
    module: ClassVar[str] = "edgeprof.operators.head.module:Head"
    reference: ClassVar[str] = "edgeprof.operators.head.reference:head"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.operators.head.onnx:emit",
        "executorch": "edgeprof.operators.head.executorch:HeadForm",
    }

    vocab: int
    d_model: int
    tied: bool = True
    eps: float = implied(NORM_EPSILON)

    def weights(self) -> dict[str, Weight]:
        """The norm's scales and the projection, (vocab, d_model)."""
        return {
            "norm": Weight(shape=(self.d_model,), kind="vector"),
            "w_vocab": Weight(shape=(self.vocab, self.d_model)),
        }

    def params(self) -> int:
        """The norm, and the projection unless it is the embedding's."""
        return self.d_model + (0 if self.tied else self.vocab * self.d_model)

    def output_width(self) -> int:
        """Logits."""
        return self.vocab

    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """The norm (four operations a value) and the projection."""
        tokens = batch * q_len
        return linear_flops(tokens, self.vocab * self.d_model) + 4 * tokens * self.d_model

    def io_bytes(self, *, batch: int, q_len: int, dtype: str) -> int:
        """Hidden state in, logits out."""
        return batch * q_len * (self.d_model + self.vocab) * activation_bytes(dtype)
