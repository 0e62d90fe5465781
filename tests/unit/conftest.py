"""Records as a session leaves them, made without measuring anything."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeprof.core.types import BenchCase, InstanceRecord, Memory, RingPlan, Roof
from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.models.model import ModelSpec
from edgeprof.operators.base import Dims
from edgeprof.operators.registry import make_spec
from edgeprof.predict.evidence import Conditions
from edgeprof.predict.plan import cell_rings, cells, model_ring, working_set
from edgeprof.predict.predict import Knowledge
from edgeprof.predict.types import ModelCall, Target, VerifyRow
from edgeprof.runtimes.artifact import artifact_spec
from edgeprof.store.schema import to_line

MakeCase = Callable[..., BenchCase]
MakeRecords = Callable[..., list[InstanceRecord]]

NUMBERS = itertools.count()


def host_fields(session: str, number: int, device: str) -> dict[str, Any]:
    return {
        "id": f"{next(NUMBERS):016x}",
        "session_id": session,
        "round": number,
        "runtime_version": "1.0",
        "device_id": device,
        "environment": {"cpu_model": "Test CPU"},
        "fingerprint": "f" * 16,
        "started_at": f"2026-01-02T03:04:{number:02d}+00:00",
        "status": "ok",
    }


@pytest.fixture
def make_records() -> MakeRecords:
    """Builds a case's probe and its loads: ``medians_by_round[r]`` are the medians, in ns, of the loads of round r."""

    def make(
        case: BenchCase,
        medians_by_round: Sequence[Sequence[int]],
        *,
        session: str = "session1",
        device: str = "host",
        **changes: Any,
    ) -> list[InstanceRecord]:
        same = {"case_key": case.key, "case": case, "artifact_key": f"{case.runtime}-{case.op}"}
        probe = InstanceRecord(
            kind="probe",
            memory=Memory(peak_rss_delta_bytes=4096, anon_delta_bytes=4096),
            weight_bytes=1000,
            max_rel_error=1e-6,
            **same,
            **host_fields(session, 0, device),
        )
        loads = [
            InstanceRecord(
                kind="latency",
                samples_ns=[median, median, median],
                load_ns=5000,
                first_call_ns=2 * median,
                settled=True,
                **same,
                **(host_fields(session, number, device) | changes),
            )
            for number, medians in enumerate(medians_by_round)
            for median in medians
        ]
        return [probe, *loads]

    return make


@pytest.fixture
def make_host_records() -> MakeRecords:
    """Builds a session's roof and its sentinels, one in each round, ``sentinels`` ns each."""

    def make(
        sentinels: Sequence[int], *, session: str = "session1", device: str = "host", n_threads: int = 1
    ) -> list[InstanceRecord]:
        roof = Roof(
            n_threads=n_threads,
            bytes_per_s=1e12,
            flops_per_s={"fp32": 1e13, "bf16": 1e13, "int8": 4e13},
            probes={"read": 1e12},
        )
        records = [
            InstanceRecord(kind="roof", case_key="roof", case=None, roof=roof, **host_fields(session, 0, device))
        ]
        return records + [
            InstanceRecord(
                kind="sentinel", case_key="sentinel", case=None, samples_ns=[ns], **host_fields(session, number, device)
            )
            for number, ns in enumerate(sentinels)
        ]

    return make


def write_store(root: Path, records: Sequence[InstanceRecord]) -> Path:
    """A store of these records below ``root``, written at once."""
    for device in {r.device_id for r in records}:
        (root / device).mkdir(parents=True, exist_ok=True)
        lines = b"".join(to_line(r) for r in records if r.device_id == device)
        (root / device / "instances.jsonl").write_bytes(lines)
    return root


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes records as a store and returns its folder, ``results`` unless named."""

    def write(records: Sequence[InstanceRecord], name: str = "results") -> Path:
        return write_store(tmp_path / name, records)

    return write


FACTORS = (1.0, 1.01, 0.99, 1.005)
"""How a quiet host's rounds differ."""


