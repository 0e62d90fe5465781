"""The roof's probes on small sizes: which there are, and that the best of each kind counts."""

import pytest
import torch

from edgeprof.bench import roof
from edgeprof.core.types import Roof


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small buffers, and one timed call for each probe."""
    monkeypatch.setattr(roof, "BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(roof, "SECONDS_A_PROBE", 1e-9)
    monkeypatch.setattr(roof, "SIZES", (32, 64))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_best_probe_of_each_kind_is_the_roof(quick: None, n_threads: int) -> None:
    before = torch.get_num_threads()
    try:
        found = Roof(**roof.measure_roof(n_threads))
        assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert found.n_threads == n_threads
    reads = [rate for name, rate in found.probes.items() if name.startswith("read: ")]
    assert len(reads) == (5 if n_threads == 1 else 4)
    assert found.bytes_per_s == max(reads)
    assert set(found.flops_per_s) == {"fp32", "bf16", "int8"}
    for dtype, best in found.flops_per_s.items():
        rates = [rate for name, rate in found.probes.items() if name.startswith(f"{dtype}: ")]
        assert best == max(rates)
        assert len(rates) == (2 if dtype == "bf16" else 4)


def test_a_rate_is_work_over_the_shortest_call(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.setattr(roof, "_best_seconds", lambda call: 0.5)
    found = Roof(**roof.measure_roof(torch.get_num_threads()))
    assert found.bytes_per_s == 2 * (1 << 20)
    assert found.flops_per_s == dict.fromkeys(("fp32", "bf16", "int8"), 2 * 2 * 64**3)


def test_the_buffer_is_larger_than_any_last_level_cache() -> None:
    assert roof.BUFFER_BYTES >= 512 * 2**20
