"""What a check measured, line by line as it was measured: a verdict can be had from it again, at any time and by anyone.

The first line says what was planned. ``block`` lines hold every sample of one block of one case, ``memory`` lines one reading of
a fresh process, ``failure`` lines why a case has no more of them. A check that was interrupted leaves all that it had.
"""

import datetime
import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeprof.core.canonical import canonical_json, plain
from edgeprof.core.errors import UsageError
from edgeprof.core.types import BenchCase
from edgeprof.regress.sequential import Block, Plan
from edgeprof.regress.sides import SideName
from edgeprof.stats.quantiles import log_median
from edgeprof.stats.turns import log_times_in_turns

RECORDING_SCHEMA_VERSION = 1

MAX_RECORDING_BYTES = 2**30
"""A check of an hour leaves some ten MB."""

ORDERS = ("ABBA", "BAAB")
"""Orders of a block: A is the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBlock:
    """One block of one case: the samples in ns of each load of its four processes, in the order measured.

    ``run`` is 1, or 2 for the fresh blocks that a suspicion is checked with. ``order`` says which of the processes are the base's
    (A) and the head's (B).
    """

    case_key: str
    run: int
    order: str
    processes: tuple[tuple[tuple[int, ...], ...], ...]
    at: str

    def block(self) -> Block:
        """The block's times, compared load by load."""
        times = log_times_in_turns(self.processes)
        base, head = ([time for letter, time in zip(self.order, times, strict=True) if letter == side] for side in "AB")
        return Block(base=(base[0], base[1]), head=(head[0], head[1]))


