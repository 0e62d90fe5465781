"""The token embedding for ExecuTorch."""

from torch import Tensor
from torch.nn import functional as F

from edgeprof.operators.executorch_form import Form


class EmbeddingForm(Form):
    """One row look-up; XNNPACK has none, so ExecuTorch's own kernel runs it."""

    table: Tensor

    def forward(self, x_BT: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Token ids (B, T) to rows (B, T, D)."""
        return F.embedding(x_BT, self.table)