@pytest.fixture
def small_store(
    make_case: MakeCase, make_records: MakeRecords, make_host_records: MakeRecords, save: Callable[..., Path]
) -> Path:
    """Three operators in two runtimes, decode at 16 and 64 streaming, prefill of 16, two loads in four rounds each."""
    slowness = {"short_conv": 1.0, "swa": 1.5, "gqa": 2.0}
    records = make_host_records([1000] * 4)
    for (op, slow), runtime in itertools.product(slowness.items(), ("torch_eager", "onnxruntime")):
        for phase, q_len, kv_len in (("decode", 1, 16), ("decode", 1, 64), ("prefill", 16, 16)):
            case = make_case(op, runtime=runtime, phase=phase, q_len=q_len, kv_len=kv_len, cache_state="streaming")
            base = 100_000 * slow * (2 if runtime == "onnxruntime" else 1) * (1 + kv_len / 64 * (op == "gqa"))
            records += make_records(case, [[round(base * f), round(base * f * 1.002)] for f in FACTORS])
    return save(records)


MODEL_DIMS: Dims = {"kernel_size": 3, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "window": 8, "d_ff": 64}
CALL_NS = 3_000
MIB = 2**20


def make_config(pattern: str = "CCGS", name: str = "m", **dims: int) -> ArchConfig:
    return config_of_pattern(pattern, MODEL_DIMS | dims, name=name, d_model=32, vocab=40)


ARTIFACTS: dict[str, tuple[str, str]] = {}
"""Runtime version and artifact by case: finding them hashes source files, and there are many records."""


def artifact_of(case: BenchCase) -> tuple[str, str]:
    if case.key not in ARTIFACTS:
        spec = artifact_spec(case)
        ARTIFACTS[case.key] = spec.runtime_version, spec.key
    return ARTIFACTS[case.key]


def net_ns(case: BenchCase, ring_bytes: float) -> float:
    """What a cell costs beyond its call: by its parameters, linear in its new tokens, its context and a decode ring's bytes."""
    spec = make_spec(case.op, case.dims)
    grows = 200.0 * case.kv_len if spec.state_rows(case.kv_len) else 0.0
    return (
        50_000 + 3.0 * spec.params() + 100.0 * case.q_len + grows + (0.1 * ring_bytes if case.phase == "decode" else 0)
    )


