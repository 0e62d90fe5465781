"""Which cells a model's call is made of, and the rings in which they are to be measured."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprof.core.types import BenchCase, RingPlan
from edgeprof.models.block import BlockSpec
from edgeprof.models.model import model_of
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.traffic import case_bytes, working_set_bytes
from edgeprof.predict.types import ModelCall, Target

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
    """The cells of one call: the embedding, each distinct block, and the head on one token."""
    parts = model_of(target.config).parts()
    found = [
        CellCount(label="embedding", call=call, case=_end_case(target, call, parts["embedding"], call.q_len), count=1)
    ]
    counts: dict[BlockSpec, int] = {}
    for layer in target.config.layers:
        counts[layer] = counts.get(layer, 0) + 1
    for layer, count in counts.items():
        found.append(CellCount(label=block_label(layer), call=call, case=cell_case(target, call, layer), count=count))
    if with_head:
        found.append(CellCount(label="head", call=call, case=_end_case(target, call, parts["head"], 1), count=1))
    return found


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


def block_label(layer: BlockSpec) -> str:
    """A block in a few words: ``gqa 16/8x64 + swiglu 4608``."""
    d = layer.mixer.dims()
    mixer = layer.mixer.name
    if "n_heads" in d:
        mixer += f" {d['n_heads']}/{d['n_kv_heads']}x{d['head_dim']}"
    mixer += f" w{d['window']}" if "window" in d else ""
    mixer += f" k{d['kernel_size']}" if "kernel_size" in d else ""
    return f"{mixer} + {layer.ffn.name} {layer.ffn.dims()['d_ff']}"
