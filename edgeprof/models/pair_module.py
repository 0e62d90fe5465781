"""Two blocks in a row in torch."""

from torch import Tensor

from edgeprof.models.module import Composite, make_module
from edgeprof.models.pair import PairSpec
from edgeprof.operators.module import Packed, State


class Pair(Composite):
    """A block behind another, children under their parts' names."""

    spec: PairSpec

    def __init__(self, spec: PairSpec) -> None:
        super().__init__(spec)
        parts = {name: make_module(part) for name, part in spec.parts().items()}
        for name, module in parts.items():
            self.add_module(name, module)
        # As in a block: bound once, so that a call looks nothing up but the blocks' states.
        self._bound = tuple(parts.items())

    def init_state(self, batch: int, capacity: int) -> State:
        """Each block's state, by its name."""
        return {name: block.init_state(batch, capacity) for name, block in self._bound}

    def forward(self, x_BTD: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Runs T tokens through both blocks."""
        for name, block in self._bound:
            x_BTD = block(x_BTD, state if isinstance(state, Packed) else state[name], pos)
        return x_BTD
