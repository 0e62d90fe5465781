"""The naive truth of blocks, pairs and models: their operators' own references, one after another."""

import torch
from torch import Tensor

from edgeprof.models.block import BlockSpec
from edgeprof.models.composite import CompositeSpec, part_weights
from edgeprof.models.model import ModelSpec
from edgeprof.operators.attribute import attribute
from edgeprof.operators.base import OperatorSpec

Tensors = dict[str, Tensor]


def composite(spec: CompositeSpec, weights: Tensors, x: Tensor, start: int) -> Tensor:
    """A block's or a pair's outputs (B, T, D), or a model's logits (B, T, V) of every token, in float64.

    ``weights`` may be fp32: each part's are widened when it runs, so that a model's need not fit twice. A tied projection is
    ``head.w_vocab`` where that is given, and the embedding's table otherwise.

    Source: pre-norm residual blocks, arXiv 2002.04745, figure 1 (b); the norms behind mixer and feed-forward are Gemma's.
    """
    if isinstance(spec, BlockSpec):
        return _block(spec, weights, x, start)
    if isinstance(spec, ModelSpec):
        weights = spec.with_projection(weights)
    return _chain(spec, weights, x, start)


def _block(spec: BlockSpec, weights: Tensors, x: Tensor, start: int) -> Tensor:
    for half in ("mixer", "ffn"):
        y = x
        for path in (f"{half}_norm", half, f"{half}_post"):
            if path in spec.parts():
                y = _run(spec.parts()[path], part_weights(weights, path), y, start)
        x = x + y
    return x


def _chain(spec: CompositeSpec, weights: Tensors, x: Tensor, start: int) -> Tensor:
    for path, part in spec.parts().items():
        x = _run(part, part_weights(weights, path), x, start)
    return x


def _run(spec: OperatorSpec, weights: Tensors, x: Tensor, start: int) -> Tensor:
    if not isinstance(spec, CompositeSpec):
        weights = {name: w.to(torch.float64) for name, w in weights.items()}
    y: Tensor = attribute(spec.reference)(spec, weights, x, start)
    return y
