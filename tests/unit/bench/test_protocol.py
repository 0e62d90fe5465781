"""Counts, warm-up and samples, with a clock that passes only in the timed calls."""

import gc

import pytest

from edgeprof.bench.protocol import EFFORTS, protocol_for, quiet_gc, sample, warm_up
from edgeprof.core.errors import UsageError


def test_warm_up_ends_when_two_windows_agree(clock) -> None:
    result = warm_up(clock.call(9_000, 100), budget_ns=1_000_000, clock=clock)
    assert (result.calls, result.settled) == (11, True)  # the first call, then two windows of five


def test_warm_up_goes_on_while_times_fall(clock) -> None:
    falling = [1000 - 50 * i for i in range(14)]
    result = warm_up(clock.call(*falling, 100), budget_ns=1_000_000, clock=clock)
    assert result.settled
    assert result.calls > len(falling) + 5


def test_warm_up_that_never_settles_ends_by_its_budget(clock) -> None:
    growing = [int(100 * 1.2**i) for i in range(200)]
    result = warm_up(clock.call(*growing), budget_ns=50_000, clock=clock)
    assert not result.settled
    assert 3 <= result.calls < 40


def test_the_first_call_never_counts(clock) -> None:
    """A single slow window would agree with the packing that the first call does."""
    result = warm_up(clock.call(1_000, 1_000, 1_000), budget_ns=2_000, clock=clock)
    assert (result.calls, result.settled) == (3, True)
    result = warm_up(clock.call(1_000, 2_000, 2_000, 2_000), budget_ns=100_000_000_000, clock=clock)
    assert result.calls == 11


def test_slow_calls_are_compared_one_by_one_with_a_wider_tolerance(clock) -> None:
    result = warm_up(clock.call(9_000, 1_000, 1_090), budget_ns=10_000, clock=clock)
    assert (result.calls, result.settled) == (3, True)


def test_a_call_slower_than_the_budget_is_made_three_times_and_no_more(clock) -> None:
    result = warm_up(clock.call(10_000, 20_000, 40_000, 80_000), budget_ns=5_000, clock=clock)
    assert (result.calls, result.settled) == (3, False)


def test_warm_up_times_the_calls_and_not_its_own_bookkeeping() -> None:
    """A clock that also passes between the calls, ever longer, does not unsettle equal calls."""
    now, reads = 0, 0

    def clock() -> int:
        nonlocal now, reads
        reads += 1
        if reads % 2 == 0:  # before each call: what was reckoned since the last one
            now += 50 * reads
        return now

    def call() -> None:
        nonlocal now
        now += 100

    assert warm_up(call, budget_ns=10**9, clock=clock).calls == 11


def test_sampling_stops_at_the_budget_but_never_below_the_minimum(clock, protocol) -> None:
    assert sample(clock.call(400), protocol, clock) == [400] * 3  # the budget of 1000 is spent in the third
    assert sample(clock.call(300), protocol, clock) == [300] * 4
    assert sample(clock.call(9_000), protocol, clock) == [9_000] * protocol.min_samples


def test_sampling_stops_at_the_maximum(clock, protocol) -> None:
    assert sample(clock.call(1), protocol, clock) == [1] * protocol.max_samples


def test_samples_keep_their_order(clock, protocol) -> None:
    assert sample(clock.call(5, 4, 3, 2), protocol, clock) == [5, 4, 3, 2, 2, 2, 2, 2]


def test_more_effort_means_larger_counts_of_the_same_protocol() -> None:
    quick, normal, thorough = (protocol_for(e) for e in ("quick", "normal", "thorough"))
    for less, more in ((quick, normal), (normal, thorough)):
        assert less.rounds < more.rounds
        assert less.rounds * less.loads < more.rounds * more.loads
        assert less.time_budget_ns < more.time_budget_ns
    assert len({p.version for p in EFFORTS.values()}) == 1
    assert quick.rounds * quick.loads >= 6  # what an interval over loads wants


def test_an_unknown_effort_is_told_with_the_closest() -> None:
    with pytest.raises(UsageError, match="unknown effort 'thorogh': did you mean thorough"):
        protocol_for("thorogh")


def test_the_garbage_collector_rests_inside_only() -> None:
    assert gc.isenabled()
    with quiet_gc():
        assert not gc.isenabled()
    assert gc.isenabled()
