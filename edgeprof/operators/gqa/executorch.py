"""Grouped-query attention for ExecuTorch: the kernel that reads the cache in place in decode, delegated blocks in prefill.

Letters beyond those of executorch_form: C = B K, one cache for each KV head of each sequence; P rows of the past; S = P + T.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprof.operators.arrays import Array
from edgeprof.operators.executorch_form import CallShape, Form, norm, rope_inputs, rope_names, rotate
from edgeprof.operators.gqa.spec import GqaSpec
from edgeprof.operators.swa.spec import SwaSpec

BLOCK = 128
"""Least query tokens of a prefill block; 64 to 256 take the same time (docs/forms-executorch.md)."""

MOST_BLOCKS = 16
"""Blocks of a prefill: the time to lower grows with them (45 s at 32)."""

MASKED = -1e9
"""Added to a score that must not count; XNNPACK's softmax would turn -inf into NaN."""


class AttentionForm(Form):
    """Projections, QK-norm and RoPE of an attention layer, and its caches, (C, R, 1, E).

    KV heads stand in the batch axis: each head's rows then lie together, which the attention kernel reads faster than rows
    of all heads (docs/forms-executorch.md).
    """

    spec: GqaSpec | SwaSpec
    w_q: nn.Linear
    w_k: nn.Linear
    w_v: nn.Linear
    w_o: nn.Linear
    q_norm: Tensor
    k_norm: Tensor
    k: Tensor
    v: Tensor
    band: Tensor

    def __init__(self, spec: GqaSpec | SwaSpec, shape: CallShape, rows: int) -> None:
        super().__init__(spec, shape)
        self.rows = rows
        self.group = spec.n_heads // spec.n_kv_heads
        cache = torch.zeros(shape.batch * spec.n_kv_heads, rows, 1, spec.head_dim)
        self.register_buffer("k", cache)
        self.register_buffer("v", cache.clone())

    def project(self, x_BTD: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Normed and rotated queries (C, T, G, E), keys (C, T, 1, E), and values."""
        s = self.spec
        batch, tokens, _ = x_BTD.shape
        cos, sin = (inputs[name] for name in rope_names(s.head_dim, s.rope_theta))
        q, k, v = (w(x_BTD).view(batch, tokens, -1, s.head_dim) for w in (self.w_q, self.w_k, self.w_v))
        if s.qk_norm:
            q, k = norm(q, self.q_norm, s.eps), norm(k, self.k_norm, s.eps)
        return self._by_kv_head(rotate(q, cos, sin)), self._by_kv_head(rotate(k, cos, sin)), self._by_kv_head(v)

    def _by_kv_head(self, x_BTNE: Tensor) -> Tensor:
        batch, tokens, heads, size = x_BTNE.shape
        n = heads // self.spec.n_kv_heads
        if tokens > 1:
            x_BTNE = x_BTNE.reshape(batch, tokens, -1, n * size).transpose(1, 2)
        return x_BTNE.reshape(-1, tokens, n, size)

    def output(self, y_CTGE: Tensor) -> Tensor:
        """Attended heads merged and projected: (B, T, D)."""
        batch, tokens = self.shape.batch, self.shape.q_len
        if tokens > 1:
            y_CTGE = y_CTGE.reshape(batch, -1, tokens, self.group * self.spec.head_dim).transpose(1, 2)
        y: Tensor = self.w_o(y_CTGE.reshape(batch, tokens, -1))
        return y


class GqaForm(AttentionForm):
    """Attends to a flat cache that new rows are written into at their position."""

    def __init__(self, spec: GqaSpec, shape: CallShape) -> None:
        super().__init__(spec, shape, spec.state_rows(shape.capacity))
        self.register_buffer("band", band(shape.q_len, None), persistent=False)

    @classmethod
    def inputs(cls, spec: GqaSpec, shape: CallShape, pos: int) -> dict[str, Array]:
        """RoPE; with a past the first row to write, and how many rows count.

        In decode these are told by the kernel's ``start_pos``, in a chunk by a mask (1, P) over the rows before it.
        """
        arrays = rope_inputs(spec.head_dim, spec.rope_theta, pos, shape.q_len)
        if not shape.has_past:
            return arrays
        arrays["gqa_row"] = np.array(pos)
        if shape.is_decode:
            group = spec.n_heads // spec.n_kv_heads
            arrays[f"gqa_start_{group}"] = np.array(sdpa_start(pos + shape.q_len, shape.q_len, group))
        else:
            rows = np.arange(shape.capacity - shape.q_len)[None]
            arrays["gqa_past"] = np.where(rows < pos, 0, MASKED).astype(np.float32)
        return arrays

    def forward(self, x_BTD: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Runs T tokens from the position that ``inputs`` were computed for."""
        q, k, v = self.project(x_BTD, inputs)
        row = index(inputs["gqa_row"], self.rows - self.shape.q_len) if self.shape.has_past else 0
        if self.shape.is_decode:
            self._write(k, v, row)
            return self.output(attend_rows(q, self.k, self.v, inputs[f"gqa_start_{self.group}"]))
        if self.shape.has_past:
            past = self.rows - self.shape.q_len
            keys, values = torch.cat([self.k[:, :past], k], 1), torch.cat([self.v[:, :past], v], 1)
            y = attend_blocks(q, keys, values, self.band, inputs["gqa_past"])
        else:
            y = attend_blocks(q, k, v, self.band, None)
        self._write(k, v, row)
        return self.output(y)

    def _write(self, k_CT1E: Tensor, v_CT1E: Tensor, row: int) -> None:
        torch.ops.llama.update_cache(k_CT1E, self.k, row)
        torch.ops.llama.update_cache(v_CT1E, self.v, row)


def index(value: Tensor, most: int) -> int:
    """An input's value as an index that export knows to lie in [0, most]."""
    row = value.item()
    torch._check(row >= 0)  # type: ignore[no-untyped-call]
    torch._check(row <= most)  # type: ignore[no-untyped-call]
    return row  # type: ignore[return-value]  # a SymInt while exporting


def sdpa_start(rows: int, q_len: int, group: int) -> int:
    """The ``start_pos`` that makes ``attend_rows`` see the first ``rows`` rows: the kernel adds its count of queries."""
    return rows - (group if q_len == 1 else q_len)


def attend_rows(q_CTGE: Tensor, k_CR1E: Tensor, v_CR1E: Tensor, start: Tensor) -> Tensor:
    """Attention of T tokens over the rows that the scalar ``start`` selects, whose last T are their own.

    A single token's G query heads go in as G query rows of one unmasked head: keys are read once instead of G times.
    """
    if q_CTGE.shape[1] == 1:
        y_CG1E: Tensor = torch.ops.llama.custom_sdpa(
            q_CTGE.transpose(1, 2), k_CR1E, v_CR1E, start.item(), None, 0.0, False
        )
        return y_CG1E.transpose(1, 2)
    y: Tensor = torch.ops.llama.custom_sdpa(q_CTGE, k_CR1E, v_CR1E, start.item(), None, 0.0, True)
    return y


def band(q_len: int, window: int | None) -> Tensor:
    """What is added to the scores of a block of queries over the rows before it and its own, the last of which come last.

    (block, rows): 0 where a query may look, MASKED behind it and ``window`` or more before it. Blocks cut their part.
    """
    block = min(max(BLOCK, -(-q_len // MOST_BLOCKS)), q_len)
    before = 0 if window is None else window - 1
    query, key = torch.arange(block)[:, None], torch.arange(-before, block)[None]
    hidden = key > query
    if window is not None:
        hidden |= key <= query - window
    return torch.zeros(hidden.shape).masked_fill(hidden, MASKED)


def attend_blocks(
    q_CTGE: Tensor, k_CS1E: Tensor, v_CS1E: Tensor, band_QR: Tensor, past_1P: Tensor | None, window: int | None = None
) -> Tensor:
    """Attention of T tokens over S rows whose last T are their own, block by block, in operators that XNNPACK takes.

    Each block reads only the rows that it may see. ``past_1P`` is added to the scores of the P rows before the tokens.
    """
    caches, tokens, group, size = q_CTGE.shape
    past = k_CS1E.shape[1] - tokens
    q = q_CTGE.transpose(1, 2) * size**-0.5
    k, v = k_CS1E.reshape(caches, -1, size), v_CS1E.reshape(caches, -1, size)
    parts = []
    block = band_QR.shape[0]
    for begin in range(0, tokens, block):
        end = min(begin + block, tokens)
        first = 0 if window is None else max(0, past + begin - window + 1)
        keys, values = k[:, first : past + end], v[:, first : past + end]
        queries = q[:, :, begin:end].reshape(caches, group * (end - begin), size)
        scores = torch.bmm(queries, keys.transpose(1, 2)).view(-1, end - begin, past + end - first)
        scores = scores + block_mask(band_QR, end - begin, past + end - first)
        if past_1P is not None and first < past:
            scores = torch.cat(
                [scores[..., : past - first] + past_1P[None, :, first:], scores[..., past - first :]], -1
            )
        weights = torch.softmax(scores, -1).view(caches, group * (end - begin), -1)
        parts.append(torch.bmm(weights, values).view(caches, group, end - begin, size))
    return torch.cat(parts, 2).transpose(1, 2)


def block_mask(band_QR: Tensor, queries: int, rows: int) -> Tensor:
    """The part of the band that ``queries`` queries over ``rows`` rows need; rows before the band are all visible."""
    block, width = band_QR.shape
    width -= block - queries  # the columns of queries that a short last block lacks
    part = band_QR[:queries, max(0, width - rows) : width]
    return F.pad(part, (max(0, rows - width), 0))
