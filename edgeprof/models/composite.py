"""What blocks and models share: an operator made of named parts, each an operator itself.

Names are paths, ``layers.3.mixer.w_q``: the same in specs, torch modules, ONNX graphs, ExecuTorch forms and weight files.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, TypeVar

from edgeprof.operators.base import OperatorSpec, Weight
from edgeprof.operators.registry import OPERATORS

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositeSpec(OperatorSpec):
    """An operator whose weights, state and cost are those of its parts."""

    reference: ClassVar[str] = "edgeprof.models.reference:composite"

    @abstractmethod
    def parts(self) -> dict[str, OperatorSpec]:
        """The parts by path, in the order in which they run."""

    def leaves(self) -> tuple[OperatorSpec, ...]:
        """The operators that all parts consist of, in order."""
        return tuple(leaf for part in self.parts().values() for leaf in part.leaves())

    def weights(self) -> dict[str, Weight]:
        """The parts' weights, by path."""
        return {f"{path}.{name}": w for path, part in self.parts().items() for name, w in part.weights().items()}

    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """The parts' FLOPs."""
        return sum(p.flops(batch=batch, q_len=q_len, kv_len=kv_len) for p in self.parts().values())

    def state_bytes(self, *, batch: int, kv_len: int, kv_dtype: str) -> int:
        """The parts' state."""
        return sum(p.state_bytes(batch=batch, kv_len=kv_len, kv_dtype=kv_dtype) for p in self.parts().values())

    def state_bytes_moved(self, *, batch: int, q_len: int, kv_len: int, kv_dtype: str) -> int:
        """What the parts move."""
        return sum(
            p.state_bytes_moved(batch=batch, q_len=q_len, kv_len=kv_len, kv_dtype=kv_dtype)
            for p in self.parts().values()
        )

    def weight_bytes_moved(self, *, batch: int, q_len: int, dtype: str) -> int:
        """What the parts read."""
        return sum(p.weight_bytes_moved(batch=batch, q_len=q_len, dtype=dtype) for p in self.parts().values())

    def state_rows(self, capacity: int) -> int:
        """The most rows that a part's KV cache allocates."""
        return max(p.state_rows(capacity) for p in self.parts().values())

    def gate_calls(self, q_len: int) -> int:
        """As many as the part that needs most."""
        return max(p.gate_calls(q_len) for p in self.parts().values())

    def params(self) -> int:
        """The parts' parameters."""
        return sum(p.params() for p in self.parts().values())


def part_weights(weights: dict[str, T], path: str) -> dict[str, T]:
    """The weights of the part at ``path``, by its own names."""
    return {name.removeprefix(f"{path}."): w for name, w in weights.items() if name.startswith(f"{path}.")}


@cache
def composite_ops() -> frozenset[str]:
    """Names of the registered operators that are made of others: blocks and models."""
    return frozenset(name for name in OPERATORS if issubclass(OPERATORS.get(name), CompositeSpec))
