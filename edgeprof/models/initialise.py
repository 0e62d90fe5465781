"""Weights to start training from."""

import zlib
from typing import TYPE_CHECKING

import numpy as np

from edgeprof.operators.arrays import Array
from edgeprof.operators.base import Weight

if TYPE_CHECKING:
    from edgeprof.models.module import Model

BRANCH_ENDS = ("w_o", "w_out", "w_down")
"""The matrices whose outputs are added to the residual stream."""


def initialise(model: "Model", seed: int) -> None:
    """Draws the weights of a model in place and makes them trainable.

    Matrices and the embedding are normal with sd sqrt(2 / (5 fan_in)), which is 0.02 at a width of 1000; those that end a
    branch have theirs divided by sqrt(2 n_layers), so that the residual stream does not grow with depth. Norms are one.
    Convolution kernels are normal with variance 1 / kernel_size, so that gated inputs keep their scale. A weight's values
    depend on the seed, its name and its shape only: layouts that share a weight start with the same.

    Sources: Nguyen and Salazar, Transformers without Tears, arXiv 1910.05895, section 2.2 (SmallInit); Shoeybi et al.,
    Megatron-LM, arXiv 1909.08053, section 4 (0.02, and the branches' scale); LeCun et al., Efficient BackProp, 1998, section
    4.6 (variance 1 / fan-in).
    """
    import torch

    specs = model.spec.weights()
    branch_scale = (2 * len(model.spec.arch.layers)) ** -0.5
    for name, parameter in model.named_parameters():
        scale = branch_scale if name.rsplit(".", 1)[-1] in BRANCH_ENDS else 1.0
        values = _draw(specs[name], np.random.default_rng([seed, zlib.crc32(name.encode())]))
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values * np.float32(scale)))
        parameter.requires_grad_(True)


def _draw(weight: Weight, rng: np.random.Generator) -> Array:
    """Values in fp32: a norm's ones, a kernel (taps first) or a matrix (fan-in last)."""
    if len(weight.shape) == 1:
        return np.ones(weight.shape, np.float32)
    fan_in = weight.shape[0] if weight.kind == "vector" else weight.shape[-1] * 2.5
    return rng.standard_normal(weight.shape, dtype=np.float32) * np.float32(fan_in**-0.5)
