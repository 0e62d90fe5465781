"""The gated short convolution as deployed in torch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprof.operators.module import OperatorModule, State
from edgeprof.operators.short_conv.spec import ShortConvSpec


class ShortConv(OperatorModule):
    """Keeps the last kernel_size - 1 gated inputs; the convolution is one multiply-add a tap over shifted views.

    Shifted multiply-adds keep the (T, D) layout and beat conv1d, which wants (D, T), by 6 to 18 times (docs/forms-torch.md).
    """

    spec: ShortConvSpec
    w_b: Tensor
    w_c: Tensor
    w_h: Tensor
    kernel: Tensor
    w_out: Tensor

    def init_state(self, batch: int, capacity: int) -> State:
        """The last gated inputs, (B, kernel_size - 1, D)."""
        s = self.spec
        return {"gated": torch.zeros(batch, s.kernel_size - 1, s.d_model, dtype=self.weight_dtype())}

    def forward(self, x_BTD: Tensor, state: State, pos: int) -> Tensor:
        """Runs T tokens; their position does not matter."""
        tokens, taps = x_BTD.shape[1], self.spec.kernel_size
        gated = torch.cat([state["gated"], F.linear(x_BTD, self.w_b) * F.linear(x_BTD, self.w_h)], 1)
        state["gated"].copy_(gated[:, tokens:])
        mixed = gated[:, :tokens] * self.kernel[0]
        for tap in range(1, taps):
            mixed = torch.addcmul(mixed, gated[:, tap : tap + tokens], self.kernel[tap])
        return F.linear(F.linear(x_BTD, self.w_c) * mixed, self.w_out)
