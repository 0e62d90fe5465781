"""The naive truth of the gated short convolution."""

import torch
from torch import Tensor

from edgeprof.operators.short_conv.spec import ShortConvSpec


def short_conv(spec: ShortConvSpec, weights: dict[str, Tensor], x: Tensor, start: int) -> Tensor:
    """Outputs (B, T, D) for inputs ``x`` (B, T, D) that follow a zero state; ``start`` does not matter here.

    Source: LFM2 technical report, arXiv 2511.23404, section 2; one token and one tap at a time.
    """
    batch, tokens, _ = x.shape
    outputs = torch.zeros_like(x)
    for b in range(batch):
        gated = [(weights["w_b"] @ x[b, t]) * (weights["w_h"] @ x[b, t]) for t in range(tokens)]
        for t in range(tokens):
            mixed = torch.zeros_like(gated[0])
            for tap in range(spec.kernel_size):
                source = t - (spec.kernel_size - 1) + tap
                if source >= 0:
                    mixed = mixed + weights["kernel"][tap] * gated[source]
            outputs[b, t] = weights["w_out"] @ ((weights["w_c"] @ x[b, t]) * mixed)
    return outputs
