"""What a block's norm costs."""

from dataclasses import dataclass
from typing import ClassVar

from edgeprof.operators.base import NORM_EPSILON, OperatorSpec, Weight, implied


@dataclass(frozen=True, slots=True, kw_only=True)
class RmsNormSpec(OperatorSpec):
    """Root-mean-square norm: ``y = x / sqrt(mean(x^2) + eps) * scale``.

    Source: Zhang and Sennrich, arXiv 1910.07467.
    """

    name: ClassVar[str] = "rms_norm"
    meaning: ClassVar[str] = "RMSNorm of a block"
    module: ClassVar[str] = "edgeprof.operators.rms_norm.module:RmsNorm"
    reference: ClassVar[str] = "edgeprof.operators.rms_norm.reference:rms_norm"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.operators.rms_norm.onnx:emit",
        "executorch": "edgeprof.operators.rms_norm.executorch:RmsNormForm",
    }

    d_model: int
    eps: float = implied(NORM_EPSILON)

    def weights(self) -> dict[str, Weight]:
        """The scales."""
        return {"norm": Weight(shape=(self.d_model,), kind="vector")}

    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """Square, sum, divide and scale: four operations a value."""
        return 4 * batch * q_len * self.d_model
