"""The gated short convolution for ExecuTorch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprof.operators.executorch_form import CallShape, Form
from edgeprof.operators.short_conv.spec import ShortConvSpec


class ShortConvForm(Form):
    """Three projections, the taps as multiply-adds over shifted views, and the last gated inputs as state.

    One in_proj that is split afterwards takes the delegate apart; so does a state in (D, T) layout.
    """

    w_b: nn.Linear
    w_c: nn.Linear
    w_h: nn.Linear
    w_out: nn.Linear
    kernel: Tensor
    gated: Tensor

    def __init__(self, spec: ShortConvSpec, shape: CallShape) -> None:
        super().__init__(spec, shape)
        self.taps = spec.kernel_size
        self.register_buffer("gated", torch.zeros(shape.batch, spec.kernel_size - 1, spec.d_model))

    def forward(self, x_BTD: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Runs T tokens; their position does not matter."""
        return self.mix(self.w_b(x_BTD) * self.w_h(x_BTD), self.w_c(x_BTD))

    def mix(self, new_BTD: Tensor, gate_BTD: Tensor) -> Tensor:
        """Convolves the gated inputs, gates the result and projects it; keeps the last gated inputs."""
        gated = torch.cat([self.gated, new_BTD], 1) if self.shape.has_past else F.pad(new_BTD, (0, 0, self.taps - 1, 0))
        mixed = gated[:, : self.shape.q_len] * self.kernel[None, 0:1]
        for tap in range(1, self.taps):
            mixed = mixed + gated[:, tap : tap + self.shape.q_len] * self.kernel[None, tap : tap + 1]
        y: Tensor = self.w_out(gate_BTD * mixed)
        if self.taps > 1:
            self.gated.copy_(gated[:, self.shape.q_len :])
        return y
