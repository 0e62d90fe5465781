import pytest

from edgeprof.core.types import BenchCase, InstanceRecord, Memory


@pytest.fixture
def make_record():
    """Builds a record like those of a bench run; keywords replace its fields."""

    def make(**changes):
        case = BenchCase(
            op="gqa",
            op_version=1,
            phase="decode",
            dims={"d_model": 1024, "n_heads": 16, "n_kv_heads": 8, "rope_theta": 1e6, "qk_norm": True},
            q_len=1,
            kv_len=1024,
            dtype="int4",
            kv_dtype="fp32",
            runtime="onnxruntime",
            n_threads=1,
            cache_state="streaming",
            ring_bytes=1 << 28,
        )
        fields = {
            "id": "0123456789abcdef",
            "kind": "latency",
            "session_id": "session",
            "round": 0,
            "case_key": case.key,
            "case": case,
            "runtime_version": "1.32.0",
            "device_id": "host",
            "environment": {"governor": "performance", "load_1min": 0.25, "turbo": True, "temperatures": [41.0]},
            "fingerprint": "fedcba9876543210",
            "started_at": "2026-01-02T03:04:05+00:00",
            "status": "ok",
            "load_ns": 5_000_000,
            "samples_ns": [300, 100, 200],
            "ring_bytes": 300_000_000,
            "memory": Memory(peak_rss_delta_bytes=4096, anon_delta_bytes=-4096),
        }
        return InstanceRecord(**(fields | changes))

    return make
