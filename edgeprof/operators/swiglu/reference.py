"""The naive truth of the SwiGLU feed-forward."""

import torch
from torch import Tensor

from edgeprof.operators.swiglu.spec import SwigluSpec


def swiglu(spec: SwigluSpec, weights: dict[str, Tensor], x: Tensor, start: int) -> Tensor:
    """``(silu(x W_gate) * (x W_up)) W_down``, with silu(a) = a / (1 + exp(-a)); (B, T, D) to (B, T, D)."""
    gate = x @ weights["w_gate"].T
    return (gate / (1 + torch.exp(-gate)) * (x @ weights["w_up"].T)) @ weights["w_down"].T
