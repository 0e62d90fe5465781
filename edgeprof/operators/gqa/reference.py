"""The naive truth of grouped-query attention, and of the windowed kind."""

import torch
from torch import Tensor

from edgeprof.operators.gqa.spec import GqaSpec
from edgeprof.operators.swa.spec import SwaSpec

QUERIES_AT_ONCE = 512
"""Bounds the score matrix's memory on long inputs; it does not change the result."""


def gqa(spec: GqaSpec, weights: dict[str, Tensor], x: Tensor, start: int) -> Tensor:
    """Outputs (B, T, D) for tokens at positions ``start`` and on, after ``start`` tokens whose keys and values are zero."""
    return attention(spec, weights, x, start, window=None)


def attention(spec: GqaSpec | SwaSpec, weights: dict[str, Tensor], x: Tensor, start: int, window: int | None) -> Tensor:
    """Softmax attention by its definition: every score computed, the forbidden ones masked out.

    Positions before ``start`` hold zero keys and values and are attended to, as a zeroed cache's rows are.
    """
    tokens = x.shape[1]
    total = start + tokens
    group = spec.n_heads // spec.n_kv_heads
    positions = torch.arange(total)
    heads = []
    for head in range(spec.n_heads):
        query = _head(spec, weights, "q", x, head, start)
        key = _head(spec, weights, "k", x, head // group, start)
        value = x @ weights["w_v"][(head // group) * spec.head_dim : (head // group + 1) * spec.head_dim].T
        past = torch.zeros(x.shape[0], start, spec.head_dim, dtype=x.dtype)
        keys, values = torch.cat([past, key], 1), torch.cat([past, value], 1)
        parts = []
        for begin in range(0, tokens, QUERIES_AT_ONCE):
            rows = positions[start:][begin : begin + QUERIES_AT_ONCE, None]
            visible = positions[None] <= rows
            if window is not None:
                visible = visible & (positions[None] > rows - window)
            scores = query[:, begin : begin + QUERIES_AT_ONCE] @ keys.transpose(1, 2) / spec.head_dim**0.5
            parts.append(torch.softmax(scores.masked_fill(~visible, float("-inf")), -1) @ values)
        heads.append(torch.cat(parts, 1))
    return torch.cat(heads, -1) @ weights["w_o"].T


def _head(spec: GqaSpec | SwaSpec, weights: dict[str, Tensor], kind: str, x: Tensor, head: int, start: int) -> Tensor:
    """One head's queries or keys, normed and rotated: (B, T, head_dim)."""
    rows = slice(head * spec.head_dim, (head + 1) * spec.head_dim)
    y = x @ weights[f"w_{kind}"][rows].T
    if spec.qk_norm:
        y = y / (y.square().mean(-1, keepdim=True) + spec.eps).sqrt() * weights[f"{kind}_norm"]
    half = spec.head_dim // 2
    frequency = spec.rope_theta ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(start, start + x.shape[1], dtype=x.dtype)[:, None] * frequency
    turned = torch.view_as_complex(torch.stack([y[..., :half], y[..., half:]], -1)) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat([turned.real, turned.imag], -1)
