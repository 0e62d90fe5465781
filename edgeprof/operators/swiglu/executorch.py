"""The SwiGLU feed-forward for ExecuTorch."""

from torch import Tensor, nn
from torch.nn import functional as F

from edgeprof.operators.executorch_form import Form


class SwigluForm(Form):
    """Gate, up and down projections: one delegate. Other gated feed-forwards have another activation."""

    w_gate: nn.Linear
    w_up: nn.Linear
    w_down: nn.Linear

    def forward(self, x_BTD: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Runs T tokens; stateless."""
        y: Tensor = self.w_down(self.activate(self.w_gate(x_BTD)) * self.w_up(x_BTD))
        return y

    def activate(self, gate_BTF: Tensor) -> Tensor:
        """The gate's activation."""
        return F.silu(gate_BTF)
