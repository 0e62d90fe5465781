"""What one side is: its versions, where its code lies, and what it would build for each case. JSON in, one JSON line out."""

import json
import os
import platform
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import edgeprof
from edgeprof.core.canonical import plain
from edgeprof.core.types import PROTOCOL_VERSION, BenchCase
from edgeprof.core.version import VERSION
from edgeprof.devices.base import DEVICES, fingerprint
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.artifact import artifact_spec, cached_artifact
from edgeprof.runtimes.base import RUNTIMES, runtime_version


def main() -> None:
    """Answers for the cases that stdin lists."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not break the answer
    asked = json.load(sys.stdin)
    device = DEVICES.get("local")
    environment = device.environment()
    answer = {
        "edgeprof": VERSION,
        "source": str(Path(edgeprof.__file__).parent.parent),
        "protocol_version": PROTOCOL_VERSION,
        "python": platform.python_version(),
        "packages": {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]},
        "device_id": device.profile().id,
        "environment": environment,
        "fingerprint": fingerprint(environment),
        "cases": [describe(data) for data in asked["cases"]],
    }
    answers.write(json.dumps(answer, default=str) + "\n")
    answers.flush()


def describe(data: dict[str, Any]) -> dict[str, Any]:
    """One case: the artifact that it needs, or why this side cannot run it."""
    try:
        case = BenchCase(**data)
        runtime = RUNTIMES.get(case.runtime)
        version = make_spec(case.op, case.dims).version
        if version != case.op_version:
            return {"refused": f"has version {version} of {case.op}, not {case.op_version}: another operator"}
        if runtime_version(runtime) == "absent":
            return {"refused": f"{case.runtime} is not installed there"}
        if reason := runtime.unsupported(case):
            return {"refused": f"unsupported: {reason}"}
        spec = artifact_spec(case)
    except Exception as error:  # an old revision may lack the field, the operator or the runtime: that is its answer
        return {"refused": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    return {"spec": plain(spec), "artifact_key": spec.key, "cached": cached_artifact(spec.key) is not None}


if __name__ == "__main__":
    main()
