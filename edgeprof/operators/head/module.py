"""The language-model head as deployed in torch."""

from torch import Tensor
from torch.nn import functional as F

from edgeprof.operators.head.spec import HeadSpec
from edgeprof.operators.module import OperatorModule, Packed, State, rms_norm


class Head(OperatorModule):
    """Final norm and projection."""

    spec: HeadSpec
    norm: Tensor
    w_vocab: Tensor

    def forward(self, x_BTD: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Hidden states (B, T, D) to logits (B, T, V)."""
        return F.linear(rms_norm(x_BTD, self.norm, self.spec.eps), self.w_vocab)
