"""Neighbours whose costs do not add up: how a pair is measured beside its blocks, and the device's list of those found."""

import datetime
import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from filelock import FileLock

from edgeprof.core.canonical import canonical_json
from edgeprof.core.errors import UsageError
from edgeprof.core.types import RingPlan
from edgeprof.models.block import BlockSpec
from edgeprof.models.pair import PairSpec
from edgeprof.operators.traffic import working_set_bytes
from edgeprof.predict.estimate import LEAST_PROCESSES
from edgeprof.predict.evidence import Evidence
from edgeprof.predict.plan import cell_case, cells, make_ring, working_set
from edgeprof.predict.types import ModelCall, Target
from edgeprof.stats.intervals import exp_bounds, half_width, trimmed_mean

if TYPE_CHECKING:
    from pydantic import TypeAdapter

NEIGHBOURS_FILE = "neighbours.jsonl"
LOCK_FILE = "neighbours.lock"
LOCK_TIMEOUT_S = 60

NEIGHBOURS_SCHEMA_VERSION = 1

LEAST_EFFECT = 0.05
"""A pair that costs within this of the sum of its blocks is additive for every purpose here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Two blocks that cost ``ratio`` times the sum of their own costs when one follows the other; a line of the device's list.

    ``first`` and ``second`` are the blocks' ``layer`` texts.
    """

    runtime: str
    dtype: str
    kv_dtype: str
    n_threads: int
    phase: Literal["decode", "prefill"]
    d_model: int
    first: str
    second: str
    ratio: float
    ci95: tuple[float, float]
    session_id: str
    at: str
    schema_version: int = NEIGHBOURS_SCHEMA_VERSION

    @property
    def pair(self) -> PairSpec:
        """The two as one cell."""
        return PairSpec(d_model=self.d_model, first=self.first, second=self.second)

    def met_in(self, target: Target) -> bool:
        """Whether the target runs where they were found."""
        there = (target.runtime, target.dtype, target.kv_dtype, target.n_threads, target.config.d_model)
        return there == (self.runtime, self.dtype, self.kv_dtype, self.n_threads, self.d_model)


def pair_ring(target: Target, call: ModelCall, pair: PairSpec, group: str) -> RingPlan:
    """A ring of the pair beside its two blocks, in as many turns as fit the model's working set."""
    first, *_, last = cells(target, call)
    turn = [cell_case(target, call, spec) for spec in (*dict.fromkeys(pair.blocks()), pair)]
    left = working_set(target, call) - working_set_bytes([first.case, last.case])
    turns = max(1, math.floor(left / working_set_bytes(turn))) if call.phase == "decode" else 1
    return make_ring(first.case, turn, turns, last.case, group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a pair costs in units of the sum of its blocks, with the bounds that hold it at 95 %."""

    ratio: float
    ci95: tuple[float, float]

    def beyond(self, noise: float) -> bool:
        """Whether it is surely not 1, and farther from it than ``noise`` and than what matters."""
        apart = not self.ci95[0] <= 1.0 <= self.ci95[1]
        return apart and abs(self.ratio - 1) > max(LEAST_EFFECT, noise)


def pair_effect(target: Target, call: ModelCall, pair: PairSpec, evidence: Evidence) -> Effect | None:
    """Pair over sum of its blocks, process by process in the rings that hold all of them; None of too few processes."""
    specs: list[BlockSpec | PairSpec] = [pair, *pair.blocks()]
    whole, first, second = (evidence.curves(cell_case(target, call, spec)) for spec in specs)
    ratios = []
    for process in sorted(whole.keys() & first.keys() & second.keys()):
        shared = whole[process].points.keys() & first[process].points.keys() & second[process].points.keys()
        for size in sorted(shared)[:1]:
            apart = first[process].points[size] + second[process].points[size]
            ratios.append(math.log(whole[process].points[size] / apart))
    if len(ratios) < LEAST_PROCESSES:
        return None
    mean = trimmed_mean(np.array(ratios))
    centre = float(mean.centre)
    return Effect(ratio=math.exp(centre), ci95=exp_bounds(centre, float(half_width(mean))))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairResult:
    """A pair that was measured beside its blocks. ``effect`` is None where it has no times, and ``reason`` says why.

    ``is_term`` pairs are not additive: predictions count them as one cell from now on.
    """

    target: Target
    call: ModelCall
    pair: PairSpec
    effect: Effect | None
    is_term: bool = False
    reason: str | None = None


def judge(
    target: Target, call: ModelCall, pair: PairSpec, evidence: Evidence, noise: float, failed: Mapping[str, str]
) -> PairResult:
    """Whether the pair costs something else than its blocks; ``failed`` says of case keys why they have no times."""
    effect = pair_effect(target, call, pair, evidence)
    reasons = [failed[case.key] for case in pair_ring(target, call, pair, "").cases if case.key in failed]
    if effect is None:
        return PairResult(
            target=target,
            call=call,
            pair=pair,
            effect=None,
            reason=next(iter(reasons), "too few processes measured it"),
        )
    return PairResult(target=target, call=call, pair=pair, effect=effect, is_term=effect.beyond(noise))


def to_neighbours(result: PairResult, session_id: str) -> Neighbours:
    """The line that says what was found."""
    target, effect = result.target, result.effect
    assert effect is not None
    return Neighbours(
        runtime=target.runtime,
        dtype=target.dtype,
        kv_dtype=target.kv_dtype,
        n_threads=target.n_threads,
        phase=result.call.phase,
        d_model=result.pair.d_model,
        first=result.pair.first,
        second=result.pair.second,
        ratio=effect.ratio,
        ci95=effect.ci95,
        session_id=session_id,
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def read_neighbours(folder: Path) -> list[Neighbours]:
    """The device's known neighbours; none if it has no list.

    Raises:
        UsageError: a line cannot be read: names it.
    """
    path = folder / NEIGHBOURS_FILE
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            one = _adapter().validate_json(line)
            if one.schema_version != NEIGHBOURS_SCHEMA_VERSION:
                raise ValueError(f"schema_version {one.schema_version}, and this edgeprof reads 1")
            one.pair.check()
        except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
            said = " ".join(str(error).split())[:200]
            raise UsageError(f"{path}:{number}: not a pair of neighbours ({said}); delete the line") from None
        found.append(one)
    return found


@functools.cache
def _adapter() -> "TypeAdapter[Neighbours]":
    """Pydantic's validator; imported here because start-up must stay fast."""
    from pydantic import ConfigDict, TypeAdapter, with_config

    with_config(ConfigDict(extra="forbid", allow_inf_nan=False))(Neighbours)
    return TypeAdapter(Neighbours)


def append_neighbours(folder: Path, found: Sequence[Neighbours]) -> None:
    """Appends lines to the device's list under a lock; they are on the disk before this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(canonical_json(one) + "\n" for one in found)
    with FileLock(folder / LOCK_FILE, timeout=LOCK_TIMEOUT_S), (folder / NEIGHBOURS_FILE).open("a") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
