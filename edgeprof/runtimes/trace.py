"""How long the parts of a composite take inside it, by the word of the runtime's own tracer or of hooks.

A tracer costs time on every call, so it is never on where calls are timed: it has a load of its own, and what it tells are
shares of a call. A runtime that fuses across parts, as a compiler does, has none.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeprof.core.registry import Registry
from edgeprof.core.types import Artifact
from edgeprof.operators.base import OperatorSpec

if TYPE_CHECKING:
    from edgeprof.models.composite import CompositeSpec
    from edgeprof.runtimes.base import Cell

OTHER = "other"
"""The part of a call that belongs to no part of the composite: the call boundary, and operators between parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The median time of each part of a composite in ns, by path, and of what belongs to none, ``OTHER``.

    ``total_ns`` is the median of the whole call by the same tracer. ``events`` counts what the tracer told of one call, and
    ``unassigned`` those of them that lie in no part or span several: their time is in ``OTHER``.
    """

    parts: dict[str, float]
    total_ns: float
    calls: int
    events: int
    unassigned: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRun:
    """The traces of one case, each by a process of its own; ``reason`` says why there are none."""

    traces: tuple[Trace, ...] = ()
    reason: str | None = None


Times = Mapping[str, float]
"""One call's time in ns by part, ``OTHER`` included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a tracer told of some calls in a row, each call's parts in ns; ``events`` and ``unassigned`` are one call's."""

    calls: Sequence[Times]
    events: int
    unassigned: int = 0


class TracedCell(Protocol):
    """A cell under a tracer."""

    cell: "Cell"

    def told(self) -> Told:
        """All calls so far; ends the tracing."""


class Tracer(Protocol):
    """Loads a composite's artifact under a tracer."""

    def load(
        self, operator: "CompositeSpec", artifact: Artifact, folder: Path, capacity: int
    ) -> AbstractContextManager[TracedCell]:
        """As the runtime's own ``load``; what the tracer wrote is gone when the context ends."""


TRACERS: Registry[Tracer] = Registry("tracer")
TRACERS.add("torch_eager", "edgeprof.runtimes.trace_torch:TRACER")
TRACERS.add("onnxruntime", "edgeprof.runtimes.trace_onnxruntime:TRACER")
TRACERS.add("executorch", "edgeprof.runtimes.trace_executorch:TRACER")


def why_no_trace(runtime: str) -> str | None:
    """Why a runtime cannot tell the parts of a model apart, or None if it can."""
    return None if runtime in TRACERS else f"{runtime} has no tracer that tells a model's parts apart"


def summarise(told: Told, last: int) -> Trace:
    """The medians over the last calls; those before them warmed up."""
    kept = told.calls[-last:]
    parts = {path: statistics.median(call[path] for call in kept) for path in kept[0]}
    return Trace(
        parts=parts,
        total_ns=statistics.median(sum(call.values()) for call in kept),
        calls=len(kept),
        events=told.events,
        unassigned=told.unassigned,
    )


def part_finder(operator: OperatorSpec) -> Callable[[str], str | None]:
    """Finds the part of a composite that a name such as ``layers.3.mixer.w_q.y`` lies in; None if it lies in none."""
    paths = set(operator.parts())  # type: ignore[attr-defined]

    def find(name: str) -> str | None:
        pieces = name.split(".")
        return next((path for n in range(len(pieces), 0, -1) if (path := ".".join(pieces[:n])) in paths), None)

    return find
