"""The GeGLU feed-forward for ExecuTorch."""

import math

import torch
from torch import Tensor

from edgeprof.operators.swiglu.executorch import SwigluForm

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * LINEAR


class GegluForm(SwigluForm):
    """Gate, up and down projections: one delegate.

    XNNPACK takes ``F.gelu`` but computes the exact one, whatever ``approximate`` says (ExecuTorch 1.5.1), which costs a token
    2e-4. The tanh approximation is written out, as the sigmoid that it equals: a / 2 (1 + tanh(z)) = a sigmoid(2 z).
    """

    def activate(self, gate_BTF: Tensor) -> Tensor:
        """Gelu in its tanh approximation."""
        return gate_BTF * torch.sigmoid(gate_BTF * (gate_BTF * gate_BTF * CUBIC + LINEAR))