def process_time(loads: Sequence[Sequence[int]]) -> float:
    """A process's time for a case by itself: mean of the logarithms of its loads' medians in ns, over the better half of them.

    Where a load's memory happens to lie, and other tenants, can only slow it down, so the best loads of a process repeat best.
    The best of more loads are better, so both sides need equally many.

    Raises:
        ValueError: there is no load, or one has no samples.
    """
    if not loads:
        raise ValueError("a process needs at least one load")
    best = sorted(log_median(samples) for samples in loads)[: (len(loads) + 1) // 2]
    return sum(best) / len(best)


@dataclass(slots=True, kw_only=True)
class Recorded:
    """All of a recording. ``memory`` and ``failures`` are by case key; a failure's text names its side.

    ``identical`` cases run the same artifact with the same code and packages on both sides; ``untimed`` are those of them that
    were left out for it.
    """

    header: dict[str, Any]
    plan: Plan
    cases: dict[str, BenchCase]
    raw_blocks: list[RawBlock] = field(default_factory=list)
    p50_ns: dict[str, dict[SideName, list[int]]] = field(default_factory=dict)
    memory: dict[str, dict[SideName, list[int]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    identical: frozenset[str] = frozenset()
    untimed: frozenset[str] = frozenset()
    file_bytes: dict[str, dict[SideName, int]] = field(default_factory=dict)
    seconds: float = 0.0
    seconds_a_block: float = 0.0

    def blocks(self, run: int) -> dict[str, list[Block]]:
        """The blocks of a run by case key, in the order measured."""
        found: dict[str, list[Block]] = {}
        for raw in self.raw_blocks:
            if raw.run == run:
                found.setdefault(raw.case_key, []).append(raw.block())
        return found


class Recording:
    """Writes a recording; every line is in the file before the next thing is measured."""

    def __init__(self, folder: Path) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self.path = folder / "checks" / f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}.jsonl"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{folder}: cannot be written ({error.strerror}); choose another with --results") from None

    def begin(self, plan: Plan, cases: Mapping[str, BenchCase], **facts: Any) -> None:
        """Says what is planned, before anything is measured."""
        listed = [{"case_key": key, "case": case} for key, case in cases.items()]
        header = {"schema_version": RECORDING_SCHEMA_VERSION, "plan": plan, "cases": listed, **facts}
        self._write("check", header)

    def block(self, raw: RawBlock) -> None:
        """Adds a block."""
        self._write("block", plain(raw))

    def memory(self, case_key: str, side: SideName, reading: Mapping[str, Any]) -> None:
        """Adds what one probe found: memory and numerics."""
        self._write("memory", {"case_key": case_key, "side": side, **reading})

    def prepared(self, **facts: Any) -> None:
        """Says what both sides built."""
        self._write("prepared", facts)

    def failure(self, case_key: str, reason: str) -> None:
        """Adds why a case is measured no more."""
        self._write("failure", {"case_key": case_key, "reason": reason})

    def end(self, **facts: Any) -> None:
        """Says that the check came to its end, and what it took."""
        self._write("end", facts)

    def _write(self, kind: str, content: Mapping[str, Any]) -> None:
        self._file.write(canonical_json({"kind": kind, **plain(dict(content))}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def now() -> str:
    """The time of day for a line, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def read_recording(path: Path) -> Recorded:
    """A recording; a torn last line is left out.

    Raises:
        UsageError: it cannot be read, or a line is none of a recording: names the line and what is wrong.
    """
    lines = list(_lines(path))
    if not lines or lines[0][1].get("kind") != "check":
        raise UsageError(f"{path}: line 1: is no recording of a check; give a file below checks/ in the results")
    version = lines[0][1].get("schema_version")
    if version != RECORDING_SCHEMA_VERSION:
        raise UsageError(
            f"{path}: schema_version: {version!r} is not {RECORDING_SCHEMA_VERSION}; use the edgeprof that wrote it"
        )
    at = 1
    try:
        header = lines[0][1]
        cases = {str(entry["case_key"]): BenchCase(**entry["case"]) for entry in header["cases"]}
        plan = Plan(**{**header["plan"], "looks": tuple(header["plan"]["looks"])})
        found = Recorded(header=header, plan=plan, cases=cases)
        for name in ("sides", "facts"):
            _ = header[name]["base"], header[name]["head"]
        _ = header["device_id"], header["with_memory"]
        for at, line in lines[1:]:  # noqa: B007 - the error below names it
            _take(found, line)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(f"{path}: line {at}: {type(error).__name__}: {error}; correct or remove the line") from None
    return found


def _take(found: Recorded, line: dict[str, Any]) -> None:
    """Adds a line to what was found.

    Raises:
        KeyError, TypeError, ValueError: it is none of a recording.
    """
    kind = line.pop("kind")
    if kind == "end":
        found.seconds, found.seconds_a_block = float(line["seconds"]), float(line["seconds_a_block"])
        return
    if kind == "prepared":
        found.identical, found.untimed = frozenset(line["identical"]), frozenset(line["untimed"])
        found.file_bytes = {
            str(key): {"base": _whole(sides["base"]), "head": _whole(sides["head"])}
            for key, sides in line["file_bytes"].items()
        }
        return
    key = line["case_key"]
    if key not in found.cases:
        raise ValueError(f"case_key: {key!r:.40} is not among the header's cases")
    if kind == "block":
        processes = tuple(tuple(tuple(_whole(ns) for ns in load) for load in one) for one in line.pop("processes"))
        raw = RawBlock(**line, processes=processes)
        if raw.order not in ORDERS or raw.run not in (1, 2):
            raise ValueError(f"order {raw.order!r:.20}, run {raw.run!r:.20}: no such block")
        if len(processes) != len(raw.order) or len(set(map(len, processes))) != 1:
            raise ValueError("processes: a block has four of them, with equally many loads")
        found.raw_blocks.append(raw)
        add_p50(found.p50_ns, raw)
    elif kind == "memory":
        peak = (line.get("memory") or {}).get("peak_rss_delta_bytes")
        if peak is not None:
            found.memory.setdefault(key, {"base": [], "head": []})[line["side"]].append(_whole(peak))
    elif kind == "failure":
        found.failures[key] = str(line["reason"])
    else:
        raise ValueError(f"kind: {kind!r:.40} is unknown")


def add_p50(found: dict[str, dict[SideName, list[int]]], raw: RawBlock) -> None:
    """Keeps the median of every process's best loads, for people to read."""
    sides = found.setdefault(raw.case_key, {"base": [], "head": []})
    for letter, loads in zip(raw.order, raw.processes, strict=True):
        side: SideName = "base" if letter == "A" else "head"
        sides[side].append(round(math.exp(process_time(loads))))


def _whole(value: Any) -> int:
    if type(value) is not int or value <= 0:
        raise ValueError(f"{value!r:.40} is not a positive whole number")
    return value


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        if path.stat().st_size > MAX_RECORDING_BYTES:
            raise UsageError(f"{path}: is too large for a recording")
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a recording of edgeprof check") from None
    whole = content[: content.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}: line {number}: not JSON ({error}); correct or remove the line") from None
        if not isinstance(value, dict):
            raise UsageError(f"{path}: line {number}: is no object; correct or remove the line")
        yield number, value
