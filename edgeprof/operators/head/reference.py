"""The naive truth of the language-model head."""

from torch import Tensor

from edgeprof.operators.head.spec import HeadSpec


def head(spec: HeadSpec, weights: dict[str, Tensor], x: Tensor, start: int) -> Tensor:
    """RMSNorm and projection, (B, T, D) to (B, T, V)."""
    normed = x / ((x * x).sum(-1, keepdim=True) / spec.d_model + spec.eps) ** 0.5 * weights["norm"]
    return normed @ weights["w_vocab"].T
