"""The assembled ring: order, passes, bursts, and which calls become samples."""

from dataclasses import replace

import pytest

from edgeprof.bench.protocol import TIMED_PASSES, UNTIMED_PASSES
from edgeprof.bench.ring import BUDGET_FACTOR, MAX_SAMPLES, MIN_BURSTS, Ring


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def make_ring(clock, log):
    """A ring of calls with names and durations."""

    def make(durations: dict[str, list[int]], *, decode: bool = True) -> Ring:
        def logged(name: str):
            advance = clock.call(*durations[name])

            def call() -> None:
                log.append(name)
                advance()

            return call

        return Ring([logged(name) for name in durations], decode=decode, clock=clock)

    return make


def test_every_pass_calls_the_cells_in_order(make_ring, log, protocol) -> None:
    make_ring({"conv": [10], "ffn": [20], "null": [1]}).run(protocol)
    assert log == ["conv", "ffn", "null"] * (len(log) // 3)


def test_a_slow_decode_ring_runs_one_warm_up_pass_and_the_fewest_bursts(make_ring, log, protocol) -> None:
    ring = make_ring({"conv": [10**6], "gqa": [2 * 10**6]})
    ring.run(protocol)
    assert len(log) // 2 == 1 + MIN_BURSTS * (UNTIMED_PASSES + TIMED_PASSES)
    assert ring.samples == [[10**6] * MIN_BURSTS * TIMED_PASSES, [2 * 10**6] * MIN_BURSTS * TIMED_PASSES]


def test_untimed_passes_are_in_no_sample(make_ring, protocol) -> None:
    """Calls are numbered by what they take: the warm-up pass and the first two of each burst are missing."""
    ring = make_ring({"conv": [10**6 + i for i in range(100)]})
    ring.run(protocol)
    numbers = [ns - 10**6 for ns in ring.samples[0]]
    assert numbers == [3, 4, 5, 8, 9, 10, 13, 14, 15]


def test_a_prefill_burst_is_one_timed_pass(make_ring, log, protocol) -> None:
    ring = make_ring({"conv": [10**6 + i for i in range(100)]}, decode=False)
    ring.run(protocol)
    assert [ns - 10**6 for ns in ring.samples[0]] == [1, 2, 3]
    assert len(log) == 4


def test_bursts_go_on_until_the_budget_is_spent(make_ring, protocol) -> None:
    small = replace(protocol, time_budget_ns=1_000)
    ring = make_ring({"conv": [100]})
    ring.run(small)
    passes = BUDGET_FACTOR * small.time_budget_ns // 100
    bursts = -(-passes // (UNTIMED_PASSES + TIMED_PASSES))
    assert len(ring.samples[0]) == bursts * TIMED_PASSES


def test_there_is_an_end_to_the_samples_of_fast_cells(make_ring, protocol) -> None:
    ring = make_ring({"null": [1]})
    ring.run(replace(protocol, time_budget_ns=10**9))
    assert len(ring.samples[0]) == MAX_SAMPLES


def test_the_boundary_is_measured_inside_the_pass(make_ring, protocol) -> None:
    ring = make_ring({"gqa": [500], "null": [3]})
    ring.run(protocol)
    assert set(ring.samples[1]) == {3}


def test_a_cell_that_slows_down_has_not_settled(make_ring, protocol) -> None:
    ring = make_ring({"steady": [10**6], "slower": [10**6 + 40_000 * i for i in range(100)]})
    ring.run(protocol)
    assert ring.settled == [True, False]


def test_a_ring_that_has_not_run_has_not_settled(make_ring) -> None:
    assert make_ring({"conv": [1]}).settled == [False]
