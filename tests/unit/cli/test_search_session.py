"""A search's session: the study's name, the devices, and what has to be measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprof.cli.search_options import Where, make_budgets
from edgeprof.cli.search_session import Session, check_out, make_setup
from edgeprof.cli.targets import Place
from edgeprof.core.errors import BaselineError, UsageError
from edgeprof.search.study import load_study, open_storage

HERE = Where(study=None, storage=None, results=None)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The device at hand; its fields may be replaced."""
    fields: dict[str, Any] = {"device_id": "lab", "fingerprint": "f" * 16, "device": object()}
    monkeypatch.setattr("edgeprof.cli.targets.find_place", lambda name, store: Place(**fields))
    monkeypatch.setenv("EDGEPROF_RESULTS", str(tmp_path / "results"))
    return fields


def setup_of(*budgets: Any, **changes: Any) -> Any:
    fields: dict[str, Any] = {"objective": "cmd:true", "also": (), "sampler": "additive", "stage": "", "seed": 0}
    return make_setup("tiny", budgets, **(fields | changes))


@pytest.fixture
def static() -> tuple[Any, ...]:
    return make_budgets(max_params=["330k"])


@pytest.fixture
def timed() -> tuple[Any, ...]:
    return make_budgets(max_tpot=["20ms@64"], runtime="torch_eager", dtype="fp32", threads=1, device="local")


def begin(setup: Any, where: Where = HERE) -> Session:
    return Session.begin(setup, where)


def test_the_name_comes_from_the_setup(place: Any, static: Any) -> None:
    first, again = begin(setup_of(*static)), begin(setup_of(*static))
    other = begin(setup_of(*static, seed=1))
    assert first.study.study_name.startswith("tiny-")
    assert first.study.study_name == again.study.study_name != other.study.study_name


def test_another_machine_in_the_same_storage_begins_a_study_of_its_own(place: Any, timed: Any) -> None:
    """Otherwise the times of two devices would decide in one study."""
    first = begin(setup_of(*timed))
    place["device_id"] = "other"
    assert begin(setup_of(*timed)).study.study_name != first.study.study_name
    named = replace(HERE, study="mine")
    begin(setup_of(*timed), named)
    place["device_id"] = "third"
    with pytest.raises(UsageError, match="--study: mine is about another devices"):
        begin(setup_of(*timed), named)


def test_another_environment_of_the_same_machine_goes_on(place: Any, timed: Any) -> None:
    first = begin(setup_of(*timed))
    place["fingerprint"] = "e" * 16
    assert begin(setup_of(*timed)).study.study_name == first.study.study_name


def test_an_unknown_sampler_is_told_before_a_study_is_made(place: Any, static: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown sampler 'additve'"):
        setup_of(*static, sampler="additve")


def test_nothing_is_stored_of_a_setup_that_is_wrong(place: Any, static: Any, tmp_path: Path) -> None:
    for changes in ({"objective": "what"}, {"also": ("tpot",)}, {"stage": "x"}):
        with pytest.raises(UsageError):
            begin(setup_of(*static, **changes))
    with pytest.raises(UsageError, match="there is none"):
        load_study(open_storage(None, tmp_path / "results" / "studies"), None)


def test_devices_that_nobody_has_are_not_measured(place: Any, timed: Any) -> None:
    place["device"] = None
    session = begin(setup_of(*timed))
    with pytest.raises(BaselineError, match="device local: cells of the space tiny are not measured there"):
        session.measure_cells(effort="quick", ask=False)


def test_static_budgets_measure_nothing(place: Any, static: Any) -> None:
    place["device"] = None
    session = begin(setup_of(*static))
    session.measure_cells(effort="quick", ask=True)
    assert session.infeasible() is None


def test_an_unknown_effort_is_told_though_nothing_is_to_be_measured(place: Any, static: Any) -> None:
    with pytest.raises(UsageError, match="unknown effort 'huge'"):
        begin(setup_of(*static)).measure_cells(effort="huge", ask=False)


def test_a_sampler_is_attached_without_looking_for_a_layout_twice(place: Any, static: Any, monkeypatch) -> None:
    from edgeprof.search import feasibility

    looks: list[int] = []
    usual = feasibility.feasible_layout
    monkeypatch.setattr(feasibility, "feasible_layout", lambda *args: looks.append(1) or usual(*args))
    session = begin(setup_of(*static))
    assert session.infeasible() is None
    session.attach_sampler()
    assert len(looks) == 1


def test_a_name_for_the_winner_is_checked_before_hours_of_search(tmp_path: Path) -> None:
    check_out(tmp_path / "winner.toml")
    for name, told in (("winner", "ends in .toml"), ("no/winner.toml", "is no folder")):
        with pytest.raises(UsageError, match=told):
            check_out(tmp_path / name)
