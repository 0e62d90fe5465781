"""What a block's residual addition costs."""

from dataclasses import dataclass
from typing import ClassVar

from edgeprof.operators.base import OperatorSpec, Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualSpec(OperatorSpec):
    """Residual addition of a block: ``y = x + x`` here, two streams of d_model values in and one out."""

    name: ClassVar[str] = "residual"
    meaning: ClassVar[str] = "residual addition of a block"
    module: ClassVar[str] = "edgeprof.operators.residual.module:Residual"
    reference: ClassVar[str] = "edgeprof.operators.residual.reference:residual"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.operators.residual.onnx:emit",
        "executorch": "edgeprof.operators.residual.executorch:ResidualForm",
    }

    d_model: int

    def weights(self) -> dict[str, Weight]:
        """None."""
        return {}

    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """One addition a value."""
        return batch * q_len * self.d_model
