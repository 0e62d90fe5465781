"""Times the parts of one case under the runtime's tracer. JSON in, one JSON line out: the parts in ns, or why there are none."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from edgeprof.bench.jobs import job_from_json
from edgeprof.bench.protocol import quiet_gc, sample
from edgeprof.bench.worker import bind_timed, pin, require_artifact
from edgeprof.core.types import Artifact
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.artifact import fresh_copy
from edgeprof.runtimes.base import RUNTIMES
from edgeprof.runtimes.trace import TRACERS, summarise, why_no_trace

WARM_UP, CALLS = 5, 20

KERNEL = "_kernel_time"
"""What ONNX Runtime's profiler appends to a node's name."""


class WithParts:
    """A single operator as tracers see it: as one that is made of parts, those of its form in the runtime."""

    def __init__(self, operator: Any, parts: list[str]) -> None:
        self._operator = operator
        self._parts = parts

    def parts(self) -> dict[str, None]:
        """The parts by path."""
        return dict.fromkeys(self._parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operator, name)


def main() -> None:
    """Traces the case of the one item of a job."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not break the answer
    job = job_from_json(json.load(sys.stdin))
    pin(job.cpus)
    item = job.items[0]
    case = item.case
    if case is None or item.artifact_key is None:
        raise ValueError("a trace needs a case and its artifact")
    reason = why_no_trace(case.runtime)
    if reason is None:
        artifact = require_artifact(item.artifact_key)
        operator = make_spec(case.op, case.dims)
        RUNTIMES.get(case.runtime).start(job.n_threads)
        with fresh_copy(artifact, item.seed) as folder:
            parts = [] if hasattr(operator, "parts") else parts_of(case.runtime, operator, artifact, folder)
            if parts is None:
                reason = f"{case.runtime} tells no parts of a single operator"
            else:
                traced_operator: Any = WithParts(operator, parts) if parts else operator
                with TRACERS.get(case.runtime).load(traced_operator, artifact, folder, case.kv_len) as traced:
                    traced.cell.fill(item.seed)
                    call = bind_timed(traced.cell, case)
                    with quiet_gc():
                        for _ in range(WARM_UP):
                            call()
                        n = len(sample(call, dataclasses.replace(job.protocol, max_samples=CALLS)))
                    found = summarise(traced.told(), n).parts
    answer = (
        {"reason": reason} if reason is not None else {"parts": {k.removesuffix(KERNEL): v for k, v in found.items()}}
    )
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def parts_of(runtime: str, operator: Any, artifact: Artifact, folder: Path) -> list[str] | None:
    """The parts of a single operator's form, as the runtime's tracer will name them; None where it names none."""
    if runtime == "onnxruntime":
        import onnx

        graph = onnx.load(folder / artifact.files["model"], load_external_data=False).graph
        names = (node.name for node in graph.node)
        return list(dict.fromkeys(name.split(".")[0] if "." in name else name + KERNEL for name in names))
    if runtime == "torch_eager":
        module = RUNTIMES.get(runtime).load(operator, artifact, folder, artifact.spec.capacity).module  # type: ignore[attr-defined]
        return [name for name, _ in module.named_children()]
    return None


if __name__ == "__main__":
    main()
