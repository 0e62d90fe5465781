"""The gated short convolution as deployed in torch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprof.operators.module import OperatorModule, Packed, State
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

    def forward(self, x_BTD: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Runs T tokens; their position does not matter."""
        if isinstance(state, Packed):
            return self._packed(x_BTD, state)
        tokens, taps = x_BTD.shape[1], self.spec.kernel_size
        gated = torch.cat([state["gated"], F.linear(x_BTD, self.w_b) * F.linear(x_BTD, self.w_h)], 1)
        state["gated"].copy_(gated[:, tokens:])
        mixed = gated[:, :tokens] * self.kernel[0]
        for tap in range(1, taps):
            mixed = torch.addcmul(mixed, gated[:, tap : tap + tokens], self.kernel[tap])
        return F.linear(F.linear(x_BTD, self.w_c) * mixed, self.w_out)

    def derive(self, x_BTD: Tensor, packed: Packed) -> None:
        """Which tokens each tap may see."""
        for distance in range(1, self.spec.kernel_size):
            packed.same_document(distance)

    def _packed(self, x_BTD: Tensor, packed: Packed) -> Tensor:
        """Whole sequences; what a tap would take from another document is zero, as before the first token."""
        tokens, taps = x_BTD.shape[1], self.spec.kernel_size
        gated = F.pad(F.linear(x_BTD, self.w_b) * F.linear(x_BTD, self.w_h), (0, 0, taps - 1, 0))
        mixed = gated[:, taps - 1 :] * self.kernel[-1]
        for distance in range(1, taps):
            past = gated[:, taps - 1 - distance : taps - 1 - distance + tokens]
            same = packed.same_document(distance)
            mixed = torch.addcmul(mixed, past if same is None else past * same, self.kernel[taps - 1 - distance])
        return F.linear(F.linear(x_BTD, self.w_c) * mixed, self.w_out)
