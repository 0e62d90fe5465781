"""What the ExecuTorch forms of all operators share: canonical weights, inputs by name, and chaining.

A form is the operator written so that XNNPACK takes as much of it as possible. Its state lives in mutable buffers of the
.pte; what else a call needs besides ``x`` (rows, masks, cosines) comes in as inputs that ``inputs`` computes as plain arrays
from the spec, the call's shape and its position: no arithmetic on positions happens inside the graph, and forms with the
same needs share inputs by their names, so that a model is a chain of forms.

Shape suffixes: B batch, T tokens of this call, D d_model, H query heads, K KV heads, G = H / K, E head_dim, R cached rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeprof.core.types import ArtifactSpec
from edgeprof.operators.arrays import Array
from edgeprof.operators.attribute import form
from edgeprof.operators.base import OperatorSpec

MOST_DECODE_TOKENS = 8
"""Calls onto a past with more tokens than this are a chunk of a prefill and take its form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallShape:
    """The shape that a form is built for; ``capacity`` counts tokens of context."""

    batch: int
    q_len: int
    capacity: int
    has_past: bool

    @property
    def is_decode(self) -> bool:
        """Whether it is a decode step: a few tokens onto a past."""
        return self.has_past and self.q_len <= MOST_DECODE_TOKENS


def call_shape(spec: ArtifactSpec) -> CallShape:
    """The shape that an artifact's form is built for."""
    return CallShape(batch=spec.batch, q_len=spec.q_len, capacity=spec.capacity, has_past=spec.has_past)


class Form(nn.Module):
    """An operator for ExecuTorch: ``nn.Linear`` for each matrix (what quantisation finds), parameters for the rest."""

    def __init__(self, spec: OperatorSpec, shape: CallShape) -> None:
        super().__init__()
        self.spec = spec
        self.shape = shape
        for name, weight in spec.weights().items():
            if weight.kind == "linear":
                rows, columns = weight.shape
                self.add_module(name, nn.Linear(columns, rows, bias=False, device="meta"))
            else:
                self.register_parameter(
                    name, nn.Parameter(torch.empty(weight.shape, device="meta"), requires_grad=False)
                )

    def load(self, weights: dict[str, Tensor]) -> None:
        """Takes the canonical weights."""
        for name, value in weights.items():
            layer = getattr(self, name)
            owner, attribute = (layer, "weight") if isinstance(layer, nn.Linear) else (self, name)
            owner.register_parameter(attribute, nn.Parameter(value, requires_grad=False))

    @classmethod
    def inputs(cls, spec: Any, shape: CallShape, pos: int) -> dict[str, Array]:
        """The inputs besides ``x`` of a call whose first token has position ``pos``, by name."""
        return {}

    def forward(self, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Runs one call: (B, T, D) or token ids (B, T) to (B, T, D) or logits (B, T, V)."""
        raise NotImplementedError


class Chain(nn.Module):
    """Forms called one after another: an operator alone, a block, or a whole model in one .pte."""

    def __init__(self, forms: Sequence[Form], names: Sequence[str]) -> None:
        super().__init__()
        self.forms = nn.ModuleList(forms)
        self.names = tuple(names)

    def forward(self, x: Tensor, *inputs: Tensor) -> Tensor:
        """Runs the forms in order; ``inputs`` are those named ``names``."""
        shared = dict(zip(self.names, inputs, strict=True))
        for f in self.forms:
            x = f(x, shared)
        return x


def chain_inputs(specs: Sequence[OperatorSpec], shape: CallShape, pos: int) -> dict[str, Array]:
    """The inputs besides ``x`` of a chain of operators: what they need, each once, in the order of first use."""
    arrays: dict[str, Array] = {}
    for spec in specs:
        arrays |= form(spec, "executorch").inputs(spec, shape, pos)
    return arrays


def norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis."""
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * scale


def rope_inputs(head_dim: int, theta: float, pos: int, q_len: int) -> dict[str, Array]:
    """Cosines and sines (T, 1, E) for positions ``pos`` and on, computed in double precision."""
    inverse = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    angle = np.outer(np.arange(pos, pos + q_len, dtype=np.float64), inverse)
    angle = np.concatenate([angle, angle], -1)[:, None]
    cos, sin = rope_names(head_dim, theta)
    return {cos: np.cos(angle).astype(np.float32), sin: np.sin(angle).astype(np.float32)}


def rope_names(head_dim: int, theta: float) -> tuple[str, str]:
    """The names under which forms share cosines and sines."""
    return f"cos_{head_dim}_{theta:g}", f"sin_{head_dim}_{theta:g}"


def rotate(x_BTNE: Tensor, cos_T1E: Tensor, sin_T1E: Tensor) -> Tensor:
    """Applies RoPE to heads laid out (B, T, heads, E)."""
    half = x_BTNE.shape[-1] // 2
    swapped = torch.cat([-x_BTNE[..., half:], x_BTNE[..., :half]], -1)
    return x_BTNE * cos_T1E + swapped * sin_T1E
