"""The naive truth of the residual addition."""

from torch import Tensor

from edgeprof.operators.residual.spec import ResidualSpec


def residual(spec: ResidualSpec, weights: dict[str, Tensor], x: Tensor, start: int) -> Tensor:
    """``2 x``: both streams carry the same values here."""
    return 2 * x
