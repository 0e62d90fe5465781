"""What goes to a worker and what comes back: plain data, one JSON document in, one JSON line an event out."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeprof.core.canonical import plain
from edgeprof.core.types import ArtifactSpec, BenchCase, MeasureProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSlot:
    """One place of a ring: a separately loaded cell. ``case_key`` is None for filler whose times nobody asked for."""

    artifact_key: str
    case: BenchCase
    case_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One unit of a job, begun and finished by an event of its own.

    A build has a ``spec``; a probe, a trace and a hot load have a ``case`` with its ``artifact_key``; a ring has ``slots``.
    ``seed`` varies the bytes of every load; ``null_artifact_key`` is the identity operator, called before memory is measured.
    """

    kind: Literal["build", "probe", "hot", "ring", "roof", "trace"]
    seed: int = 0
    spec: ArtifactSpec | None = None
    case: BenchCase | None = None
    artifact_key: str | None = None
    null_artifact_key: str | None = None
    slots: list[RingSlot] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that one fresh worker process does: its runtime, its threads and CPUs, and its items in order."""

    runtime: str
    n_threads: int
    cpus: list[int]
    items: list[Item]
    protocol: MeasureProtocol
    sentinel: bool = False


def job_to_json(job: Job) -> dict[str, Any]:
    """The job as JSON's own types."""
    data: dict[str, Any] = plain(job)
    return data


def job_from_json(data: dict[str, Any]) -> Job:
    """The job a parent process wrote."""
    items = [_item(i) for i in data["items"]]
    return Job(**{**data, "items": items, "protocol": MeasureProtocol(**data["protocol"])})


def _item(data: dict[str, Any]) -> Item:
    slots = [RingSlot(**{**s, "case": BenchCase(**s["case"])}) for s in data["slots"]]
    spec = ArtifactSpec(**data["spec"]) if data["spec"] else None
    case = BenchCase(**data["case"]) if data["case"] else None
    return dataclasses.replace(
        Item(**{**data, "spec": None, "case": None, "slots": []}), spec=spec, case=case, slots=slots
    )