@dataclass
class Lab:
    """Measures by the law of ``net_ns``; every process is off by a factor of its own, and every load by another."""

    process_sd: float = 0.0
    load_sd: float = 0.0
    fingerprint: str = "f" * 16
    device_id: str = "lab"
    seed: int = 1

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def ring_records(
        self, target: Target, calls: Sequence[ModelCall], model_factor: float | None = None, **session: Any
    ) -> list[InstanceRecord]:
        """A session over the rings of these calls, and over the model if it is off by ``model_factor`` from its cells."""
        rings = [ring for call in calls for ring in cell_rings(target, call)]
        models = [] if model_factor is None else [model_ring(target, call, "", 2) for call in calls]
        return self.measure([*rings, *models], model_factor=model_factor or 1.0, **session)

    def measure(
        self,
        rings: Sequence[RingPlan],
        *,
        session: str = "s1",
        processes: int = 5,
        model_factor: float = 1.0,
        samples: int = 3,
    ) -> list[InstanceRecord]:
        """What a session over rings leaves: probes, then every place of every ring in every process."""
        cases = {case.key: case for ring in rings for case in ring.cases}
        records = [self.probe(case, session) for case in cases.values()]
        for number in range(processes):
            factor = math.exp(self.chance.gauss(0, self.process_sd))
            for ring in rings:
                places = [ring.first, *ring.turn * ring.turns, ring.last] * ring.loads
                for case in filter(None, places):
                    ns = factor * math.exp(self.chance.gauss(0, self.load_sd)) * self.call_ns(case, model_factor)
                    records.append(self.timed(case, session, number, [ns] * samples))
        return records

    def call_ns(self, case: BenchCase, model_factor: float) -> float:
        """A cell's time by the law, its call included; the whole model's by its cells'."""
        assert case.ring_bytes is not None
        if case.op != "model":
            return net_ns(case, case.ring_bytes) + CALL_NS
        spec = make_spec(case.op, case.dims)
        assert isinstance(spec, ModelSpec)
        target = Target(config=spec.arch, runtime=case.runtime, dtype=case.dtype, kv_dtype=case.kv_dtype)
        return model_factor * true_ns(target, [ModelCall(phase=case.phase, q_len=case.q_len, kv_len=case.kv_len)])

    def probe(self, case: BenchCase, session: str) -> InstanceRecord:
        """Every cell keeps a mebibyte and needs a quarter of one in passing; a model is its cells."""
        n = 1 if case.op != "model" else len(make_spec(case.op, case.dims).parts())  # type: ignore[attr-defined]
        memory = Memory(anon_delta_bytes=n * MIB, file_delta_bytes=0, peak_rss_delta_bytes=n * MIB + MIB // 4)
        return self.record(case, session, 0, kind="probe", memory=memory)

    def timed(self, case: BenchCase, session: str, number: int, samples: Sequence[float]) -> InstanceRecord:
        facts = {
            "samples_ns": [round(ns) for ns in samples],
            "call_overhead_ns": CALL_NS,
            "ring_bytes": case.ring_bytes,
        }
        return self.record(case, session, number, kind="latency", **facts)

    def record(self, case: BenchCase, session: str, number: int, **facts: Any) -> InstanceRecord:
        version, artifact = artifact_of(case)
        fields: dict[str, Any] = {
            "id": f"{next(NUMBERS):016x}",
            "session_id": session,
            "round": number,
            "case_key": case.key,
            "case": case,
            "runtime_version": version,
            "artifact_key": artifact,
            "device_id": self.device_id,
            "environment": {},
            "fingerprint": self.fingerprint,
            "started_at": "2026-01-02T03:04:05+00:00",
            "status": "ok",
        }
        return InstanceRecord(**(fields | facts))

    def knowledge(self, records: Sequence[InstanceRecord], **changes: Any) -> Knowledge:
        known: dict[str, Any] = {"device_id": self.device_id, "records": records, "history": ()}
        return Knowledge(**(known | {"conditions": Conditions(fingerprint=self.fingerprint)} | changes))


def true_ns(target: Target, calls: Sequence[ModelCall]) -> float:
    """The law's own total: every cell at the model's working set, and one boundary a call."""
    total = 0.0
    for call in calls:
        found, size = cells(target, call, with_head=call is calls[-1]), working_set(target, call)
        total += CALL_NS + sum(cell.count * net_ns(cell.case, size) for cell in found)
    return total


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture(scope="session")
def make_target() -> Callable[..., Target]:
    """Builds a target of a small config; ``pattern`` and dims make the config, other keywords replace the target's fields."""

    def make(pattern: str = "CCGS", *, config: ArchConfig | None = None, **changes: Any) -> Target:
        fields: dict[str, Any] = {"runtime": "torch_eager", "dtype": "fp32", "kv_dtype": "fp32"}
        return Target(config=config or make_config(pattern), **(fields | changes))

    return make


@pytest.fixture
def total_of() -> Callable[..., float]:
    return true_ns


@pytest.fixture(scope="session")
def config_of() -> Callable[..., ArchConfig]:
    return make_config


@pytest.fixture
def make_row() -> Callable[..., VerifyRow]:
    """Builds a verified row whose measured time is ``exp(error)`` times the uncorrected prediction."""

    def make(error: float = 0.0, **changes: Any) -> VerifyRow:
        fields: dict[str, Any] = {
            "config": "m", "config_hash": "h", "pattern": "CG", "device_id": "lab", "runtime": "torch_eager",
            "runtime_version": "2", "dtype": "fp32", "kv_dtype": "fp32", "n_threads": 1, "phase": "decode", "q_len": 1,
            "context": 64, "paired": False, "predicted_ns": 1e6, "uncorrected_ns": 1e6, "lo_ns": 9e5, "hi_ns": 1.1e6,
            "measured_ns": 1e6 * math.exp(error), "measured_ci95_ns": (9.9e5, 1.01e6), "signed_error": math.exp(-error) - 1,
            "aa_spread": 0.01, "p90_ratio": None, "session_id": "s1", "at": "2026-01-02T03:04:05+00:00",
            "parameters": 1000, "flops": 2000,
        }  # fmt: skip
        return VerifyRow(**(fields | changes))

    return make
