"""The GeGLU feed-forward as deployed in torch."""

from torch import Tensor
from torch.nn import functional as F

from edgeprof.operators.swiglu.module import Swiglu


class Geglu(Swiglu):
    """Gate, up and down projections."""

    def activate(self, gate_BTF: Tensor) -> Tensor:
        """Gelu in its tanh approximation."""
        return F.gelu(gate_BTF, approximate="tanh")
