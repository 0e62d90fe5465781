"""ONNX Runtime's profiler: a session that writes how long each kernel took, whose names begin with their part's path."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgeprof.core.types import Artifact
from edgeprof.models.composite import CompositeSpec
from edgeprof.runtimes.onnxruntime import PROVIDERS, RUNTIME, OnnxCell, session_options
from edgeprof.runtimes.trace import OTHER, Times, Told, part_finder

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

KERNEL = "_kernel_time"
"""What the profiler appends to a node's name."""

EXECUTE, RUN = "SequentialExecutor::Execute", "model_run"
"""The events of a run's kernels together, and of the run; a run's own come last."""


class ProfiledCell:
    """A cell on a session that profiles."""

    def __init__(self, session: "InferenceSession", operator: CompositeSpec, artifact: Artifact, capacity: int) -> None:
        self.cell = OnnxCell(session, artifact.spec.batch, capacity)
        self._session = session
        self._operator = operator
        self._tokens = artifact.spec.q_len

    def told(self) -> Told:
        """Ends the profiling and reads its file; a call of many tokens is several runs."""
        events = json.loads(Path(self._session.end_profiling()).read_text())
        runs_a_call = -(-self._tokens // self.cell._tokens_per_run)
        return told_of(events, list(self._operator.parts()), part_finder(self._operator), runs_a_call)


class OnnxTracer:
    """Sessions with ONNX Runtime's profiler on."""

    @contextmanager
    def load(self, operator: CompositeSpec, artifact: Artifact, folder: Path, capacity: int) -> Iterator[ProfiledCell]:
        """Opens a session whose profile goes to a temporary folder."""
        import onnxruntime

        with TemporaryDirectory(prefix="edgeprof-profile-") as profile:
            options = session_options(RUNTIME.n_threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(profile) / "run")
            model = str(folder / artifact.files["model"])
            session = onnxruntime.InferenceSession(model, options, providers=PROVIDERS)
            yield ProfiledCell(session, operator, artifact, capacity)


def told_of(
    events: Iterable[dict[str, Any]], paths: list[str], find: Callable[[str], str | None], runs_a_call: int
) -> Told:
    """The calls of a profile.

    The time between kernels is left out: most of it is the profiler's own. So a call is its kernels, and what a run takes
    outside of its executor.
    """
    runs: list[Times] = []
    run = dict.fromkeys([*paths, OTHER], 0.0)
    kernels = strays = 0
    for event in events:
        name, ns = str(event["name"]), 1e3 * float(event.get("dur", 0))
        if name.endswith(KERNEL):
            path = find(name)
            run[path or OTHER] += ns
            kernels += 1
            strays += path is None
        elif name == EXECUTE:
            run[OTHER] -= ns
        elif name == RUN:
            run[OTHER] += ns
            runs.append(run)
            run = dict.fromkeys(run, 0.0)
    calls = [_sum(runs[i : i + runs_a_call]) for i in range(0, len(runs) - runs_a_call + 1, runs_a_call)]
    n = max(1, len(calls))
    return Told(calls=calls, events=kernels // n, unassigned=strays // n)


def _sum(runs: list[Times]) -> Times:
    return {path: sum(run[path] for run in runs) for path in runs[0]}


TRACER = OnnxTracer()
