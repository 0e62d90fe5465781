import pytest

from edgeprof.train.schedule import lr_share
from edgeprof.train.settings import Settings


def settings(**changes) -> Settings:
    return Settings(**({"tokens": 10_000, "seq_len": 10, "batch": 10, "lr": 0.1, "warmup": 0.1} | changes))


def test_the_warm_up_rises_in_equal_parts_and_ends_at_the_highest_rate() -> None:
    assert [lr_share(settings(), step) for step in (0, 1, 4, 9)] == pytest.approx([0.1, 0.2, 0.5, 1.0])


def test_wsd_stays_until_its_last_fifth_and_falls_by_one_minus_a_root() -> None:
    wsd = settings(decay=0.2)
    assert lr_share(wsd, 10) == lr_share(wsd, 79) == 1.0
    assert [lr_share(wsd, step) for step in (80, 85, 95)] == pytest.approx([1.0, 0.5, 1 - 0.75**0.5])


def test_cosine_is_half_way_down_in_the_middle_of_what_follows_the_warm_up() -> None:
    cosine = settings(schedule="cosine", final_lr=0.1)
    assert [lr_share(cosine, step) for step in (10, 55)] == pytest.approx([1.0, 0.55])
    assert lr_share(cosine, 99) == pytest.approx(0.1, abs=1e-3)


def test_no_warm_up_begins_at_the_highest_rate() -> None:
    assert lr_share(settings(warmup=0.0), 0) == 1.0


def test_a_run_of_one_step_trains_at_the_highest_rate() -> None:
    assert lr_share(settings(tokens=1), 0) == 1.0


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_every_step_has_a_rate_between_the_final_and_the_highest(schedule) -> None:
    found = [lr_share(settings(schedule=schedule, warmup=0.0, final_lr=0.05), step) for step in range(100)]
    assert all(0.05 <= share <= 1 for share in found)
    assert found == sorted(found, reverse=True)
