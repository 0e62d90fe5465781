"""The naive truth of the gated short convolution."""

import torch
from torch import Tensor

from edgeprof.operators.short_conv.spec import ShortConvSpec


def short_conv(spec: ShortConvSpec, weights: dict[str, Tensor], x: Tensor, start: int) -> Tensor:
    """Outputs (B, T, D) for inputs ``x`` (B, T, D) that follow a zero state; ``start`` does not matter here.

    Source: LFM2 technical report, arXiv 2511.23404, section 2; one token and one tap at a time.
    """
    gated = (x @ weights["w_b"].T) * (x @ weights["w_h"].T)
    mixed = torch.zeros_like(x)
    for t in range(x.shape[1]):
        for tap in range(spec.kernel_size):
            source = t - (spec.kernel_size - 1) + tap
            if source >= 0:
                mixed[:, t] += weights["kernel"][tap] * gated[:, source]
    return ((x @ weights["w_c"].T) * mixed) @ weights["w_out"].T
