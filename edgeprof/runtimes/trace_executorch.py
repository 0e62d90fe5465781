"""ExecuTorch's event tracer: how long each instruction took; a build notes which part of the model an instruction is of."""

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from edgeprof.core.types import Artifact
from edgeprof.models.composite import CompositeSpec
from edgeprof.runtimes.executorch import ExecutorchCell
from edgeprof.runtimes.trace import OTHER, Times, Told

INSTRUCTIONS = ("OPERATOR_CALL", "DELEGATE_CALL")
"""The events that stand for an instruction; those of a delegate's inside and of kernels lie within one of them."""

EXECUTE = "Method::execute"

NS_PER_MS = 1e6


class InstructionEvent(Protocol):
    """What is read of the Inspector's events."""

    name: str
    perf_data: Any
    _instruction_id: int | None


class TracedExecutorchCell:
    """A cell whose program keeps its events."""

    def __init__(self, cell: ExecutorchCell, operator: CompositeSpec, parts: Sequence[str | None] | None) -> None:
        self.cell = cell
        self._paths = list(operator.parts())
        self._parts = parts

    def told(self) -> Told:
        """Reads the events of every call so far."""
        from executorch.devtools import Inspector

        with TemporaryDirectory(prefix="edgeprof-trace-") as folder:
            dump = str(Path(folder) / "trace.etdp")
            self.cell.program.write_etdump_result_to_file(dump)
            with warnings.catch_warnings():  # values of tensors were never asked for
                warnings.filterwarnings("ignore", "Output Buffer not found", UserWarning)
                inspector = Inspector(etdump_path=dump)
        events = (event for block in inspector.event_blocks for event in block.events)
        return told_of(events, self._paths, self._parts)


class ExecutorchTracer:
    """Programs loaded with ExecuTorch's event tracer on."""

    @contextmanager
    def load(
        self, operator: CompositeSpec, artifact: Artifact, folder: Path, capacity: int
    ) -> Iterator[TracedExecutorchCell]:
        """Loads as the runtime does; nothing is written before the trace is read."""
        parts = json.loads((folder / artifact.files["instructions"]).read_text())
        yield TracedExecutorchCell(ExecutorchCell(operator, artifact, folder, traced=True), operator, parts)


def told_of(events: Iterable[InstructionEvent], paths: Sequence[str], parts: Sequence[str | None] | None) -> Told:
    """The calls of a trace, whose events hold a value in ms for each call; ``parts`` are the instructions' in order."""
    calls: list[dict[str, float]] = []
    whole: list[float] = []
    n_events = unassigned = 0
    for event in events:
        if event.name == EXECUTE:
            whole = event.perf_data.raw
        if event.name not in INSTRUCTIONS:
            continue
        number = event._instruction_id
        part = parts[number] if parts is not None and number is not None and number < len(parts) else None
        n_events += 1
        unassigned += part is None
        for index, ms in enumerate(event.perf_data.raw):
            if index == len(calls):
                calls.append(dict.fromkeys(paths, 0.0))
            if part is not None:
                calls[index][part] += NS_PER_MS * ms
    found: list[Times] = [
        call | {OTHER: NS_PER_MS * ms - sum(call.values())} for call, ms in zip(calls, whole, strict=True)
    ]
    return Told(calls=found, events=n_events, unassigned=unassigned)


TRACER = ExecutorchTracer()
