"""What comes before timing: artifacts are built, and each cell's memory and numerics are looked at in a fresh process."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Protocol, TypeVar

from edgeprof.bench.gate import refusal
from edgeprof.bench.jobs import Item, Job, job_to_json
from edgeprof.bench.recorder import Recorder
from edgeprof.bench.rings import filler_case, needs_filler, null_case
from edgeprof.core.types import ArtifactSpec, BenchCase, InstanceRecord, Memory, Roof, Status
from edgeprof.devices.worker_process import Event, WorkerLostError, run_worker, stop_workers
from edgeprof.runtimes.artifact import artifact_spec, cached_artifact, make_cache_folder

PARALLEL = 2
"""Builds and probes that run at once: nothing is timed in them."""

SILENCE_S = {"build": 900.0, "probe": 300.0, "roof": 120.0, "trace": 300.0}
"""Seconds without an event after which a worker is given up."""

ROOF_RUNTIME = "torch_eager"
"""The runtime whose worker runs the roof's probes."""

FINDINGS = ("memory", "max_rel_error", "quantization_error", "weight_bytes", "arena_bytes", "delegated_share")
"""The fields of a record that a probe fills."""

T = TypeVar("T")


class Reporter(Protocol):
    """Hears what a session does."""

    def stage(self, name: str, total: int) -> None:
        """A stage of ``total`` steps begins."""

    def step(self, label: str) -> None:
        """One step is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one item, done alone in a process, came to; ``result`` is its event where it succeeded."""

    status: Status
    reason: str | None = None
    result: Event | None = None


def do_alone(item: Item, recorder: Recorder, *, runtime: str, n_threads: int, cpus: list[int] | None = None) -> Outcome:
    """Does one item in a process of its own."""
    job = Job(runtime=runtime, n_threads=n_threads, cpus=cpus or [], items=[item], protocol=recorder.protocol)
    try:
        for event in run_worker(job_to_json(job), n_threads=n_threads, silence_s=SILENCE_S[item.kind]):
            if event["event"] == "failed":
                return Outcome(status="error", reason=event["reason"])
            if event["event"] == "done":
                return Outcome(status="ok", result=event)
    except WorkerLostError as lost:
        return Outcome(status="timeout" if lost.timed_out else "error", reason=str(lost))
    return Outcome(status="error", reason="the worker ended without a result")


def in_parallel(do: Callable[[T], Outcome], work: Iterable[T]) -> Iterator[tuple[T, Outcome]]:
    """Each piece of work with its outcome as soon as it has one, so that a slow one keeps none of the others unrecorded.

    When the caller is interrupted, what has not begun is dropped and the workers that run are ended.
    """
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = {pool.submit(do, piece): piece for piece in work}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop_workers()
            raise


def build_missing(cases: list[BenchCase], recorder: Recorder, reporter: Reporter) -> None:
    """Builds the artifacts that the cases and their rings need and the cache lacks; a case whose build fails has failed.

    Raises:
        UsageError: the cache folder cannot be written.
    """
    users: dict[str, list[BenchCase]] = {}
    specs: dict[str, ArtifactSpec] = {}
    for case in cases:
        for needed in _needed(case):
            spec = artifact_spec(needed)
            if cached_artifact(spec.key) is None:
                specs[spec.key] = spec
                users.setdefault(spec.key, []).append(case)
    if not specs:
        return

    def build(spec: ArtifactSpec) -> Outcome:
        return do_alone(Item(kind="build", spec=spec), recorder, runtime=spec.runtime, n_threads=1)

    make_cache_folder()
    reporter.stage("build", len(specs))
    for spec, outcome in in_parallel(build, specs.values()):
        reporter.step(f"{spec.runtime} {spec.dtype} {spec.op} q{spec.q_len}")
        if outcome.result is None:
            for case in users[spec.key]:
                recorder.fail(case, outcome.status, f"build of {spec.op} failed: {outcome.reason}")


def _needed(case: BenchCase) -> list[BenchCase]:
    """The case itself, the null operator beside it, and for a ring the filler."""
    needed = [case, null_case(case)]
    if case.cache_state == "streaming" and needs_filler(case):
        needed.append(filler_case(case))
    return needed


