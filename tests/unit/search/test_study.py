"""Where a study is stored, what it is about, and which trials count."""

import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState, create_trial

from edgeprof.core.errors import UsageError
from edgeprof.search import liveness
from edgeprof.search import study as studies
from edgeprof.search.journal import Journal
from edgeprof.search.liveness import NAMELESS_S, SILENT_S, at_work, release_lost, this_worker
from edgeprof.search.study import (
    FAILED,
    REJECTED,
    SEEN,
    SETUP,
    WORKER,
    Setup,
    load_study,
    lost_storage,
    make_pruner,
    n_counted,
    open_storage,
    open_study,
    scored,
    setup_of,
)

SETUP_OF_TESTS = Setup(
    space_name="tiny", space="...", budgets=({"metric": "params"},), objective="proxy", also=(), sampler="additive",
    stage="", seed=0,
)  # fmt: skip
PARAMETERS = {"x": ("a", "b")}
CHOICE = {"x": CategoricalDistribution(("a", "b"))}


def opened(storage: Any, name: str = "s", setup: Setup = SETUP_OF_TESTS) -> optuna.Study:
    return open_study(storage, name, setup, ["maximize"], PARAMETERS)


# Storages


def test_a_study_is_kept_in_a_journal_among_the_results(tmp_path: Path) -> None:
    opened(open_storage(None, tmp_path / "studies"))
    assert (tmp_path / "studies" / "studies.journal").is_file()
    assert setup_of(load_study(open_storage(None, tmp_path / "studies"), "s")) == SETUP_OF_TESTS


