"""What every operator knows about itself, before anything heavy is imported."""

import math
from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Literal, Self

from edgeprof.core.dtypes import kv_itemsize, weight_dtype
from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean

Dims = dict[str, int | float | bool | str]
"""Dimensions by name. A text is the canonical JSON of what a composite is made of."""

MAX_SIZE = 2**24
"""Largest dimension that is taken for meant: no language model has a wider layer or a larger vocabulary."""

NORM_EPSILON = 1e-5
"""Added to the mean square in an RMSNorm that states no other: LFM2's ``norm_eps``."""


def implied(default: float | bool) -> Any:
    """A dimension that ``dims`` leaves out while it has its default: one that an operator got later, under the same keys."""
    return field(default=default, metadata={"implied": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A weight's shape (torch's layout: a linear layer is (out, in)) and what it is used as.

    ``linear`` weights are what quantised formats quantise; ``embedding`` is a table of rows; ``vector`` is everything small
    (norm scales, depthwise kernels), which stays in full precision.
    """

    shape: tuple[int, ...]
    kind: Literal["linear", "embedding", "vector"] = "linear"

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSpec(ABC):
    """An operator with its dimensions.

    Subclasses declare their dimensions as fields and say where their torch module (as deployed), their reference (the naive
    truth) and their best form for each graph runtime live, as "module:attribute". All counts are of one call with ``q_len``
    new tokens whose last one ends a context of ``kv_len`` tokens.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    meaning: ClassVar[str]
    takes_tokens: ClassVar[bool] = False
    module: ClassVar[str]
    reference: ClassVar[str]
    forms: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def weights(self) -> dict[str, Weight]:
        """The weights by name; the torch module's parameters carry the same names."""

    @abstractmethod
    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """Floating-point operations of a call; a multiply-add counts as two."""

    def state_bytes(self, *, batch: int, kv_len: int, kv_dtype: str) -> int:
        """Bytes that must be kept from this token for the next one, after ``kv_len`` tokens."""
        return 0

    def state_bytes_moved(self, *, batch: int, q_len: int, kv_len: int, kv_dtype: str) -> int:
        """Bytes of state that a call must read and write at least once."""
        return 0

    def state_rows(self, capacity: int) -> int:
        """Rows of the KV cache that an artifact for contexts up to ``capacity`` tokens allocates; 0 without one."""
        return 0

    def gate_calls(self, q_len: int) -> int:
        """Calls in a row that exercise every part of the state's life: filling, wrapping around, dropping."""
        return max(4, math.ceil(24 / q_len))

    def params(self) -> int:
        """Number of parameters of its own (a tied projection belongs to the embedding)."""
        return sum(w.size for w in self.weights().values())

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of the weights in the format ``dtype``, scales included, before a runtime packs them."""
        d = weight_dtype(dtype)
        bits = {"linear": d.bits, "embedding": d.embedding_bits, "vector": d.activation_bits}
        return sum(math.ceil(w.size * bits[w.kind] / 8) for w in self.weights().values())

    def weight_bytes_moved(self, *, batch: int, q_len: int, dtype: str) -> int:
        """Bytes of weights that a call must read at least once."""
        return self.weight_bytes(dtype)

    def bytes_moved(self, *, batch: int, q_len: int, kv_len: int, dtype: str, kv_dtype: str) -> int:
        """Bytes that a call must move at least once: weights, state, and its input and output."""
        return (
            self.weight_bytes_moved(batch=batch, q_len=q_len, dtype=dtype)
            + self.state_bytes_moved(batch=batch, q_len=q_len, kv_len=kv_len, kv_dtype=kv_dtype)
            + self.io_bytes(batch=batch, q_len=q_len, dtype=dtype)
        )

    def io_bytes(self, *, batch: int, q_len: int, dtype: str) -> int:
        """Bytes of the call's input and output."""
        return 2 * batch * q_len * self.width() * activation_bytes(dtype)

    def width(self) -> int:
        """Width of the residual stream that the operator reads."""
        return int(getattr(self, "d_model"))  # noqa: B009 - every operator has the dimension, the base declares none

    def output_width(self) -> int:
        """Values of an output token: those of the residual stream, or logits."""
        return self.width()

    def output_tokens(self, q_len: int) -> int:
        """Tokens of a call that have an output, the last ones."""
        return q_len

    def vocab_size(self) -> int:
        """Number of token ids that an operator which takes them knows."""
        return int(getattr(self, "vocab"))  # noqa: B009

    def leaves(self) -> "tuple[OperatorSpec, ...]":
        """The operators that it consists of, in order: itself, unless it is a block or a model."""
        return (self,)

    def dims(self) -> Dims:
        """The dimensions by name, without implied ones."""
        named = {f.name: (f, getattr(self, f.name)) for f in fields(self)}
        return {n: value for n, (f, value) in named.items() if not (f.metadata.get("implied") and value == f.default)}

    @classmethod
    def from_dims(cls, dims: Dims) -> Self:
        """Builds the spec from named dimensions and checks them.

        Raises:
            UsageError: a dimension is unknown, missing, of the wrong type, not positive, or does not fit the others.
        """
        known = {f.name: f for f in fields(cls)}
        for name in dims:
            if name not in known:
                raise UsageError(f"{cls.name}.{name}: no such dimension; {did_you_mean(name, list(known))}")
        for name, f in known.items():
            if name not in dims and f.default is MISSING:
                raise UsageError(f"{cls.name}.{name}: missing; give {name} = a whole number")
        spec = cls(**dims)
        spec.check()
        return spec

    def check(self) -> None:
        """Checks that sizes are sane; subclasses add what must fit together.

        Raises:
            UsageError: names the dimension and the fix.
        """
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type in (int, "int") and (isinstance(value, bool) or not isinstance(value, int)):
                raise UsageError(f"{self.name}.{f.name}: {value!r} is not a whole number")
            if f.type in (float, "float") and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise UsageError(f"{self.name}.{f.name}: {value!r} is not a number")
            if f.type in (bool, "bool") and not isinstance(value, bool):
                raise UsageError(f"{self.name}.{f.name}: {value!r} is not true or false")
            if not isinstance(value, (bool, str)) and not 0 < value <= MAX_SIZE:
                raise UsageError(f"{self.name}.{f.name}: {value} is not a size; use 1 to {MAX_SIZE}")


def activation_bytes(dtype: str) -> int:
    """Bytes of a value between operators, where the weights have the format ``dtype``."""
    return weight_dtype(dtype).activation_bits // 8


def linear_flops(tokens: int, *sizes: int) -> int:
    """FLOPs of linear layers with ``sizes`` weights each, over ``tokens`` tokens: two for each weight and token."""
    return 2 * tokens * sum(sizes)


def cache_bytes(*, batch: int, rows: int, n_kv_heads: int, head_dim: int, kv_dtype: str) -> int:
    """Bytes of ``rows`` cached keys and as many values."""
    return 2 * batch * rows * n_kv_heads * head_dim * kv_itemsize(kv_dtype)


def check_heads(spec: OperatorSpec) -> None:
    """Checks that query heads divide over KV heads and that RoPE can pair a head's values.

    Raises:
        UsageError: names the dimension and the fix.
    """
    d = spec.dims()
    if int(d["n_heads"]) % int(d["n_kv_heads"]):
        raise UsageError(
            f"{spec.name}.n_kv_heads: {d['n_kv_heads']} does not divide n_heads = {d['n_heads']}; use a divisor"
        )
    if int(d["head_dim"]) % 2:
        raise UsageError(f"{spec.name}.head_dim: {d['head_dim']} is odd; RoPE rotates pairs, so use an even number")
