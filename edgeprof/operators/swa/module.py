"""Sliding-window attention as deployed in torch: a ring cache in decode, blocks in prefill; never a mask over everything."""

import torch
from torch import Tensor

from edgeprof.operators.attention import BLOCK, AttentionModule, attend_all, attend_causal
from edgeprof.operators.module import Packed, State
from edgeprof.operators.swa.spec import SwaSpec


class Swa(AttentionModule):
    """Keeps the last ``window`` rows in a ring: position p lives in row p mod window."""

    spec: SwaSpec

    def forward(self, x_BTD: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Runs T tokens from position ``pos``."""
        if isinstance(state, Packed):
            return self.packed(x_BTD, state)
        q, k, v = self.project(x_BTD, self.rope(x_BTD, pos))
        if x_BTD.shape[1] == 1:
            return self.output(self._decode(q, k, v, state, pos))
        return self.output(self._prefill(q, k, v, state, pos))

    def _decode(self, q: Tensor, k: Tensor, v: Tensor, state: State, pos: int) -> Tensor:
        """One token: overwrites the oldest row, then attends to all; their order does not matter to softmax."""
        row = pos % self.spec.window
        state["k"][:, :, row] = k[:, :, 0]
        state["v"][:, :, row] = v[:, :, 0]
        filled = min(pos + 1, self.spec.window)
        return attend_all(q, state["k"][:, :, :filled], state["v"][:, :, :filled])

    def _prefill(self, q: Tensor, k: Tensor, v: Tensor, state: State, pos: int) -> Tensor:
        """Several tokens: block by block over the window before them, then keeps the last window's rows."""
        window, tokens = self.spec.window, q.shape[2]
        past = min(pos, window - 1)
        if past:
            rows = torch.arange(pos - past, pos) % window
            keys, values = torch.cat([state["k"][:, :, rows], k], 2), torch.cat([state["v"][:, :, rows], v], 2)
        else:
            keys, values = k, v
        parts = []
        for begin in range(0, tokens, BLOCK):
            end = min(begin + BLOCK, tokens)
            visible = slice(max(0, past + begin - window + 1), past + end)
            parts.append(attend_causal(q[:, :, begin:end], keys[:, :, visible], values[:, :, visible], window))
        kept = min(tokens, window)
        rows = torch.arange(pos + tokens - kept, pos + tokens) % window
        state["k"][:, :, rows] = k[:, :, -kept:]
        state["v"][:, :, rows] = v[:, :, -kept:]
        return torch.cat(parts, 2)
