"""The token embedding as deployed in torch."""

from torch import Tensor
from torch.nn import functional as F

from edgeprof.operators.embedding.spec import EmbeddingSpec
from edgeprof.operators.module import OperatorModule, Packed, State


class Embedding(OperatorModule):
    """Looks rows up, and scales them where the model does."""

    spec: EmbeddingSpec
    table: Tensor

    def forward(self, x_BT: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Token ids (B, T) to rows (B, T, D)."""
        rows = F.embedding(x_BT, self.table)
        return rows if self.spec.scale == 1 else rows * self.spec.scale
