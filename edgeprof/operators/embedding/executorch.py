"""The token embedding for ExecuTorch."""

from torch import Tensor
from torch.nn import functional as F

from edgeprof.operators.embedding.spec import EmbeddingSpec
from edgeprof.operators.executorch_form import Form


class EmbeddingForm(Form):
    """One row look-up; XNNPACK has none, so ExecuTorch's own kernel runs it."""

    spec: EmbeddingSpec
    table: Tensor

    def forward(self, x_BT: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Token ids (B, T) to rows (B, T, D)."""
        rows = F.embedding(x_BT, self.table)
        return rows if self.spec.scale == 1 else rows * self.spec.scale
