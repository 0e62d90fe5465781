"""What tests of several rooms share: a clock that only moves when told, a host, cases, and a worker that follows a script."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgeprof.bench.jobs import Item, Job, RingSlot, job_from_json
from edgeprof.bench.recorder import Host, Recorder
from edgeprof.core.canonical import canonical_json
from edgeprof.core.types import Artifact, BenchCase, MeasureProtocol
from edgeprof.models.block import block_of
from edgeprof.models.config import config_of_pattern
from edgeprof.models.model import model_of
from edgeprof.models.pair import pair_of
from edgeprof.operators.base import Dims
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.artifact import META_FILE, artifact_folder
from edgeprof.store import Store

HEADS: Dims = {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
TINY_DIMS: dict[str, Dims] = {
    "short_conv": {"d_model": 32, "kernel_size": 3},
    "swa": HEADS | {"window": 6},
    "gqa": HEADS,
    "swiglu": {"d_model": 32, "d_ff": 64},
    "geglu": {"d_model": 32, "d_ff": 64},
    "embedding": {"vocab": 40, "d_model": 32},
    "head": {"vocab": 40, "d_model": 32},
    "rms_norm": {"d_model": 32},
    "residual": {"d_model": 32},
    "identity": {"d_model": 32},
}
TINY_BLOCK = block_of(make_spec("gqa", TINY_DIMS["gqa"]), make_spec("swiglu", TINY_DIMS["swiglu"]))
TINY_MODEL = config_of_pattern("CSG", HEADS | {"window": 6, "d_ff": 64}, name="tiny", d_model=32, vocab=40)
TINY_PAIR = pair_of(TINY_MODEL.layers[0], TINY_MODEL.layers[1])
TINY_DIMS |= {"block": TINY_BLOCK.dims(), "pair": TINY_PAIR.dims(), "model": model_of(TINY_MODEL).dims()}
"""Dimensions of every operator that make its module and its arithmetic small."""


CONTRACT = {
    "case_key", "op", "op_version", "phase", "dims", "batch", "q_len", "kv_len", "runtime", "runtime_version",
    "dtype", "kv_dtype", "n_threads", "cache_state", "status", "reason", "p10_ns", "p50_ns", "ci95_ns", "n_instances",
    "n_samples", "instance_ids", "stable", "load_ns", "first_call_ns", "roof_share", "delegated_share",
    "ratio_to_short_conv", "ratio_ci95", "state_bytes", "weight_bytes", "arena_bytes", "peak_rss_delta_bytes",
    "max_rel_error",
}  # fmt: skip
"""What every measurement of ``edgeprof bench --json`` holds, as scripts were promised."""


@pytest.fixture
def contract() -> set[str]:
    return CONTRACT


class FakeClock:
    """Nanoseconds that pass only in ``call``; each call takes the next of its durations, the last one for ever."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now

    def call(self, *durations: int) -> Callable[[], None]:
        left = list(durations)

        def advance() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return advance


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tiny_dims() -> dict[str, Dims]:
    return TINY_DIMS


@pytest.fixture
def make_case() -> Callable[..., BenchCase]:
    """Builds a small case; keywords replace its fields, ``op`` brings its dimensions along."""

    def make(op: str = "gqa", **changes: Any) -> BenchCase:
        fields: dict[str, Any] = {
            "op": op,
            "op_version": 1,
            "phase": "decode",
            "dims": TINY_DIMS[op],
            "q_len": 1,
            "kv_len": 16,
            "dtype": "fp32",
            "kv_dtype": "fp32",
            "runtime": "torch_eager",
            "n_threads": 1,
            "cache_state": "hot",
        }
        fields |= {"ring_bytes": 100_000} if changes.get("cache_state") == "streaming" else {}
        return BenchCase(**(fields | changes))

    return make


