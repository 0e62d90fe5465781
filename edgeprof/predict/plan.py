"""Which cells a model's call is made of, and the rings in which they are to be measured."""

import dataclasses
import math
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

from edgeprof.core.types import BenchCase, RingPlan
from edgeprof.models.block import BlockSpec
from edgeprof.models.model import model_of
from edgeprof.models.pair import PairSpec, pair_of
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.traffic import case_bytes, working_set_bytes
from edgeprof.predict.types import ModelCall, Target

MAX_CHUNKS = 1024
"""More chunks of a prompt than this are a mistake: each of them is cells of its own context."""

MAX_PREFILL_TURNS = 2
"""Prefill rings stay small: many loaded sessions that each keep an arena of their own overcharge each other, and a prefill is
bound by arithmetic, so its cells cost nearly the same in any working set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellCount:
    """A cell, as a case without a ring, and how often a call runs it."""

    label: str
    call: ModelCall
    case: BenchCase
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a cell stands in a model: the parts, by path, that it stands for."""

    spec: OperatorSpec
    paths: tuple[str, ...]


def decode_call(context: int) -> ModelCall:
    """One generated token that ends a context of ``context`` tokens."""
    return ModelCall(phase="decode", q_len=1, kv_len=context)


def prefill_calls(prompt: int, chunk: int | None) -> tuple[ModelCall, ...]:
    """The calls that take in a prompt: one, or chunks of ``chunk`` tokens at their growing context, the last one shorter."""
    size = chunk or prompt
    ends = [*range(size, prompt, size), prompt]
    begins = [0, *ends[:-1]]
    return tuple(ModelCall(phase="prefill", q_len=e - b, kv_len=e) for b, e in zip(begins, ends, strict=True))


def cells(target: Target, call: ModelCall, *, with_head: bool = True) -> list[CellCount]:
    """The cells of one call: the embedding, each distinct block or known pair of blocks, and the head on one token."""
    first, *body, last = places(target, call)
    ends = {place.spec: _end_case(target, call, place.spec, n) for place, n in ((first, call.q_len), (last, 1))}
    counts = Counter(place.spec for place in (first, *body, *([last] if with_head else [])))
    return [
        CellCount(label=cell_label(spec), call=call, case=ends.get(spec) or cell_case(target, call, spec), count=count)
        for spec, count in counts.items()
    ]


def places(target: Target, call: ModelCall) -> list[Place]:
    """The model's parts in order, each with the cell that stands for it.

    Neighbours that are known not to be additive in the call's phase are one cell, wherever the two follow each other: from
    the left, and no block is in two pairs.
    """
    parts = model_of(target.config).parts()
    layers, pairs = target.config.layers, target.pairs_in(call.phase)
    found = [Place(spec=parts["embedding"], paths=("embedding",))]
    index = 0
    while index < len(layers):
        spec = _cell_at(layers, index, pairs)
        n = 2 if isinstance(spec, PairSpec) else 1
        found.append(Place(spec=spec, paths=tuple(f"layers.{i}" for i in range(index, index + n))))
        index += n
    return [*found, Place(spec=parts["head"], paths=("head",))]


def _cell_at(layers: Sequence[BlockSpec], index: int, pairs: Container[PairSpec]) -> BlockSpec | PairSpec:
    """The known pair that begins at a layer, or the layer's block alone."""
    if index + 1 < len(layers):
        both = pair_of(layers[index], layers[index + 1])
        if both in pairs:
            return both
    return layers[index]


def cell_case(target: Target, call: ModelCall, spec: OperatorSpec) -> BenchCase:
    """An operator, block or model as a streaming case of this call, its ring still open."""
    return BenchCase(
        op=spec.name,
        op_version=spec.version,
        phase=call.phase,
        dims=spec.dims(),
        batch=target.batch,
        q_len=call.q_len,
        kv_len=call.kv_len,
        dtype=target.dtype,
        kv_dtype=target.kv_dtype,
        runtime=target.runtime,
        n_threads=target.n_threads,
        cache_state="streaming",
    )


def _end_case(target: Target, call: ModelCall, spec: OperatorSpec, q_len: int) -> BenchCase:
    """Embedding and head know no context: theirs is their own tokens, so one cell serves every context."""
    return dataclasses.replace(cell_case(target, call, spec), q_len=q_len, kv_len=q_len)


def model_case(target: Target, call: ModelCall) -> BenchCase:
    """The whole model as a case."""
    return cell_case(target, call, model_of(target.config))


def working_set(target: Target, call: ModelCall) -> int:
    """Bytes of weights and state that one call of the whole model touches."""
    return case_bytes(model_case(target, call))


def cell_rings(target: Target, call: ModelCall, group: str = "") -> list[RingPlan]:
    """The rings whose working sets lie around the model's own: its distinct blocks in turns, between embedding and head."""
    found = cells(target, call)
    ends, blocks = working_set_bytes([found[0].case, found[-1].case]), [c.case for c in found[1:-1]]
    turns = (working_set(target, call) - ends) / working_set_bytes(blocks)
    low = max(1, math.floor(turns + 1e-9))
    chosen = [low] if turns - low < 0.02 else [low, low + 1]
    if call.phase == "prefill":
        chosen = sorted({min(n, MAX_PREFILL_TURNS) for n in (1, *chosen)})
    return [make_ring(found[0].case, blocks, n, found[-1].case, group) for n in chosen]


def make_ring(first: BenchCase, turn: Sequence[BenchCase], turns: int, last: BenchCase, group: str = "") -> RingPlan:
    """A ring whose cases state its working set."""
    size = working_set_bytes([first, *list(turn) * turns, last])
    first, last = (dataclasses.replace(case, ring_bytes=size) for case in (first, last))
    return RingPlan(
        first=first,
        turn=tuple(dataclasses.replace(case, ring_bytes=size) for case in turn),
        turns=turns,
        last=last,
        group=group,
    )


def model_ring(target: Target, call: ModelCall, group: str, loads: int) -> RingPlan:
    """The whole model called over and over, as generation does."""
    case = model_case(target, call)
    return RingPlan(turn=(dataclasses.replace(case, ring_bytes=case_bytes(case)),), group=group, loads=loads)


def cell_label(spec: OperatorSpec) -> str:
    """A cell in a few words: its operator's name, what is in a block, and a pair's blocks in order."""
    if isinstance(spec, PairSpec):
        return " > ".join(map(block_label, spec.blocks()))
    return block_label(spec) if isinstance(spec, BlockSpec) else spec.name


def block_label(layer: BlockSpec) -> str:
    """A block in a few words: ``gqa 16/8x64 + swiglu 4608``."""
    d = layer.mixer.dims()
    mixer = layer.mixer.name
    if "n_heads" in d:
        mixer += f" {d['n_heads']}/{d['n_kv_heads']}x{d['head_dim']}"
    mixer += f" w{d['window']}" if "window" in d else ""
    mixer += f" k{d['kernel_size']}" if "kernel_size" in d else ""
    return f"{mixer} + {layer.ffn.name} {layer.ffn.dims()['d_ff']}"
