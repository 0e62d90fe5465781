"""The naive truth of RMSNorm."""

from torch import Tensor

from edgeprof.operators.rms_norm.spec import RmsNormSpec


def rms_norm(spec: RmsNormSpec, weights: dict[str, Tensor], x: Tensor, start: int) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * scale`` over the last axis, (B, T, D) to (B, T, D)."""
    return x / ((x * x).sum(-1, keepdim=True) / spec.d_model + spec.eps) ** 0.5 * weights["norm"]
