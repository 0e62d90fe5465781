"""The attention arithmetic that gqa and swa modules share: projections, RoPE, and the two ways to attend."""

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprof.operators.gqa.spec import GqaSpec
from edgeprof.operators.module import OperatorModule, State, rms_norm, rope_slice, rotate
from edgeprof.operators.swa.spec import SwaSpec


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

    def project(self, x_BTD: Tensor, pos: int) -> tuple[Tensor, Tensor, Tensor]:
        """Normed and rotated queries (B, H, T, E), keys (B, K, T, E), and values."""
        s = self.spec
        batch, tokens, _ = x_BTD.shape
        cos, sin = rope_slice(s.head_dim, s.rope_theta, pos, tokens, x_BTD.dtype)
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
