"""Seeded weights and inputs as numpy arrays: the same bytes for a seed, on every runtime."""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprof.operators.base import OperatorSpec, Weight

Array = NDArray[Any]
Weights = dict[str, Array]


def random_weights(spec: OperatorSpec, seed: int) -> Weights:
    """Weights in fp32 by name, in torch's layouts.

    Matrices are normal with variance 1/fan-in so that activations keep their scale; vectors are 1 plus 30 % noise, so that a
    norm's scale that is dropped or a kernel whose taps are swapped shows.
    """
    return {name: _random(w, seed, name) for name, w in spec.weights().items()}


def _random(weight: Weight, seed: int, name: str) -> Array:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(weight.shape, dtype=np.float32)
    if weight.kind == "vector":
        return 1 + np.float32(0.3) * values
    if weight.kind == "embedding":
        return values
    return values * np.float32(weight.shape[-1] ** -0.5)


def random_input(spec: OperatorSpec, *, batch: int, q_len: int, seed: int) -> Array:
    """A call's input: token ids (batch, q_len) as int64, or hidden states (batch, q_len, width) as fp32."""
    rng = np.random.default_rng([seed, 1])
    if spec.takes_tokens:
        return rng.integers(0, spec.vocab_size(), (batch, q_len))
    return rng.standard_normal((batch, q_len, spec.width()), dtype=np.float32)
