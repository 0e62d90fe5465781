"""How far a student's next-token distribution is from the part of a teacher's that is kept: its K likeliest tokens.

Shape suffixes: N tokens, K kept tokens, V vocab.
"""

from typing import NamedTuple

import torch
from torch import Tensor

TOP_K = 32
"""Tokens kept. Source: LFM2 Technical Report, arXiv 2511.23404: top-K distillation with K = 32."""


class TopK(NamedTuple):
    """A teacher's distributions: log-probabilities (N, K) of its likeliest tokens, their ids (N, K), and that of the rest (N).

    ``log_rest`` is kept beside the others because one minus their sum would be lost to rounding.
    """

    values: Tensor
    indices: Tensor
    log_rest: Tensor


def top_k_divergence(logits_NV: Tensor, teacher: TopK, *, temperature: float = 1.0) -> Tensor:
    """KL divergence of each token (N), in nats, decoupled: of the mass that the top K hold, and within them.

    The first term compares the shares of probability inside and outside of the teacher's top K. The second compares the
    distributions inside, both at ``temperature``; it is weighted by the teacher's mass, and by the temperature's square, so that
    its gradient keeps its scale. At temperature 1 with K = V the sum is the whole KL divergence.

    Source: LFM2 Technical Report, arXiv 2511.23404 (the decoupled top-K objective); Hinton et al., arXiv 1503.02531, section 2
    (the square).
    """
    values_NK, indices_NK, rest_N = (
        teacher.values.to(logits_NV.dtype),
        teacher.indices,
        teacher.log_rest.to(logits_NV.dtype),
    )
    inside_NK = logits_NV.gather(1, indices_NK)
    mass = _mass_divergence(logits_NV, inside_NK, indices_NK, rest_N)
    log_t = torch.log_softmax(values_NK / temperature, -1)
    log_s = torch.log_softmax(inside_NK / temperature, -1)
    within = (log_t.exp() * (log_t - log_s)).sum(-1)
    return mass + _mass(rest_N) * temperature**2 * within


def _mass(log_rest_N: Tensor) -> Tensor:
    """What the kept tokens hold, from the logarithm of what the others do."""
    return -torch.expm1(log_rest_N)


def _mass_divergence(logits_NV: Tensor, inside_NK: Tensor, indices_NK: Tensor, rest_N: Tensor) -> Tensor:
    """KL divergence of the two shares (N); none where no token is left outside."""
    if indices_NK.shape[1] == logits_NV.shape[1]:
        return torch.zeros_like(rest_N)
    least = torch.finfo(logits_NV.dtype).min
    # no subtraction from one: a student that is sure of the top K would lose the rest to rounding
    outside = logits_NV.scatter(1, indices_NK, least).logsumexp(-1)
    inside = inside_NK.logsumexp(-1)
    whole = torch.logaddexp(inside, outside)
    mass, rest = _mass(rest_N), rest_N.exp()
    log_mass = mass.log().clamp(min=least)  # finite, so that a share of zero times its logarithm is zero
    return mass * (log_mass - inside + whole) + rest * (rest_N.clamp(min=least) - outside + whole)
