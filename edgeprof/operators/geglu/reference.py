"""The naive truth of the GeGLU feed-forward."""

import math

import torch
from torch import Tensor

from edgeprof.operators.geglu.spec import GegluSpec


def geglu(spec: GegluSpec, weights: dict[str, Tensor], x: Tensor, start: int) -> Tensor:
    """``(gelu(x W_gate) * (x W_up)) W_down``; (B, T, D) to (B, T, D).

    gelu(a) = a / 2 (1 + tanh(sqrt(2 / pi) (a + 0.044715 a^3))).

    Source: Hendrycks and Gimpel, Gaussian error linear units, arXiv 1606.08415, section 2.
    """
    gate = x @ weights["w_gate"].T
    gelu = gate / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return (gelu * (x @ weights["w_up"].T)) @ weights["w_down"].T
