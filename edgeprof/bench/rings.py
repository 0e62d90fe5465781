"""Rings down to their slots: those that are asked for as such, and those that streaming cases are put into.

The latter say which cells share a ring, in which order, and how often, so that its working set reaches the one stated.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from edgeprof.bench.jobs import RingSlot
from edgeprof.core.types import BenchCase, RingPlan
from edgeprof.operators.base import Dims
from edgeprof.operators.registry import make_spec
from edgeprof.operators.traffic import working_set_bytes
from edgeprof.runtimes.artifact import artifact_spec

MAX_TURNS = 8
"""Bounds the loads of one process; a ring of cells too small to reach the stated working set says its own."""

FILLER_RATIO = 4.5
"""d_ff over d_model of the feed-forward between mixers: LFM2-350M's, 4608 / 1024."""

MIXERS = ("short_conv", "swa", "gqa")


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembledRing:
    """A ring as a process measures it: its slots in order, ``loads`` times, beside the rings of the same ``group``.

    ``per_round`` says how many records of each case make a round complete.
    """

    slots: list[RingSlot]
    per_round: dict[str, int]
    group: str = ""
    loads: int = 1


def planned_ring(plan: RingPlan) -> AssembledRing:
    """The ring that was asked for: the null cell stands behind every turn, and a round without all of its records is none."""
    assert len({(c.runtime, c.n_threads, c.phase, c.ring_bytes) for c in plan.cases}) == 1, plan
    turn = [_slot(case, case.key) for case in plan.turn]
    turn.append(_slot(null_case(plan.turn[0]), None))
    first, last = ([] if case is None else [_slot(case, case.key)] for case in (plan.first, plan.last))
    slots = [*first, *turn * plan.turns, *last]
    records = Counter(slot.case_key for slot in slots if slot.case_key is not None)
    per_round = {key: plan.loads * count for key, count in records.items()}
    return AssembledRing(slots=slots, per_round=per_round, group=plan.group, loads=plan.loads)


def streaming_rings(cases: Iterable[BenchCase]) -> list[AssembledRing]:
    """The rings of single streaming cases; how often a case comes in its ring depends on the others, so once is enough."""
    return [
        AssembledRing(slots=ring_slots(group), per_round=dict.fromkeys((c.key for c in group), 1))
        for group in ring_groups(cases)
    ]


def ring_groups(cases: Iterable[BenchCase]) -> list[list[BenchCase]]:
    """The streaming cases that can be called in one ring: equal in all but operator, dimensions and context."""
    groups: dict[tuple[object, ...], list[BenchCase]] = {}
    for case in cases:
        key = (
            case.runtime,
            case.dtype,
            case.kv_dtype,
            case.phase,
            case.q_len,
            case.batch,
            case.n_threads,
            case.ring_bytes,
            make_spec(case.op, case.dims).width(),
        )
        groups.setdefault(key, []).append(case)
    return list(groups.values())


def null_case(case: BenchCase) -> BenchCase:
    """The identity operator beside ``case``: its time is the call boundary. Always in fp32, which every runtime offers."""
    width = make_spec(case.op, case.dims).width()
    return dataclasses.replace(
        case, op="identity", op_version=1, dims={"d_model": width}, dtype="fp32", kv_dtype="fp32", kv_len=case.q_len
    )


def filler_case(case: BenchCase) -> BenchCase:
    """The feed-forward that follows a mixer in a model, in the mixer's own format."""
    width = make_spec(case.op, case.dims).width()
    dims: Dims = {"d_model": width, "d_ff": max(32, round(FILLER_RATIO * width / 32) * 32)}
    kv_dtype = "bf16" if case.dtype == "bf16" else "fp32"
    return dataclasses.replace(case, op="swiglu", op_version=1, dims=dims, kv_dtype=kv_dtype, kv_len=case.q_len)


def needs_filler(case: BenchCase) -> bool:
    """Whether a feed-forward follows ``case`` in its ring: only decode rings are filled up, prefill rings stay small."""
    return case.phase == "decode" and case.op in MIXERS


def ring_slots(cases: list[BenchCase]) -> list[RingSlot]:
    """The ring of one group in the order of a model: each mixer, then its feed-forward; the null cell ends each turn.

    Turns repeat until the working set of a pass reaches the cases' ``ring_bytes``; prefill takes one turn.
    """
    order = sorted(
        cases, key=lambda c: (c.op not in MIXERS, MIXERS.index(c.op) if c.op in MIXERS else 0, c.op, c.kv_len)
    )
    turn: list[RingSlot] = []
    for case in order:
        turn.append(_slot(case, case.key))
        if needs_filler(case):
            turn.append(_slot(filler_case(case), None))
    turn.append(_slot(null_case(cases[0]), None))
    if cases[0].phase == "prefill":
        return turn
    turns = math.ceil((cases[0].ring_bytes or 0) / max(1, working_set_bytes(slot.case for slot in turn)))
    return turn * max(1, min(turns, MAX_TURNS))


def _slot(case: BenchCase, key: str | None) -> RingSlot:
    return RingSlot(artifact_key=artifact_spec(case).key, case=case, case_key=key)
