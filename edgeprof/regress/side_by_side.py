"""Blocks of base and head, measured in turns: four fresh processes live at once on the same CPUs, and only one of them works.

What a block compares lies a fraction of a second apart, so that a host whose speed drifts over seconds drifts over both sides.
All cases of a runtime and number of threads share the four processes, which saves starting them for each. For each case a
coin says whether the base comes first and last (ABBA) or the head (BAAB); another one, which side's processes start first.
"""

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

from edgeprof.bench.jobs import Item, Job
from edgeprof.bench.rings import streaming_rings
from edgeprof.bench.session import SILENCE_S, MisplacedError
from edgeprof.core.types import BenchCase, MeasureProtocol
from edgeprof.devices.worker_process import Event, WorkerLostError
from edgeprof.regress.paced import PacedWorker
from edgeprof.regress.recording import ORDERS, RawBlock, Recording, now
from edgeprof.regress.sequential import Block
from edgeprof.regress.sides import Side, SideFacts, SideName

MS = 1_000_000

PROTOCOL = MeasureProtocol(
    effort="check",
    rounds=1,
    loads=5,
    min_samples=5,
    max_samples=30,
    time_budget_ns=20 * MS,
    warmup_budget_ns=20 * MS,
)
"""Counts of a check: many short loads tell more than few long ones, as loads scatter, and the host does from moment to moment.

Of four, five, six and eight, five caught most slowdowns by 5 % within 60 s a case, drawn from 19 recorded blocks of eight loads.
Those scatter by 1.9 % with four loads of a process, by 1.4 % with five and by 1.0 % with eight; but every block takes longer with
more, and no case is clear before ten blocks.
"""

MAX_LOST = 2
"""Workers that may be lost under a case before it counts as failed: one may be the host's doing."""

LETTERS: dict[str, SideName] = {"A": "base", "B": "head"}


class BlockSource(Protocol):
    """Where blocks come from."""

    def measure(self, wanted: Mapping[str, int]) -> dict[str, Block]:
        """One block of each case that ``wanted`` names with its run; those that failed are left out and in ``failures``."""

    @property
    def failures(self) -> Mapping[str, str]:
        """Why a case can be measured no more, by its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What takes a turn: a hot case, or a ring with all of its cases. ``items`` are those of one process, by side."""

    case_keys: tuple[str, ...]
    items: Mapping[SideName, tuple[Item, ...]]


