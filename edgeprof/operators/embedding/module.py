"""The token embedding as deployed in torch."""

from torch import Tensor
from torch.nn import functional as F

from edgeprof.operators.module import OperatorModule, State


class Embedding(OperatorModule):
    """Looks rows up."""

    table: Tensor

    def forward(self, x_BT: Tensor, state: State, pos: int) -> Tensor:
        """Token ids (B, T) to rows (B, T, D)."""
        return F.embedding(x_BT, self.table)
