"""What the SwiGLU feed-forward costs."""

from dataclasses import dataclass
from typing import ClassVar

from edgeprof.operators.base import OperatorSpec, Weight, linear_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedSpec(OperatorSpec):
    """Gated feed-forward: ``y = (activation(x W_gate) * (x W_up)) W_down``.

    Source: Shazeer, GLU variants improve transformer, arXiv 2002.05202.
    """

    d_model: int
    d_ff: int

    def weights(self) -> dict[str, Weight]:
        """Gate and up projections (d_ff, d_model), down projection (d_model, d_ff)."""
        up = Weight(shape=(self.d_ff, self.d_model))
        return {"w_gate": up, "w_up": up, "w_down": Weight(shape=(self.d_model, self.d_ff))}

    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """Three projections and the product of gate and up (the activation itself left out)."""
        tokens = batch * q_len
        return linear_flops(tokens, 3 * self.d_ff * self.d_model) + tokens * self.d_ff


@dataclass(frozen=True, slots=True, kw_only=True)
class SwigluSpec(GatedSpec):
    """The gated feed-forward whose activation is silu."""

    name: ClassVar[str] = "swiglu"
    meaning: ClassVar[str] = "SwiGLU feed-forward"
    module: ClassVar[str] = "edgeprof.operators.swiglu.module:Swiglu"
    reference: ClassVar[str] = "edgeprof.operators.swiglu.reference:swiglu"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.operators.swiglu.onnx:emit",
        "executorch": "edgeprof.operators.swiglu.executorch:SwigluForm",
    }
