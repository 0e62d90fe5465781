"""Why something may have changed: what differs between the environments, and which part of a case took the time."""

import json
import statistics
import subprocess
from collections.abc import Mapping
from typing import Any

from edgeprof.bench.jobs import Item, Job, job_to_json
from edgeprof.core.types import BenchCase
from edgeprof.devices.worker_process import worker_environment
from edgeprof.regress.result import Part
from edgeprof.regress.side_by_side import PROTOCOL
from edgeprof.regress.sides import Side, SideFacts, SideName, last_lines

NO_CAUSE = frozenset({"load_average", "temperature_c", "battery", "free_bytes", "commit", "dirty", "edgeprof"})
"""Facts of an environment that differ from one moment to the next, or by the very change that is looked at."""


def environment_changes(base: Mapping[str, Any], head: Mapping[str, Any]) -> tuple[str, ...]:
    """What is different where the two sides ran, a line each: packages first, then facts of the host.

    ``packages`` are versions by distribution, ``environment`` facts by name; either may be absent.
    """
    lines = []
    packages = [{name.lower(): v for name, v in side.get("packages", {}).items()} for side in (base, head)]
    for name in sorted(packages[0].keys() | packages[1].keys()):
        before, after = (side.get(name, "absent") for side in packages)
        if before != after:
            lines.append(f"{name} {before} to {after}")
    facts = [side.get("environment", {}) for side in (base, head)]
    for name in sorted((facts[0].keys() & facts[1].keys()) - NO_CAUSE):
        before, after = (side[name] for side in facts)
        if before != after:
            lines.append(f"{name} {before} to {after}")
    return tuple(lines)


TRACES = 3
"""Processes of either side that trace a case, in turns: a load's luck must not look like a part's cost."""

TRACE_TIMEOUT_S = 300


def where_time_went(
    sides: Mapping[SideName, Side], facts: Mapping[SideName, SideFacts], case: BenchCase, *, cpus: list[int]
) -> tuple[Part, ...] | str:
    """The parts of a case on both sides, the largest change first, or why one of them cannot tell.

    Fresh processes under the runtime's tracer, which slows every call: the parts' changes count, not their sums.
    """
    told: dict[SideName, list[dict[str, float]]] = {"base": [], "head": []}
    for seed in range(1, TRACES + 1):
        for name in told:
            found = _trace(sides[name], facts[name], case, cpus=cpus, seed=seed)
            if isinstance(found, str):
                return f"{name}: {found}"
            told[name].append(found)
    names = dict.fromkeys(part for traces in told.values() for trace in traces for part in trace)
    parts = [
        Part(
            name=part,
            base_ns=statistics.median(trace.get(part, 0.0) for trace in told["base"]),
            head_ns=statistics.median(trace.get(part, 0.0) for trace in told["head"]),
        )
        for part in names
    ]
    return tuple(sorted(parts, key=lambda part: -abs(part.head_ns - part.base_ns)))


def _trace(side: Side, facts: SideFacts, case: BenchCase, *, cpus: list[int], seed: int) -> dict[str, float] | str:
    item = Item(kind="trace", seed=seed, case=case, artifact_key=facts.cases[case.key].artifact_key)
    job = Job(runtime=case.runtime, n_threads=case.n_threads, cpus=cpus, items=[item], protocol=PROTOCOL)
    try:
        done = subprocess.run(
            side.command("trace.py"),
            input=json.dumps(job_to_json(job)),
            capture_output=True,
            text=True,
            timeout=TRACE_TIMEOUT_S,
            env=side.environment(worker_environment(case.n_threads, [item.kind])),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"its trace said nothing for {TRACE_TIMEOUT_S} s"
    if done.returncode:
        return last_lines(done.stderr, 1)
    answer = json.loads(done.stdout)
    return str(answer["reason"]) if "reason" in answer else {str(k): float(v) for k, v in answer["parts"].items()}
