"""RMSNorm for ExecuTorch."""

from torch import Tensor

from edgeprof.operators.executorch_form import Form, norm


class RmsNormForm(Form):
    """The norm alone."""

    norm: Tensor

    def forward(self, x_BTD: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Norms each token."""
        return norm(x_BTD, self.norm)
