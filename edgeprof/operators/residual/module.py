"""The residual addition as deployed in torch."""

from torch import Tensor

from edgeprof.operators.module import OperatorModule, Packed, State


class Residual(OperatorModule):
    """Adds two streams."""

    def forward(self, x_BTD: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Adds the stream to itself."""
        return x_BTD + x_BTD
