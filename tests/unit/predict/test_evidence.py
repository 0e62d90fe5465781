"""What records say of a cell: its curve over rings, process by process, as far as they were taken under equal conditions."""

from dataclasses import replace

import pytest

from edgeprof.predict.evidence import Conditions, Curve, Evidence, open_ring
from edgeprof.predict.plan import cells, decode_call

FINGERPRINT = "f" * 16


@pytest.fixture
def cell(make_target):
    return cells(make_target(), decode_call(64))[1].case


@pytest.fixture
def timed(lab, cell):
    """A record of the cell in a ring."""

    def make(*samples: int, ring: int = 1000, session: str = "s1", number: int = 0, **changes):
        record = lab.timed(replace(cell, ring_bytes=ring), session, number, samples)
        return replace(record, **changes)

    return make


def evidence(*records, **conditions) -> Evidence:
    return Evidence(records, Conditions(fingerprint=FINGERPRINT, **conditions))


def test_the_null_call_is_subtracted_and_kept(cell, timed) -> None:
    curves = evidence(timed(10_000, 10_100, 99_000, call_overhead_ns=2_500)).curves(cell)
    assert curves == {("s1", 0): Curve({1000: 7_600.0}, 2_500.0)}


def test_places_of_one_ring_are_averaged_and_rings_kept_apart(cell, timed) -> None:
    records = [timed(5_000), timed(7_000), timed(9_000, ring=2000), timed(8_000, number=1)]
    curves = evidence(*records).curves(cell)
    assert curves["s1", 0].points == {1000: 3_000.0, 2000: 6_000.0}
    assert curves["s1", 1].points == {1000: 5_000.0}


def test_a_call_faster_than_the_null_call_costs_something_still(cell, timed) -> None:
    assert evidence(timed(2_000)).curves(cell)["s1", 0].points == {1000: 1.0}


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "0" * 16},
        {"runtime_version": "0.1"},
        {"artifact_key": "another"},
        {"protocol_version": 99},
        {"status": "error"},
        {"kind": "probe"},
        {"ring_bytes": None},
    ],
)
def test_what_was_taken_otherwise_does_not_count(cell, timed, change: dict) -> None:
    assert evidence(timed(5_000)).curves(cell)
    assert not evidence(timed(5_000, **change)).curves(cell)


def test_sessions_are_picked_and_left_out(cell, timed) -> None:
    found = evidence(timed(5_000), timed(6_000, session="s2"))
    assert len(found.curves(cell)) == 2
    only = found.under(Conditions(fingerprint=FINGERPRINT, only_session="s2"))
    earlier = found.under(Conditions(fingerprint=FINGERPRINT, before_session="s2"))
    assert list(only.curves(cell)) == [("s2", 0)]
    assert list(earlier.curves(cell)) == [("s1", 0)]
    assert not found.under(Conditions(fingerprint=FINGERPRINT, before_session="s1")).curves(cell)
    assert len(found.curves(cell)) == 2  # a view changes nothing


def test_contexts_are_those_of_this_very_cell(lab, cell, timed, make_target) -> None:
    far = replace(cell, kv_len=256, ring_bytes=1000)
    other = replace(cells(make_target(), decode_call(512))[2].case, ring_bytes=1000)
    records = [timed(5_000), lab.timed(far, "s1", 0, [1]), lab.timed(other, "s1", 0, [1])]
    assert evidence(*records).contexts(cell) == [64, 256]


@pytest.mark.parametrize(
    ("size", "cost", "around"),
    [
        (1000, 10.0, (1000, 1000)),
        (1500, 15.0, (1000, 2000)),
        (2000, 20.0, (2000, 2000)),
        (3000, 50.0, (2000, 4000)),
        (900, 10.0, (1000, 1000)),
        (4400, 80.0, (4000, 4000)),
    ],
)
def test_a_curve_is_linear_between_its_rings_and_flat_beyond(size: int, cost: float, around: tuple) -> None:
    curve = Curve({1000: 10.0, 2000: 20.0, 4000: 80.0})
    assert curve.at(size) == pytest.approx(cost)
    assert curve.around(size) == around


def test_only_the_rings_around_the_working_set_say_how_much_its_cost_changes() -> None:
    curve = Curve({1000: 10.0, 2000: 20.0, 4000: 80.0})
    assert curve.change(1500) == pytest.approx(1.0)
    assert curve.change(2000) == 0.0


@pytest.mark.parametrize(("size", "covered"), [(799, False), (801, True), (2499, True), (2501, False)])
def test_a_curve_covers_a_little_more_than_its_rings(size: int, covered: bool) -> None:
    assert Curve({1000: 1.0, 2000: 1.0}).covers(size) is covered


def test_open_ring_forgets_the_ring_alone(cell) -> None:
    assert open_ring(replace(cell, ring_bytes=5)) == cell


def test_what_calls_escape_alone_and_passes_do_not_is_spread_over_the_ring(cell, timed) -> None:
    """Each place is slowed in another pass: no median shows it, every pass does, and so would a call of the model."""
    slow = [(3_000, 1_000, 1_000), (1_000, 3_000, 1_000), (1_000, 1_000, 3_000)]
    (curve,) = evidence(*(timed(*samples, call_overhead_ns=100) for samples in slow)).curves(cell).values()
    assert curve.stretch == pytest.approx(5 / 3)
    assert curve.points[1000] == pytest.approx(900 * 5 / 3)
    assert curve.call_ns == pytest.approx(100 * 5 / 3)


def test_a_ring_is_stretched_by_its_own_passes_alone(cell, timed) -> None:
    slow = [timed(3_000, 1_000, 1_000), timed(1_000, 3_000, 1_000), timed(1_000, 1_000, 3_000)]
    others = [timed(4_000, 4_000, 4_000, ring=2000), timed(4_000, 4_000, 4_000, number=1)]
    others += [timed(4_000, 4_000, 4_000, ring=1000, number=2) for _ in range(2)]
    curves = evidence(*slow, *others).curves(cell)
    assert curves["s1", 0].points[2000] == curves["s1", 1].points[1000] == curves["s1", 2].points[1000] == 1_000


def test_every_cell_of_a_ring_is_stretched_alike(lab, cell, timed, make_target) -> None:
    head = replace(cells(make_target(), decode_call(64))[-1].case, ring_bytes=1000)
    records = [timed(9_000, 5_000, 5_000), lab.timed(head, "s1", 0, [5_000, 9_000, 5_000])]
    found = evidence(*records)
    assert found.curves(cell)["s1", 0].stretch == found.curves(open_ring(head))["s1", 0].stretch == pytest.approx(1.4)
