"""Grouped-query attention as deployed in torch."""

from torch import Tensor

from edgeprof.operators.attention import AttentionModule, attend_all, attend_causal
from edgeprof.operators.module import Packed, State


class Gqa(AttentionModule):
    """Attends to a flat cache that new tokens are written into at their position."""

    def forward(self, x_BTD: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Runs T tokens from position ``pos``."""
        if isinstance(state, Packed):
            return self.packed(x_BTD, state)
        q, k, v = self.project(x_BTD, self.rope(x_BTD, pos))
        end = pos + x_BTD.shape[1]
        state["k"][:, :, pos:end] = k
        state["v"][:, :, pos:end] = v
        keys, values = state["k"][:, :, :end], state["v"][:, :, :end]
        if x_BTD.shape[1] == 1:
            return self.output(attend_all(q, keys, values))
        return self.output(attend_causal(q, keys, values))
