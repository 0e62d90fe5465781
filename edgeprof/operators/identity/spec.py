"""What a call costs that does nothing."""

from dataclasses import dataclass
from typing import ClassVar

from edgeprof.operators.base import OperatorSpec, Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySpec(OperatorSpec):
    """Hands its input on: what remains is the runtime's call boundary, which every ring measures."""

    name: ClassVar[str] = "identity"
    meaning: ClassVar[str] = "nothing: the runtime's call boundary"
    module: ClassVar[str] = "edgeprof.operators.identity.module:Identity"
    reference: ClassVar[str] = "edgeprof.operators.identity.reference:identity"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.operators.identity.onnx:emit",
        "executorch": "edgeprof.operators.identity.executorch:IdentityForm",
    }

    d_model: int

    def weights(self) -> dict[str, Weight]:
        """None."""
        return {}

    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """None."""
        return 0
