"""Sliding-window attention for ExecuTorch: a ring cache in decode, delegated blocks in prefill; never a mask over everything."""

import numpy as np
import torch
from torch import Tensor

from edgeprof.operators.arrays import Array
from edgeprof.operators.executorch_form import CallShape, rope_inputs
from edgeprof.operators.gqa.executorch import (
    MASKED,
    AttentionForm,
    attend_blocks,
    attend_rows,
    band,
    index,
    sdpa_start,
)
from edgeprof.operators.swa.spec import SwaSpec


class SwaForm(AttentionForm):
    """Keeps a ring for decode, in which position p lives in row p mod R, or the last window - 1 rows in order for prefill.

    Several tokens of decode need a ring of window + T - 1 rows: the last of them must not overwrite what the first one sees.
    """

    def __init__(self, spec: SwaSpec, shape: CallShape) -> None:
        super().__init__(spec, shape, ring_rows(spec, shape) if shape.is_decode else spec.window - 1)
        self.window = spec.window
        self.register_buffer("band", band(shape.q_len, spec.window), persistent=False)

    @classmethod
    def inputs(cls, spec: SwaSpec, shape: CallShape, pos: int) -> dict[str, Array]:
        """RoPE; in decode the ring's row and the kernel's ``start_pos`` (or rows and mask); else a mask over the past."""
        arrays = rope_inputs(spec.head_dim, spec.rope_theta, pos, shape.q_len)
        name, group = f"swa{spec.window}", spec.n_heads // spec.n_kv_heads
        if shape.is_decode and shape.q_len == 1:
            filled = min(pos + 1, spec.window)
            arrays[f"{name}_row"] = np.array(pos % spec.window)
            arrays[f"{name}_start_{group}"] = np.array(sdpa_start(filled, 1, group))
        elif shape.is_decode:
            rows = (pos + np.arange(shape.q_len)) % ring_rows(spec, shape)
            arrays[f"{name}_rows_{spec.n_kv_heads}"] = np.tile(rows, (shape.batch * spec.n_kv_heads, 1))
            arrays[f"{name}_mask_{group}"] = np.tile(ring_mask(spec, shape, pos), (group, 1))
        elif shape.has_past:
            position = np.arange(pos - spec.window + 1, pos)[None]
            arrays[f"{name}_past"] = np.where(position < 0, MASKED, 0).astype(np.float32)
        return arrays

    def forward(self, x_BTD: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Runs T tokens from the position that ``inputs`` were computed for."""
        q, k, v = self.project(x_BTD, inputs)
        if not self.shape.is_decode:
            return self.output(self._prefill(q, k, v, inputs))
        if self.shape.q_len == 1:
            return self.output(self._step(q, k, v, inputs))
        return self.output(self._steps(q, k, v, inputs))

    def _step(self, q: Tensor, k: Tensor, v: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """One token: overwrites the oldest row, then attends to all; their order does not matter to softmax."""
        row = index(inputs[f"swa{self.window}_row"], self.rows - 1)
        torch.ops.llama.update_cache(k, self.k, row)
        torch.ops.llama.update_cache(v, self.v, row)
        return attend_rows(q, self.k, self.v, inputs[f"swa{self.window}_start_{self.group}"])

    def _steps(self, q_CTGE: Tensor, k: Tensor, v: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """A few tokens: writes their rows, then attends to the whole ring under a mask, group by group as in one step."""
        rows = inputs[f"swa{self.window}_rows_{self.spec.n_kv_heads}"]
        torch.ops.llama.update_cache_with_indices(k, self.k, 0, rows)
        torch.ops.llama.update_cache_with_indices(v, self.v, 0, rows)
        caches, tokens, group, size = q_CTGE.shape
        folded = q_CTGE.transpose(1, 2).reshape(caches, group * tokens, 1, size)
        mask = inputs[f"swa{self.window}_mask_{self.group}"]
        y: Tensor = torch.ops.llama.custom_sdpa(folded, self.k, self.v, 0, mask, 0.0, False)
        return y.reshape(caches, group, tokens, size).transpose(1, 2)

    def _prefill(self, q: Tensor, k: Tensor, v: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Many tokens: blocks over the window before them, then keeps the last rows in order."""
        keys, values = k, v
        if self.shape.has_past:
            keys, values = torch.cat([self.k, k], 1), torch.cat([self.v, v], 1)
        y = attend_blocks(q, keys, values, self.band, inputs.get(f"swa{self.window}_past"), self.window)
        if self.rows:
            self.k.copy_(self._last_rows(keys, self.k))
            self.v.copy_(self._last_rows(values, self.v))
        return y

    def _last_rows(self, new: Tensor, old: Tensor) -> Tensor:
        missing = self.rows - new.shape[1]
        return torch.cat([old[:, -missing:], new], 1) if missing > 0 else new[:, -self.rows :]


def ring_rows(spec: SwaSpec, shape: CallShape) -> int:
    """Rows of the decode ring."""
    return spec.window + shape.q_len - 1


def ring_mask(spec: SwaSpec, shape: CallShape, pos: int) -> Array:
    """What is added to the scores of T tokens from ``pos`` over the ring that already holds them, (T, R)."""
    rows = ring_rows(spec, shape)
    last = pos + shape.q_len - 1
    held = last - (last - np.arange(rows)) % rows  # the position that each row holds
    query = pos + np.arange(shape.q_len)[:, None]
    visible = (held >= 0) & (held <= query) & (held > query - spec.window)
    return np.where(visible, 0, MASKED).astype(np.float32)
