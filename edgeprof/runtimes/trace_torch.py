"""Torch's eager modules traced by hooks before and after each part."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprof.core.types import Artifact
from edgeprof.models.composite import CompositeSpec
from edgeprof.runtimes.torch_eager import RUNTIME, TorchCell
from edgeprof.runtimes.trace import OTHER, Told

if TYPE_CHECKING:
    from torch import nn


class HookedCell:
    """A cell whose module and parts note when they begin and end."""

    def __init__(self, cell: TorchCell, paths: list[str]) -> None:
        self.cell = cell
        self._paths = paths
        self._calls: list[dict[str, float]] = []
        self._begun: dict[str, int] = {}
        self._hook("", cell.module)
        for path in paths:
            self._hook(path, cell.module.get_submodule(path))

    def _hook(self, path: str, module: "nn.Module") -> None:
        """``path`` is "" for the whole, whose call closes after its parts'."""

        def begin(*_: Any) -> None:
            if not path:
                self._calls.append(dict.fromkeys(self._paths, 0.0))
            self._begun[path] = time.perf_counter_ns()

        def end(*_: Any) -> None:
            took = float(time.perf_counter_ns() - self._begun[path])
            call = self._calls[-1]
            if path:
                call[path] += took
            else:
                call[OTHER] = took - sum(call.values())

        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)

    def told(self) -> Told:
        """Every call so far."""
        return Told(calls=self._calls, events=len(self._paths))


class TorchTracer:
    """Hooks on a module of its own."""

    @contextmanager
    def load(self, operator: CompositeSpec, artifact: Artifact, folder: Path, capacity: int) -> Iterator[HookedCell]:
        """Loads as torch_eager does."""
        yield HookedCell(RUNTIME.load(operator, artifact, folder, capacity), list(operator.parts()))


TRACER = TorchTracer()