@pytest.fixture
def protocol() -> MeasureProtocol:
    """Two rounds of two loads, with counts small enough to follow by hand."""
    return MeasureProtocol(
        effort="test", rounds=2, loads=2, min_samples=3, max_samples=8, time_budget_ns=1_000, warmup_budget_ns=10_000
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty artifact cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGEPROF_CACHE", str(folder))
    return folder


FAKE_HOST = Host(
    device_id="fake",
    environment={"kernel": "6.1", "governor": "performance"},
    fingerprint="f" * 16,
    pick_cpus=lambda n: list(range(n)),
)


@pytest.fixture
def host() -> Host:
    return FAKE_HOST


@pytest.fixture
def make_recorder(tmp_path: Path, protocol: MeasureProtocol) -> Callable[..., Recorder]:
    """Builds a session's recorder on the test's one store."""

    def make(*, host: Host = FAKE_HOST, protocol: MeasureProtocol = protocol) -> Recorder:
        return Recorder(Store(tmp_path / "results"), host, protocol)

    return make


@dataclass
class FakeReporter:
    """Counts what a session says."""

    stages: list[tuple[str, int]] = field(default_factory=list)
    steps: list[tuple[str, str]] = field(default_factory=list)

    def stage(self, name: str, total: int) -> None:
        self.stages.append((name, total))

    def step(self, label: str) -> None:
        self.steps.append((self.stages[-1][0], label))

    def counts(self) -> dict[str, int]:
        return {name: sum(stage == name for stage, _ in self.steps) for name, _ in self.stages}


@pytest.fixture
def reporter() -> FakeReporter:
    return FakeReporter()


Answer = dict[str, Any] | Exception | None


class FakeWorkers:
    """Stands in for ``run_worker``: does each item of a job at once, unless ``answer`` says otherwise.

    ``answer`` gets an item and returns the fields of its ``done`` event that differ, a ``failed`` event, or an exception that
    the worker is lost with. ``jobs`` are those it was given.
    """

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.answer: Callable[[Item], Answer] = lambda item: None

    def __call__(self, job: dict[str, Any], *, n_threads: int, silence_s: float) -> Iterator[dict[str, Any]]:
        parsed = job_from_json(job)
        self.jobs.append(parsed)
        assert n_threads == parsed.n_threads
        sentinel = [1000, 1001, 1002] if parsed.sentinel else []
        yield {
            "event": "ready",
            "n_threads_seen": n_threads,
            "affinity_seen": list(range(n_threads)),
            "sentinel_ns": sentinel,
        }
        for index, item in enumerate(parsed.items):
            yield {"event": "begin", "item": index}
            answer = self.answer(item)
            if isinstance(answer, Exception):
                raise answer
            yield {"event": "done", "item": index, **done(item), **(answer or {})}
        yield {"event": "end", "sentinel_ns": sentinel}

    def items(self, kind: str) -> list[Item]:
        return [item for job in self.jobs for item in job.items if item.kind == kind]

    @property
    def measured(self) -> list[Item]:
        return self.items("hot") + self.items("ring")


LOAD = {"load_ns": 500, "first_call_ns": 300, "samples_ns": [100, 101, 102], "settled": True}


def done(item: Item) -> dict[str, Any]:
    """What a good worker says of an item; a build also leaves its description in the cache."""
    match item.kind:
        case "build":
            assert item.spec is not None
            folder = artifact_folder(item.spec.key)
            folder.mkdir(parents=True)
            artifact = Artifact(key=item.spec.key, spec=item.spec, files={}, weight_bytes=4096)
            (folder / META_FILE).write_text(canonical_json(artifact))
            return {}
        case "probe":
            memory = {"peak_rss_delta_bytes": 9000, "anon_delta_bytes": 8000, "file_delta_bytes": None}
            return {"memory": memory, "max_rel_error": 1e-6, "quantization_error": None}
        case "hot":
            return LOAD | {"warmup_calls": 11}
        case "ring":
            return {"slots": [slot_row(slot) for slot in item.slots]}
        case "roof":
            return {"roof": {"n_threads": 1, "bytes_per_s": 1e10, "flops_per_s": {"fp32": 1e11}, "probes": {"p": 1.0}}}
        case "trace":
            parts = {"layers.0": 2000.0, "other": 1000.0}
            return {"trace": {"parts": parts, "total_ns": 3000.0, "calls": 5, "events": 4, "unassigned": 0}}


def slot_row(slot: RingSlot) -> dict[str, Any]:
    """A slot of a ring: the null cell takes 7 ns."""
    return LOAD | {"samples_ns": [7, 7, 7] if slot.case.op == "identity" else [100, 101, 102]}


@pytest.fixture
def workers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWorkers:
    """Sessions start no process: every job goes to the script."""
    fake = FakeWorkers()
    monkeypatch.setattr("edgeprof.bench.session.run_worker", fake)
    monkeypatch.setattr("edgeprof.bench.prepare.run_worker", fake)
    return fake
