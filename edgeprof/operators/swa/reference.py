"""The naive truth of sliding-window attention."""

from torch import Tensor

from edgeprof.operators.gqa.reference import attention
from edgeprof.operators.swa.spec import SwaSpec


def swa(spec: SwaSpec, weights: dict[str, Tensor], x: Tensor, start: int) -> Tensor:
    """Outputs (B, T, D) for tokens at positions ``start`` and on, after ``start`` tokens whose keys and values are zero."""
    return attention(spec, weights, x, start, window=spec.window)