def probe_missing(cases: list[BenchCase], stored: list[InstanceRecord], recorder: Recorder, reporter: Reporter) -> None:
    """Measures memory and checks numerics of the cases that have no such record yet; a wrong one has failed.

    Neither depends on the ring or the cache state: what was found of the same load and call in another one is taken over.
    """
    passed: dict[str, list[InstanceRecord]] = {}
    for record in stored:
        if record.kind == "probe" and record.status == "ok" and record.artifact_key is not None:
            passed.setdefault(record.artifact_key, []).append(record)
    todo = []
    for case in cases:
        known = [r for r in passed.get(artifact_spec(case).key, []) if recorder.same_cell(r, case)]
        if not known:
            todo.append(case)
        elif all(r.case_key != case.key for r in known):
            recorder.append(case, kind="probe", status="ok", **{name: getattr(known[-1], name) for name in FINDINGS})
    groups = _by_shape(todo)
    if not groups:
        return

    def probe(same: list[BenchCase]) -> Outcome:
        case = same[0]
        item = Item(
            kind="probe",
            case=case,
            artifact_key=artifact_spec(case).key,
            null_artifact_key=artifact_spec(null_case(case)).key,
        )
        return do_alone(item, recorder, runtime=case.runtime, n_threads=case.n_threads)

    reporter.stage("check", len(groups))
    for same, outcome in in_parallel(probe, groups):
        reporter.step(describe(same[0]))
        for case in same:
            _append_probe(case, outcome, recorder)


def _by_shape(cases: Iterable[BenchCase]) -> list[list[BenchCase]]:
    """Cases that differ only in cache state and ring, which neither memory nor numerics depend on."""
    groups: dict[tuple[str, int, int], list[BenchCase]] = {}
    for case in cases:
        groups.setdefault((artifact_spec(case).key, case.kv_len, case.n_threads), []).append(case)
    return list(groups.values())


def _append_probe(case: BenchCase, outcome: Outcome, recorder: Recorder) -> None:
    if outcome.result is None:
        recorder.fail(case, outcome.status, outcome.reason)
        return
    artifact = cached_artifact(artifact_spec(case).key)
    assert artifact is not None, "it was just probed"
    error, rounding = outcome.result["max_rel_error"], outcome.result["quantization_error"]
    found = {
        "memory": Memory(**outcome.result["memory"]),
        "max_rel_error": error,
        "quantization_error": rounding,
        "weight_bytes": artifact.weight_bytes,
        "arena_bytes": artifact.arena_bytes,
        "delegated_share": artifact.delegated_share,
    }
    reason = refusal(case, error, rounding)
    if reason is None:
        recorder.append(case, kind="probe", status="ok", **found)
    else:
        recorder.fail(case, "wrong_output", reason, **found)


def find_roof(cases: list[BenchCase], recorder: Recorder, reporter: Reporter) -> None:
    """Measures what the device reaches at best, once for each environment and number of threads."""
    host = recorder.host
    records = recorder.store.records(host.device_id)
    known = {r.roof.n_threads for r in records if r.roof is not None and r.fingerprint == host.fingerprint}
    missing = sorted({case.n_threads for case in cases} - known)
    if not missing:
        return
    reporter.stage("roof", len(missing))
    for n in missing:
        outcome = do_alone(Item(kind="roof"), recorder, runtime=ROOF_RUNTIME, n_threads=n, cpus=host.pick_cpus(n))
        roof = None if outcome.result is None else Roof(**outcome.result["roof"])
        recorder.append_host(ROOF_RUNTIME, kind="roof", status=outcome.status, reason=outcome.reason, roof=roof)
        reporter.step(f"{n} threads")


def describe(case: BenchCase) -> str:
    """A case in a few words, for progress."""
    shape = f"q{case.q_len}" if case.phase == "prefill" else f"kv{case.kv_len}"
    return f"{case.runtime} {case.dtype} {case.op} {case.phase} {shape}"
