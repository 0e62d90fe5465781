"""RMSNorm for ExecuTorch."""

from torch import Tensor

from edgeprof.operators.executorch_form import Form, norm
from edgeprof.operators.rms_norm.spec import RmsNormSpec


class RmsNormForm(Form):
    """The norm alone."""

    spec: RmsNormSpec
    norm: Tensor

    def forward(self, x_BTD: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Norms each token."""
        return norm(x_BTD, self.norm, self.spec.eps)
