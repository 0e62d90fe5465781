"""The language-model head for ExecuTorch."""

from torch import Tensor, nn

from edgeprof.operators.executorch_form import Form, norm
from edgeprof.operators.head.spec import HeadSpec


class HeadForm(Form):
    """Final norm and projection."""

    spec: HeadSpec
    norm: Tensor
    w_vocab: nn.Linear

    def forward(self, x_BTD: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Hidden states (B, T, D) to logits (B, T, V)."""
        logits: Tensor = self.w_vocab(norm(x_BTD, self.norm, self.spec.eps))
        return logits
