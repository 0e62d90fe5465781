"""Two blocks in a row as an operator: what neighbours cost that a runtime fuses, or that share a cache."""

from dataclasses import dataclass
from typing import ClassVar

from edgeprof.models.block import BlockSpec
from edgeprof.models.composite import CompositeSpec
from edgeprof.operators.base import OperatorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSpec(CompositeSpec):
    """One block behind another; ``first`` and ``second`` are their ``layer`` texts."""

    name: ClassVar[str] = "pair"
    meaning: ClassVar[str] = "two blocks in a row whose costs do not add up"
    module: ClassVar[str] = "edgeprof.models.pair_module:Pair"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.models.onnx:emit_pair",
        "executorch": "edgeprof.models.executorch:PairForm",
    }

    d_model: int
    first: str
    second: str

    def parts(self) -> dict[str, OperatorSpec]:
        """``first`` and ``second``."""
        return {name: block for name, block in zip(("first", "second"), self.blocks(), strict=True)}

    def blocks(self) -> tuple[BlockSpec, BlockSpec]:
        """The two blocks in order."""
        return (
            BlockSpec(d_model=self.d_model, layer=self.first),
            BlockSpec(d_model=self.d_model, layer=self.second),
        )

    def check(self) -> None:
        """Checks both blocks.

        Raises:
            UsageError: a part's dimension is wrong.
        """
        OperatorSpec.check(self)
        for block in self.blocks():
            block.check()


def pair_of(first: BlockSpec, second: BlockSpec) -> PairSpec:
    """The pair of two blocks of equal width."""
    return PairSpec(d_model=first.d_model, first=first.layer, second=second.layer)
