"""The SwiGLU feed-forward as deployed in torch."""

from torch import Tensor
from torch.nn import functional as F

from edgeprof.operators.module import OperatorModule, Packed, State


class Swiglu(OperatorModule):
    """Gate, up and down projections; other gated feed-forwards have another activation."""

    w_gate: Tensor
    w_up: Tensor
    w_down: Tensor

    def forward(self, x_BTD: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Runs T tokens; stateless."""
        return F.linear(self.activate(F.linear(x_BTD, self.w_gate)) * F.linear(x_BTD, self.w_up), self.w_down)

    def activate(self, gate_BTF: Tensor) -> Tensor:
        """The gate's activation."""
        return F.silu(gate_BTF)