class SideBySide:
    """Measures blocks of two sides on this host."""

    def __init__(
        self,
        sides: Mapping[SideName, Side],
        facts: Mapping[SideName, SideFacts],
        cases: Sequence[BenchCase],
        *,
        cpus: Mapping[int, list[int]],
        recording: Recording,
        seed: int,
    ) -> None:
        """``cpus`` are those to pin each number of threads to; ``seed`` fixes the coins."""
        self._sides = sides
        self._facts = facts
        self._cases = {case.key: case for case in cases}
        self._cpus = cpus
        self._recording = recording
        self._random = random.Random(seed)  # noqa: S311 - coins of an experiment, not a secret
        self._lost: dict[str, int] = {}
        self.failures: dict[str, str] = {}

    def measure(self, wanted: Mapping[str, int]) -> dict[str, Block]:
        """One block of each case, all of a group in the same four processes."""
        found: dict[str, Block] = {}
        groups: dict[tuple[str, int], list[BenchCase]] = {}
        for key in wanted:
            if key not in self.failures:
                case = self._cases[key]
                groups.setdefault((case.runtime, case.n_threads), []).append(case)
        for cases in groups.values():
            found |= self._measure_group(cases, wanted)
        return found

    def _measure_group(self, cases: Sequence[BenchCase], wanted: Mapping[str, int]) -> dict[str, Block]:
        units = units_of(cases, self._facts)
        self._random.shuffle(units)
        found: dict[str, Block] = {}
        current: Sequence[str] = [case.key for case in cases]
        try:
            with ExitStack() as stack:
                workers = self._start(units, stack)
                for unit in units:
                    current = unit.case_keys
                    for raw in self._take_turns(unit, workers, wanted):
                        self._recording.block(raw)
                        found[raw.case_key] = raw.block()
        except MisplacedError as misplaced:
            for case in cases:
                self._fail(case.key, str(misplaced))
        except WorkerLostError as lost:
            self._count_lost(current, str(lost))
        return found

    def _start(self, units: Sequence[Unit], stack: ExitStack) -> dict[SideName, list[PacedWorker]]:
        """Two processes of each side, started together in an order that a coin decides; nothing is timed before all are ready."""
        case = self._cases[units[0].case_keys[0]]
        workers: dict[SideName, list[PacedWorker]] = {"base": [], "head": []}
        for letter in self._random.choice(ORDERS):
            name = LETTERS[letter]
            job = Job(
                runtime=case.runtime,
                n_threads=case.n_threads,
                cpus=self._cpus[case.n_threads],
                items=[self._varied(item) for unit in units for item in unit.items[name]],
                protocol=PROTOCOL,
            )
            workers[name].append(stack.enter_context(PacedWorker(self._sides[name], job, silence_s=SILENCE_S)))
        for worker in (*workers["base"], *workers["head"]):
            worker.wait_until_ready()
        return workers

    def _varied(self, item: Item) -> Item:
        return replace(item, seed=self._random.randrange(1, 2**31))

    def _take_turns(
        self, unit: Unit, workers: Mapping[SideName, Sequence[PacedWorker]], wanted: Mapping[str, int]
    ) -> list[RawBlock]:
        """One load after the other in the block's order, as often as a process has loads."""
        order = self._random.choice(ORDERS)
        left = {name: iter(pair) for name, pair in workers.items()}
        turn = [next(left[LETTERS[letter]]) for letter in order]
        done: list[list[Event]] = [[] for _ in turn]
        for _ in unit.items["base"]:
            for worker, events in zip(turn, done, strict=True):
                event = worker.step()
                if event["event"] == "failed":
                    for key in unit.case_keys:
                        self._fail(key, f"{worker.side.name}: {event['reason']}")
                events.append(event)
        return [
            RawBlock(
                case_key=key,
                run=wanted[key],
                order=order,
                processes=tuple(tuple(loads_of(events, unit.items["base"][0], key)) for events in done),
                at=now(),
            )
            for key in unit.case_keys
            if key not in self.failures
        ]

    def _count_lost(self, keys: Sequence[str], reason: str) -> None:
        for key in keys:
            self._lost[key] = self._lost.get(key, 0) + 1
            if self._lost[key] >= MAX_LOST:
                self._fail(key, reason)

    def _fail(self, key: str, reason: str) -> None:
        if key not in self.failures:
            self.failures[key] = reason
            self._recording.failure(key, reason)


def units_of(cases: Sequence[BenchCase], facts: Mapping[SideName, SideFacts]) -> list[Unit]:
    """What takes turns for these cases, with each side's own artifacts: hot cases one by one, streaming ones by their ring."""

    def artifact(name: SideName, case: BenchCase) -> str:
        key = facts[name].cases[case.key].artifact_key
        assert key is not None, f"{name} was not asked about {case}"
        return key

    units = []
    for case in cases:
        if case.cache_state == "hot":
            hot = {name: Item(kind="hot", case=case, artifact_key=artifact(name, case)) for name in facts}
            units.append(
                Unit(case_keys=(case.key,), items={name: (item,) * PROTOCOL.loads for name, item in hot.items()})
            )
    for ring in streaming_rings(case for case in cases if case.cache_state == "streaming"):
        rings = {name: [replace(slot, artifact_key=artifact(name, slot.case)) for slot in ring.slots] for name in facts}
        units.append(
            Unit(
                case_keys=tuple(ring.per_round),
                items={name: (Item(kind="ring", slots=slots),) for name, slots in rings.items()},
            )
        )
    return units


def loads_of(events: Sequence[Event], item: Item, key: str) -> list[tuple[int, ...]]:
    """The samples of each load of a case in one process."""
    if item.kind == "hot":
        return [tuple(event["samples_ns"]) for event in events]
    return [
        tuple(row["samples_ns"])
        for event in events
        for slot, row in zip(item.slots, event["slots"], strict=True)
        if slot.case_key == key
    ]