@pytest.mark.parametrize("url", ["mine.journal", "sqlite:///mine.db"])
def test_a_storage_may_be_a_file_or_a_database(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = opened(open_storage(url, tmp_path))
    trial = study.ask(CHOICE)
    study.tell(trial, 0.5)
    again = load_study(open_storage(url, tmp_path), None)
    assert [t.values for t in scored(again)] == [[0.5]]
    for engine in (study, again):
        engine._storage.remove_session()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense://x", "--storage: "),
        ("sqlite:////no/such/folder/x.db", "--storage: sqlite:////no/such/folder/x.db: "),
        ("redis://localhost", "--storage: redis://localhost: "),
        ("no/such/folder/x.journal", "--storage: no/such/folder/x.journal: No such file or directory"),
        ("/", "--storage: / is a folder"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line(url: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        open_storage(url, tmp_path)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_a_driver_that_is_not_installed_is_named_and_no_password_is_shown(tmp_path: Path, monkeypatch) -> None:
    for driver in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(UsageError) as error:
        open_storage("postgresql://me:secret@host/db", tmp_path)
    assert "postgresql://me:***@host/db needs a driver: " in str(error.value)
    assert "psycopg" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_url_that_cannot_be_read_shows_no_password(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        open_storage("postgresql://me:secret@host:port/db", tmp_path)
    assert "secret" not in str(error.value)


def test_a_journal_that_is_something_else_is_one_line(tmp_path: Path) -> None:
    for text in ("what\nis\nthis\n", '{"op_code": 4}\n{"op_code": 4}\n', "[]\n[]\n"):
        (tmp_path / "x.journal").write_text(text)
        with pytest.raises(UsageError, match=r"^--storage: .*x\.journal"):
            open_storage(str(tmp_path / "x.journal"), tmp_path)


def test_a_line_that_a_kill_has_torn_loses_nothing_but_itself(tmp_path: Path) -> None:
    """Whatever the moment: the journal cut after each of its last line's bytes is a journal, and goes on."""
    path = tmp_path / "x.journal"
    study = opened(open_storage(str(path), tmp_path))
    study.tell(study.ask(CHOICE), 0.5)
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for cut in (last + 1, (last + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        storage = open_storage(str(path), tmp_path)
        again = load_study(storage, "s")
        again.tell(again.ask(CHOICE), 0.7)
        again.tell(again.ask(CHOICE), 0.9)
        assert [json.loads(line) for line in path.read_text().splitlines()]
        assert [t.value for t in scored(load_study(open_storage(str(path), tmp_path), "s"))][-2:] == [0.7, 0.9]


def test_a_file_without_lines_is_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x" * (2 << 20))
    with pytest.raises((UsageError, StorageInternalError)):
        opened(open_storage(str(path), tmp_path))
    assert path.stat().st_size == 2 << 20


def test_a_process_that_was_killed_with_the_lock_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    opened(open_storage(str(path), tmp_path))
    holder = (
        "import sys, os, signal; from pathlib import Path; from edgeprof.search.journal import Journal\n"
        f"Journal(Path({str(path)!r}))._kernel_lock.acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", holder], check=False).returncode == -9
    journal = Journal(path)
    assert journal._kernel_lock.acquire(timeout=5)
    journal._kernel_lock.release()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_journal_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    opened(open_storage(str(path), tmp_path))
    path.chmod(stat.S_IRUSR)
    with pytest.raises(UsageError, match=r"--storage: .*cannot be written"), lost_storage():
        opened(open_storage(str(path), tmp_path), name="other")


def test_a_storage_that_is_lost_on_the_way_is_one_line(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.journal"
    study = opened(open_storage(str(path), tmp_path))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UsageError) as error, lost_storage():
        study.ask(CHOICE)
    assert str(error.value) == (
        f"--storage: {path}: cannot be written: No space left on device; what it holds is kept, and the same command goes on"
    )


# What a study is about


def test_the_same_setup_resumes(tmp_path: Path) -> None:
    first = opened(open_storage(None, tmp_path))
    first.tell(first.ask(CHOICE), 1.0)
    assert len(opened(open_storage(None, tmp_path)).trials) == 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"objective": "perplexity:x"}, "objective"),
        ({"seed": 1, "sampler": "tpe"}, "sampler, another seed"),
        ({"budgets": ({"metric": "state"},)}, "budgets"),
        ({"space": "other"}, "space"),
        ({"devices": {"local": "other-machine"}}, "devices"),
        ({"also": ("tpot@64",)}, "also"),
        ({"stage": "long"}, "stage"),
    ],
)
def test_another_setup_under_the_same_name_is_refused_with_what_differs(changed, told: str, tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    opened(storage)
    with pytest.raises(UsageError, match=f"--study: s is about another {told}; give another --study"):
        opened(storage, setup=replace(SETUP_OF_TESTS, **changed))


def test_a_study_that_no_search_made_is_left_alone(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    foreign = optuna.create_study(storage=storage, study_name="s")
    foreign.tell(foreign.ask(CHOICE), 1.0)
    with pytest.raises(UsageError, match="trials that are not a search's"):
        opened(storage)
    with pytest.raises(UsageError, match="was not made by edgeprof search"):
        load_study(storage, "s")
    assert SETUP not in foreign.user_attrs


def test_a_kill_between_making_a_study_and_saying_what_it_is_about_loses_nothing(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    optuna.create_study(storage=storage, study_name="s", direction="maximize")
    assert setup_of(opened(storage)) == SETUP_OF_TESTS


def test_a_space_with_a_single_layout_is_no_search(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="single layout"):
        open_study(open_storage(None, tmp_path), "s", SETUP_OF_TESTS, ["maximize"], {})


def test_a_study_is_found_by_its_name_or_as_the_only_one(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    with pytest.raises(UsageError, match="there is none; edgeprof search makes one"):
        load_study(storage, None)
    opened(storage)
    assert load_study(storage, None).study_name == "s"
    opened(storage, name="t")
    with pytest.raises(UsageError, match="name one; there are s, t"):
        load_study(storage, None)
    with pytest.raises(UsageError, match="no study 'u'; there are s, t"):
        load_study(storage, "u")


def test_a_stored_setup_that_is_none_is_one_line(study) -> None:
    for stored in ("what", {"space": 1}, [], 3):
        study.set_user_attr(SETUP, stored)
        with pytest.raises(UsageError, match="was not made by edgeprof search"):
            setup_of(study)


# Which trials count


def add(study: optuna.Study, state: TrialState, **attrs: Any) -> None:
    value = 0.5 if state == TrialState.COMPLETE else None
    study.add_trial(create_trial(state=state, value=value, params={"x": "a"}, distributions=CHOICE, user_attrs=attrs))


def test_scored_pruned_and_running_trials_count_and_no_others(study) -> None:
    add(study, TrialState.COMPLETE)
    add(study, TrialState.PRUNED)
    add(study, TrialState.RUNNING)
    assert n_counted(study) == 3
    add(study, TrialState.PRUNED, **{REJECTED: True})
    add(study, TrialState.FAIL)
    add(study, TrialState.FAIL, **{FAILED: "why"})
    study.enqueue_trial({"x": "a"})
    assert n_counted(study) == 3
    assert n_counted(study, before=1) == 1
    assert len(scored(study)) == 1


def test_only_studies_of_quality_alone_are_pruned() -> None:
    alone, several = (optuna.create_study(directions=["maximize"] * n) for n in (1, 2))
    assert isinstance(make_pruner(alone), optuna.pruners.WilcoxonPruner)
    assert isinstance(make_pruner(several), optuna.pruners.NopPruner)


# Whose workers live


def running(study: optuna.Study, worker: str | None, seen: float | None = None) -> int:
    trial = study.ask(CHOICE)
    for name, value in ((WORKER, worker), (SEEN, seen)):
        if value is not None:
            trial.set_user_attr(name, value)
    return trial.number


def states(study: optuna.Study) -> list[str]:
    return [t.state.name for t in study.trials]


def test_a_trial_of_a_process_that_is_no_more_is_released(study) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, _, _ = this_worker().partition(":")
    running(study, f"{host}:{ended.pid}:{time.time():.2f}")
    running(study, this_worker())
    assert release_lost(study) == 1
    assert states(study) == ["FAIL", "RUNNING"]


def test_a_process_that_has_ended_and_was_not_waited_for_is_no_more(study) -> None:
    """The child of a search that was killed: its id is there until the search asks for it."""
    import psutil

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    host, _, _ = this_worker().partition(":")
    running(study, f"{host}:{child.pid}:{psutil.Process(child.pid).create_time():.2f}")
    assert release_lost(study) == 0
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert release_lost(study) == 1
    child.communicate()


def test_a_process_id_that_was_given_again_is_another_process(study) -> None:
    host, pid, begin = this_worker().split(":")
    running(study, f"{host}:{pid}:{float(begin) - 3600:.2f}")
    assert release_lost(study) == 1


@pytest.mark.parametrize(
    "worker", ["", "what", "{host}:", "{host}:x:1", "{host}:-1:1", "{host}:99999999999999999999:1"]
)
def test_a_worker_with_a_name_that_says_nothing_is_no_reason_to_fail(worker: str, study) -> None:
    running(study, worker.format(host=this_worker().partition(":")[0]))
    assert release_lost(study) in (0, 1)


def test_a_worker_elsewhere_lives_as_long_as_it_gives_signs(study) -> None:
    running(study, "elsewhere:1:1.0", time.time() - SILENT_S / 2)
    running(study, "elsewhere:2:1.0", time.time() - 2 * SILENT_S)
    assert release_lost(study) == 1
    assert states(study) == ["RUNNING", "FAIL"]


def test_a_trial_without_a_worker_is_released_after_a_moment(study, monkeypatch) -> None:
    running(study, None)
    assert release_lost(study) == 0
    later = time.time() + 2 * NAMELESS_S
    monkeypatch.setattr(liveness.time, "time", lambda: later)
    assert release_lost(study) == 1


def test_a_worker_gives_signs_of_life_until_its_trial_ends(study, monkeypatch) -> None:
    monkeypatch.setattr(liveness, "BEAT_S", 0.005)
    trial = study.ask(CHOICE)
    with at_work(trial):
        first = study.trials[0].user_attrs[SEEN]
        while study.trials[0].user_attrs[SEEN] == first:
            time.sleep(0.005)
        assert study.trials[0].user_attrs[WORKER] == this_worker()
    last = study.trials[0].user_attrs[SEEN]
    time.sleep(0.03)
    assert study.trials[0].user_attrs[SEEN] == last


def test_a_trial_that_another_process_has_ended_meanwhile_is_not_released_twice(study, monkeypatch) -> None:
    number = running(study, "elsewhere:2:1.0", 0.0)
    seen = study.get_trials()
    study.tell(number, 1.0)
    monkeypatch.setattr(liveness, "running", lambda _: seen)
    release_lost(study)
    assert states(study) == ["COMPLETE"]


def test_shown_urls_have_no_password() -> None:
    assert studies._shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert studies._shown("postgresql://me:se@cret@host/db") == "postgresql://me:***@host/db"
    assert studies._shown("sqlite:///x.db") == "sqlite:///x.db"
    assert studies._shown("a.journal") == "a.journal"
