"""What the torch modules of all operators share: explicit state, what replaces it in training, norms and rotary embedding.

Shape suffixes: B batch, T tokens of this call, D d_model, H query heads, K KV heads, G = H / K, E head_dim, S cached rows.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprof.operators.base import OperatorSpec, Weight

T = TypeVar("T")

State = dict[str, Any]
"""What an operator carries from call to call: tensors by name, or its parts' states by the part's name.

Updated in place, created by ``init_state``.
"""


def state_tensors(state: State) -> Iterator[Tensor]:
    """The tensors of a state, its parts' included."""
    for value in state.values():
        if isinstance(value, Tensor):
            yield value
        else:
            yield from state_tensors(value)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """What a training call passes in place of state: its tokens are all there is, and nothing is written in place.

    ``documents`` are integer ids (B, T), equal for neighbours that belong together, for rows that hold several documents: no
    token sees another document. Without them a row is one document. ``shared`` is what modules derived once for all layers;
    so a Packed with documents serves one batch.
    """

    documents: Tensor | None = None
    shared: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returned for ``key`` when it was first asked for."""
        if key not in self.shared:
            with torch.inference_mode(False):  # an evaluation may be what asks first
                self.shared[key] = make()
        return cast(T, self.shared[key])

    def starts(self) -> Tensor | None:
        """For each token the first position of its document, (B, T); None without documents."""
        ids = self.documents
        return None if ids is None else self.once("starts", lambda: _starts(ids))

    def bounds(self, like_BT: Tensor) -> Tensor:
        """Where documents, or rows without them, begin in the rows laid end to end, and the end: int32 (n + 1,)."""
        starts = self.starts()
        return self.once(("bounds", like_BT.shape), lambda: _bounds(like_BT, starts))

    def same_document(self, distance: int) -> Tensor | None:
        """For each token whether the one ``distance`` before it is of its document, (B, T, 1); None without documents."""
        starts = self.starts()
        if starts is None:
            return None
        return self.once(("same_document", distance), lambda: (_positions(starts) - distance >= starts)[..., None])


def _positions(like_BT: Tensor) -> Tensor:
    return torch.arange(like_BT.shape[1], device=like_BT.device)


def _starts(ids_BT: Tensor) -> Tensor:
    first = F.pad(ids_BT[:, 1:] != ids_BT[:, :-1], (1, 0), value=True)
    return torch.where(first, _positions(ids_BT), 0).cummax(1).values


def _bounds(like_BT: Tensor, starts_BT: Tensor | None) -> Tensor:
    rows, tokens = like_BT.shape
    if starts_BT is None:
        return torch.arange(0, rows * tokens + 1, tokens, dtype=torch.int32, device=like_BT.device)
    first = (starts_BT == _positions(like_BT)).flatten().nonzero()[:, 0]
    return F.pad(first, (0, 1), value=rows * tokens).int()


class OperatorModule(nn.Module):
    """An operator as deployed in torch: parameters named as in its spec's ``weights()``, state handed in from outside."""

    def __init__(self, spec: OperatorSpec) -> None:
        super().__init__()
        self.spec = spec
        for name, weight in self.own_weights().items():
            self.register_parameter(name, nn.Parameter(torch.empty(weight.shape), requires_grad=False))

    def own_weights(self) -> dict[str, Weight]:
        """The weights that are parameters of this very module; those of its parts are theirs."""
        return self.spec.weights()

    def init_state(self, batch: int, capacity: int) -> State:
        """Zero state for contexts of up to ``capacity`` tokens, in the parameters' dtype."""
        return {}

    def forward(self, x: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Runs T tokens whose first has position ``pos``: a prefill, a chunk of one, or 1 to 8 tokens of decode.

        With a ``Packed`` as state, it runs whole sequences from position 0 for autograd to follow.

        ``x`` is (B, T, D) hidden states or (B, T) token ids; the result is (B, T, D) or logits (B, T, V).
        """
        raise NotImplementedError

    def derive(self, x: Tensor, packed: Packed) -> None:
        """Makes what ``forward`` will take from ``packed`` for a batch like ``x``, ahead of code that may be compiled."""

    def weight_dtype(self) -> torch.dtype:
        """The dtype that the module computes in."""
        return next((p.dtype for p in self.parameters()), torch.float32)


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Norms the last axis."""
    return F.rms_norm(x, (x.shape[-1],), scale, eps)


@lru_cache(maxsize=8)
def _cached_tables(head_dim: int, theta: float, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # generation may be what asks first, and training needs ordinary tensors later
        inverse = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angle = torch.outer(torch.arange(length, dtype=torch.float64), inverse)
        angle = torch.cat([angle, angle], -1)
        return angle.cos().to(dtype), angle.sin().to(dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _rope_tables(head_dim: int, theta: float, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The cached tables: the compiler sees through a cache, and would compute them in every call."""
    return _cached_tables(head_dim, theta, length, dtype)


def rope_slice(head_dim: int, theta: float, pos: int, tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, E) for positions ``pos`` and on, cut from tables that are shared by all layers."""
    length = 1 << (pos + tokens - 1).bit_length() if pos + tokens > 1 else 1
    cos, sin = _rope_tables(head_dim, theta, max(length, 4096), dtype)
    return cos[pos : pos + tokens], sin[pos : pos + tokens]


def rotate(x_BNTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Applies RoPE to heads laid out (B, heads, T, E)."""
    half = x_BNTE.shape[-1] // 2
    swapped = torch.cat([-x_BNTE[..., half:], x_BNTE[..., :half]], -1)
    return x_BNTE * cos_TE + swapped * sin_TE
