"""Records as a session leaves them, made without measuring anything."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeprof.core.types import BenchCase, InstanceRecord, Memory, Roof
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
