"""RMSNorm as deployed in torch."""

from torch import Tensor

from edgeprof.operators.module import OperatorModule, Packed, State, rms_norm
from edgeprof.operators.rms_norm.spec import RmsNormSpec


class RmsNorm(OperatorModule):
    """A block's norm."""

    spec: RmsNormSpec
    norm: Tensor

    def forward(self, x_BTD: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Norms each token."""
        return rms_norm(x_BTD, self.norm, self.spec.eps)
