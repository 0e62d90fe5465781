"""The shrunken twin of an architecture: every slot and its order are kept, widths and distances are not.

A twin trains in seconds and is compared with the twins of other layouts of the same space only. What it keeps: the mixer and the
feed-forward of every slot, kernels, QK-norms, sandwich norms, which of two windows or feed-forwards is wider and by how much.
What it cannot tell apart: windows that round to the same number of tokens, how many query heads share a KV head once they share
one, head dimensions, and whatever is the same in all layouts (width, vocabulary, tying, embedding scale).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from edgeprof.models.block import BlockSpec, describe_part, part_of
from edgeprof.models.config import ArchConfig, make_layer
from edgeprof.operators.base import OperatorSpec

WINDOW_SHARE = 8
"""A space's usual window becomes this fraction of a twin's sequence: window 512 at a context of 4096.

Source: docs/search.md: with a quarter of a sequence of 64 tokens, an earlier proxy could not tell sliding-window from full
attention.
"""

FFN_RATIO = 2
"""A space's usual feed-forward becomes this many times a twin's width."""

N_HEADS = 2
"""Query heads of a twin, on one KV head wherever the original shares KV heads at all.

Source: measured, docs/search.md: with 4 query heads of 16, one KV head and two learnt recall alike; and telling the two apart by
narrower heads lets the twin learn far less, which is the head dimension's effect and not that of sharing.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinReference:
    """The usual sizes of a space, which its twins are scaled by: all layouts of a space must share one.

    ``context`` is the length that a twin's sequence stands for, ``d_ff_ratio`` the usual feed-forward over d_model.
    """

    context: int = 4096
    d_ff_ratio: float = 4.0

    def __str__(self) -> str:
        return f"context {self.context}, d_ff {self.d_ff_ratio:g} d_model"


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinSize:
    """A twin's width, vocabulary, and the tokens of its sequences."""

    d_model: int
    vocab: int
    tokens: int


def reference_of(blocks: Iterable[BlockSpec]) -> TwinReference:
    """The reference of a space from the blocks that occur in it: the middle of its windows and of its feed-forwards.

    The middle is the geometric one of the smallest and the largest. A space without windows has the default context.
    """
    blocks = list(blocks)
    windows = [float(b.mixer.dims()["window"]) for b in blocks if "window" in b.mixer.dims()]
    ratios = [float(b.ffn.dims()["d_ff"]) / b.d_model for b in blocks]
    context = round(WINDOW_SHARE * _middle(windows)) if windows else TwinReference().context
    return TwinReference(context=context, d_ff_ratio=_middle(ratios))


def _middle(values: list[float]) -> float:
    return math.sqrt(min(values) * max(values))


def shrink(config: ArchConfig, size: TwinSize, reference: TwinReference) -> ArchConfig:
    """The twin of an architecture: as many layers, each with the same operators."""
    layers = tuple(
        make_layer(
            config.norm_eps,
            config.sandwich_norm,
            _small_mixer(layer.mixer, size, reference),
            _small_ffn(layer.ffn, size, reference),
        )
        for layer in config.layers
    )
    return ArchConfig(
        name=f"twin of {config.name}",
        d_model=size.d_model,
        vocab=size.vocab,
        norm_eps=config.norm_eps,
        sandwich_norm=config.sandwich_norm,
        max_context=size.tokens,
        layers=layers,
    )


def _small_mixer(mixer: OperatorSpec, size: TwinSize, reference: TwinReference) -> OperatorSpec:
    """The mixer at the twin's width; its own dimensions (kernel, QK-norm, theta) stay, heads and window shrink."""
    dims = describe_part(mixer)
    if "n_heads" in dims:
        n_kv_heads = 1 if dims["n_kv_heads"] != dims["n_heads"] else N_HEADS
        dims |= {"n_heads": N_HEADS, "n_kv_heads": n_kv_heads, "head_dim": size.d_model // N_HEADS}
    if "window" in dims:
        dims["window"] = _small_window(int(dims["window"]), size.tokens, reference.context)
    return part_of(size.d_model, dims)


def _small_window(window: int, tokens: int, context: int) -> int:
    """The window as a share of the context, in tokens of the twin: 2 at least, and never as wide as full attention."""
    return max(2, min(tokens // 2, round(tokens * window / context)))


def _small_ffn(ffn: OperatorSpec, size: TwinSize, reference: TwinReference) -> OperatorSpec:
    """The feed-forward, as much wider or narrower than the usual one as it is in the original."""
    dims = describe_part(ffn)
    relative = int(dims["d_ff"]) / ffn.width() / reference.d_ff_ratio
    return part_of(size.d_model, dims | {"d_ff": max(2, round(FFN_RATIO * size.d_model * relative))})
