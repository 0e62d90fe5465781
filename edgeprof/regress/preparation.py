"""What comes before timing a check: both sides build what they lack, and each case's numerics and memory are looked at.

A case that is wrong on a side is not timed: a speed-up is no news where the result is not right.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeprof.bench.gate import refusal
from edgeprof.bench.jobs import Item
from edgeprof.bench.prepare import Outcome, Reporter, _needed, describe, in_parallel
from edgeprof.bench.rings import null_case
from edgeprof.core.errors import BaselineError
from edgeprof.core.types import ArtifactSpec, BenchCase
from edgeprof.regress.paced import do_in_side
from edgeprof.regress.recording import Recording
from edgeprof.regress.side_by_side import PROTOCOL
from edgeprof.regress.sides import Side, SideFacts, SideName
from edgeprof.regress.verdict import MIN_MEMORY_READINGS
from edgeprof.runtimes.artifact import META_FILE, cache_root

Sides = Mapping[SideName, Side]
Facts = Mapping[SideName, SideFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """``failures`` say by case key why a case is not timed; the others are ready.

    ``peak_bytes`` and ``file_bytes`` are by case and side. ``identical`` cases run the same artifact with the same code and
    packages on both sides: what is exact about them is equal without being measured.
    """

    failures: dict[str, str] = field(default_factory=dict)
    identical: frozenset[str] = frozenset()
    peak_bytes: dict[str, dict[SideName, list[int]]] = field(default_factory=dict)
    file_bytes: dict[str, dict[SideName, int]] = field(default_factory=dict)


def needed_cases(cases: Sequence[BenchCase]) -> list[BenchCase]:
    """Every case that a side is asked about: those of the suite, and what stands beside them in probes and rings."""
    return list({needed.key: needed for case in cases for needed in _needed(case)}.values())


def check_comparable(facts: Facts) -> None:
    """Checks that both sides take samples in the same way.

    Raises:
        BaselineError: they do not, so that a difference would say nothing of operators.
    """
    base, head = facts["base"].protocol_version, facts["head"].protocol_version
    if base != head:
        raise BaselineError(
            f"the base samples by protocol {base}, the head by protocol {head}: their times cannot be compared; choose a base "
            "after that change"
        )


def prepare(
    sides: Sides,
    facts: Facts,
    cases: Sequence[BenchCase],
    *,
    with_memory: bool,
    recording: Recording | None,
    reporter: Reporter,
) -> Prepared:
    """Builds on each of one or two sides what is missing, and probes every case there."""
    failures = refused(facts, cases)
    identical = frozenset(case.key for case in cases if case.key not in failures and _is_identical(sides, facts, case))
    left = [case for case in cases if case.key not in failures]
    failures |= _build(sides, facts, left, reporter)
    left = [case for case in left if case.key not in failures]
    prepared = Prepared(failures=failures, identical=identical)
    _probe(sides, facts, left, prepared, with_memory=with_memory, recording=recording, reporter=reporter)
    for case in left:
        prepared.file_bytes[case.key] = {name: _file_bytes(sides[name], facts[name], case) for name in sides}
    if recording is not None:
        for key, reason in failures.items():
            recording.failure(key, reason)
    return prepared


def refused(facts: Facts, cases: Sequence[BenchCase]) -> dict[str, str]:
    """Why a side cannot run a case, or something that stands beside it."""
    found: dict[str, str] = {}
    for case in cases:
        for needed in _needed(case):
            for name, side in facts.items():
                reason = side.cases[needed.key].refused
                if reason is not None:
                    found.setdefault(case.key, f"{name}: {reason}")
    return found


def _is_identical(sides: Sides, facts: Facts, case: BenchCase) -> bool:
    if len(sides) < 2:
        return False
    base, head = (facts[name].cases[case.key].artifact_key for name in ("base", "head"))
    return base == head and facts["base"].package_hash == facts["head"].package_hash


def _build(sides: Sides, facts: Facts, cases: Sequence[BenchCase], reporter: Reporter) -> dict[str, str]:
    """Builds each artifact once; a case fails with any of those that it needs."""
    work: dict[tuple[str, str], tuple[Side, ArtifactSpec]] = {}
    users: dict[tuple[str, str], list[BenchCase]] = {}
    for name, side in sides.items():
        for case in cases:
            for needed in _needed(case):
                told = facts[name].cases[needed.key]
                assert told.spec is not None
                assert told.artifact_key is not None
                place = (str(side.cache), told.artifact_key)
                users.setdefault(place, []).append(case)
                if not told.cached:
                    work.setdefault(place, (side, told.spec))
    if not work:
        return {}

    def build(place: tuple[str, str]) -> Outcome:
        side, spec = work[place]
        item = Item(kind="build", spec=spec)
        return do_in_side(side, item, runtime=spec.runtime, n_threads=1, protocol=PROTOCOL)

    failures: dict[str, str] = {}
    reporter.stage("build", len(work))
    for place, outcome in in_parallel(build, work):
        side, spec = work[place]
        reporter.step(f"{side.name} {spec.runtime} {spec.dtype} {spec.op}")
        if outcome.result is None:
            for case in users[place]:
                failures.setdefault(case.key, f"{side.name}: build of {spec.op} failed: {outcome.reason}")
    return failures


def _file_bytes(side: Side, facts: SideFacts, case: BenchCase) -> int:
    """Bytes of the files that the runtime loads."""
    key = facts.cases[case.key].artifact_key
    assert key is not None
    folder = (side.cache or cache_root()) / "artifacts" / key
    files = json.loads((folder / META_FILE).read_text())["files"]
    return sum((folder / name).stat().st_size for name in files.values())


Reading = tuple[SideName, BenchCase]


def _probe(
    sides: Sides,
    facts: Facts,
    cases: Sequence[BenchCase],
    prepared: Prepared,
    *,
    with_memory: bool,
    recording: Recording | None,
    reporter: Reporter,
) -> None:
    """One reading of each side for the numerics; MIN_MEMORY_READINGS where peaks are to be compared and may differ."""
    work: list[Reading] = []
    for case in cases:
        n = MIN_MEMORY_READINGS if with_memory and case.key not in prepared.identical else 1
        names: tuple[SideName, ...] = ("head",) if case.key in prepared.identical else tuple(sides)
        work += [(name, case) for _ in range(n) for name in names]
    if not work:
        return

    def probe(reading: Reading) -> Outcome:
        name, case = reading
        told = facts[name].cases
        item = Item(
            kind="probe",
            case=case,
            artifact_key=told[case.key].artifact_key,
            null_artifact_key=told[null_case(case).key].artifact_key,
        )
        return do_in_side(sides[name], item, runtime=case.runtime, n_threads=case.n_threads, protocol=PROTOCOL)

    reporter.stage("check", len(work))
    for (name, case), outcome in in_parallel(probe, work):
        reporter.step(f"{name} {describe(case)}")
        _take(name, case, outcome, prepared, recording)


def _take(name: SideName, case: BenchCase, outcome: Outcome, prepared: Prepared, recording: Recording | None) -> None:
    if outcome.result is None:
        prepared.failures.setdefault(case.key, f"{name}: {outcome.status}: {outcome.reason}")
        return
    found = {k: outcome.result[k] for k in ("memory", "max_rel_error", "quantization_error")}
    if recording is not None:
        recording.memory(case.key, name, found)
    reason = refusal(case, found["max_rel_error"], found["quantization_error"])
    if reason is not None:
        prepared.failures.setdefault(case.key, f"{name}: wrong output: {reason}")
    peak = found["memory"]["peak_rss_delta_bytes"]
    if peak is not None and peak > 0:
        prepared.peak_bytes.setdefault(case.key, {"base": [], "head": []})[name].append(peak)
