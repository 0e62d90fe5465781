"""The attention arithmetic that gqa and swa modules share: projections, RoPE, and the ways to attend."""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprof.operators.gqa.spec import GqaSpec
from edgeprof.operators.module import OperatorModule, Packed, State, rms_norm, rope_slice, rotate
from edgeprof.operators.swa.spec import SwaSpec

BLOCK = 64
"""Most query tokens of a block where windows or documents limit what is seen: each block reads what it may see only.

Source: docs/forms-torch.md, windowed attention.
"""


HALF = (torch.bfloat16, torch.float16)
"""What CUDA's FlashAttention computes in."""


class AttentionModule(OperatorModule):
    """Projections, cache allocation and output of an attention layer; subclasses say what is attended to."""

    spec: GqaSpec | SwaSpec
    w_q: Tensor
    w_k: Tensor
    w_v: Tensor
    w_o: Tensor
    q_norm: Tensor
    k_norm: Tensor

    def init_state(self, batch: int, capacity: int) -> State:
        """Keys and values, each (B, K, rows, E)."""
        s = self.spec
        shape = (batch, s.n_kv_heads, s.state_rows(capacity), s.head_dim)
        return {"k": torch.zeros(shape, dtype=self.weight_dtype()), "v": torch.zeros(shape, dtype=self.weight_dtype())}

    def packed(self, x_BTD: Tensor, packed: Packed) -> Tensor:
        """Whole sequences without a cache, each token over its own document.

        Positions run on from document to document: rotary embedding tells attention their distances only.
        """
        q, k, v = self.project(x_BTD, self._shared_rope(x_BTD, packed))
        return self.output(attend_packed(q, k, v, packed, self._window))

    def derive(self, x_BTD: Tensor, packed: Packed) -> None:
        """Rotary tables, and what each token may see."""
        self._shared_rope(x_BTD, packed)
        tokens, window = x_BTD.shape[1], self._window
        if not _sees_all(packed, tokens, window):
            if _has_varlen(x_BTD):
                packed.bounds(x_BTD[..., 0])
            else:
                _visible_blocks(packed, tokens, window, x_BTD.device)

    @property
    def _window(self) -> int | None:
        return self.spec.window if isinstance(self.spec, SwaSpec) else None

    def rope(self, x_BTD: Tensor, pos: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (T, E) for tokens whose first has position ``pos``."""
        s = self.spec
        return rope_slice(s.head_dim, s.rope_theta, pos, x_BTD.shape[1], x_BTD.dtype)

    def _shared_rope(self, x_BTD: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        """All layers' cosines and sines, where the input is."""
        key = ("rope", self.spec.head_dim, self.spec.rope_theta, x_BTD.shape[1], x_BTD.dtype, x_BTD.device)
        cos, sin = packed.once(key, lambda: tuple(table.to(x_BTD.device) for table in self.rope(x_BTD, 0)))
        return cos, sin

    def project(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Normed and rotated queries (B, H, T, E), keys (B, K, T, E), and values."""
        s = self.spec
        batch, tokens, _ = x_BTD.shape
        cos, sin = rope
        q, k, v = (
            F.linear(x_BTD, w).view(batch, tokens, -1, s.head_dim).transpose(1, 2)
            for w in (self.w_q, self.w_k, self.w_v)
        )
        if s.qk_norm:
            q, k = rms_norm(q, self.q_norm, s.eps), rms_norm(k, self.k_norm, s.eps)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def output(self, y_BHTE: Tensor) -> Tensor:
        """Heads merged and projected: (B, T, D)."""
        batch, _, tokens, _ = y_BHTE.shape
        return F.linear(y_BHTE.transpose(1, 2).reshape(batch, tokens, -1), self.w_o)


def attend_all(q_BH1E: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
    """One query token over every row given: the group's heads become rows of one unmasked attention over shared keys."""
    batch, heads, _, size = q_BH1E.shape
    kv_heads = k_BKSE.shape[1]
    y = F.scaled_dot_product_attention(q_BH1E.view(batch, kv_heads, heads // kv_heads, size), k_BKSE, v_BKSE)
    return y.reshape(batch, heads, 1, size)


def attend_causal(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, window: int | None = None) -> Tensor:
    """T query tokens over S rows whose last T are their own: causal, and no further back than ``window`` where given."""
    tokens, rows = q_BHTE.shape[2], k_BKSE.shape[2]
    if rows == tokens and (window is None or window >= tokens):
        return F.scaled_dot_product_attention(q_BHTE, k_BKSE, v_BKSE, is_causal=True, enable_gqa=True)
    query = torch.arange(rows - tokens, rows)[:, None]
    key = torch.arange(rows)[None]
    visible = key <= query
    if window is not None:
        visible &= key > query - window
    return F.scaled_dot_product_attention(q_BHTE, k_BKSE, v_BKSE, attn_mask=visible, enable_gqa=True)


def attend_packed(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, packed: Packed, window: int | None) -> Tensor:
    """Whole sequences: causal, within each token's document, no further back than ``window``."""
    tokens = q_BHTE.shape[2]
    if _sees_all(packed, tokens, window):
        return F.scaled_dot_product_attention(q_BHTE, k_BKTE, v_BKTE, is_causal=True, enable_gqa=True)
    if _has_varlen(v_BKTE):
        return _attend_varlen(q_BHTE, k_BKTE, v_BKTE, packed, window)
    return _attend_blocks(q_BHTE, k_BKTE, v_BKTE, packed, window)


def _sees_all(packed: Packed, tokens: int, window: int | None) -> bool:
    return packed.documents is None and (window is None or window >= tokens)


def _has_varlen(x: Tensor) -> bool:
    """Whether attention over rows of any length has a kernel for ``x`` as it will be computed: on CUDA in 16 bits."""
    return x.is_cuda and (x.dtype in HALF or torch.is_autocast_enabled("cuda"))


def _attend_varlen(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, packed: Packed, window: int | None) -> Tensor:
    """FlashAttention over all documents of the batch, laid end to end."""
    from torch.nn.attention.varlen import varlen_attn  # its import takes a moment that no CPU needs

    batch, heads, tokens, size = q_BHTE.shape
    dtype = v_BKTE.dtype if v_BKTE.dtype in HALF else torch.get_autocast_dtype("cuda")
    q, k, v = (x.transpose(1, 2).reshape(batch * tokens, -1, size).to(dtype) for x in (q_BHTE, k_BKTE, v_BKTE))
    bounds = packed.bounds(v_BKTE[:, 0, :, 0])
    back = -1 if window is None else window - 1
    y = cast(Tensor, varlen_attn(q, k, v, bounds, bounds, tokens, tokens, window_size=(back, 0), enable_gqa=True))
    return y.view(batch, tokens, heads, size).transpose(1, 2)


def _attend_blocks(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, packed: Packed, window: int | None) -> Tensor:
    """Block by block, each over the keys that any of its tokens sees.

    Keys come as whole blocks, joined, and not as slices: a slice's gradient is as large as all keys, once for each block.
    """
    tokens = q_BHTE.shape[2]
    queries, keys, values = (torch.split(x, BLOCK, 2) for x in (q_BHTE, k_BKTE, v_BKTE))
    blocks = _visible_blocks(packed, tokens, window, q_BHTE.device)
    parts = []
    for index, (q, (first, visible)) in enumerate(zip(queries, blocks, strict=True)):
        k, v = (torch.cat(all_blocks[first : index + 1], 2) for all_blocks in (keys, values))
        parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True))
    return torch.cat(parts, 2)


def _visible_blocks(packed: Packed, tokens: int, window: int | None, device: torch.device) -> list[tuple[int, Tensor]]:
    """For each block of queries the first block of keys that any of them sees, and which of the keys from there on each sees.

    The masks are (B, 1, queries, keys), or (1, 1, queries, keys) where all rows see alike.
    """
    return packed.once(("blocks", tokens, window), lambda: _make_blocks(packed, tokens, window, device))


def _make_blocks(packed: Packed, tokens: int, window: int | None, device: torch.device) -> list[tuple[int, Tensor]]:
    position = torch.arange(tokens, device=device)
    oldest = torch.zeros_like(position) if window is None else (position - window + 1).clamp(min=0)
    starts = packed.starts()
    oldest = oldest[None] if starts is None else starts.maximum(oldest)
    blocks = []
    for begin in range(0, tokens, BLOCK):
        end = min(begin + BLOCK, tokens)
        first = int(oldest[:, begin].min()) // BLOCK
        key = position[first * BLOCK : end]
        visible = (key >= oldest[:, begin:end, None]) & (key <= position[begin:end, None])
        blocks.append((first, visible[:, None]))
    return blocks
