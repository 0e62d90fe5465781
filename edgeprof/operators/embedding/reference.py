"""The naive truth of the token embedding."""

import torch
from torch import Tensor

from edgeprof.operators.embedding.spec import EmbeddingSpec


def embedding(spec: EmbeddingSpec, weights: dict[str, Tensor], x: Tensor, start: int) -> Tensor:
    """Row ``x[b, t]`` of the table times ``scale`` for each token id, (B, T) to (B, T, D)."""
    rows = [torch.stack([weights["table"][int(token)] for token in sequence]) for sequence in x]
    return spec.scale * torch.stack(rows)
