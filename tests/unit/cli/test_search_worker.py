"""``edgeprof search worker``, and the workers that a search starts."""

import json
import logging
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprof.cli import app, search_workers
from edgeprof.cli.search_options import Where
from edgeprof.cli.search_session import Session
from edgeprof.cli.targets import Place, find_place
from edgeprof.core.errors import UsageError
from edgeprof.search.budgets import parse_budget
from edgeprof.search.space import SHIPPED_FOLDER
from edgeprof.search.study import SETUP, Setup, load_study, open_storage, open_study, scored
from edgeprof.store.schema import to_line

SETUP_OF_TESTS = Setup(
    space_name="tiny",
    space=(SHIPPED_FOLDER / "tiny.toml").read_text(),
    budgets=(asdict(parse_budget("params", "330k")),),
    objective="worker_quality:attention",
    also=(),
    sampler="additive",
    stage="whole",
    seed=0,
    scores="worker_quality:attention",
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "worker_quality.py").write_text("def attention(config):\n    return len(set(config.pattern)) / 10\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "worker_quality", raising=False)
    monkeypatch.setenv("EDGEPROF_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("EDGEPROF_STORAGE", raising=False)
    return tmp_path


def begun(here: Path, setup: Setup = SETUP_OF_TESTS, name: str = "s") -> Any:
    storage = open_storage(None, here / "results" / "studies")
    return open_study(storage, name, setup, ["maximize"], {"slot_00": ("conv3", "gqa2")})


def stored(here: Path) -> Any:
    return load_study(open_storage(None, here / "results" / "studies"), "s")


def test_a_worker_does_trials_of_the_only_study_until_it_has_so_many(here: Path, capsys) -> None:
    begun(here)
    assert app.run(["search", "worker", "--trials", "3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["study"], document["trials"]) == ("s", 3)
    assert app.run(["search", "worker", "--study", "s", "--trials", "4"]) == 0
    assert capsys.readouterr().out == "study s: 4 trials\n"
    assert len(scored(stored(here))) == 4


def test_scores_of_another_objective_are_not_added_to_a_studys(here: Path, capsys) -> None:
    begun(here, replace(SETUP_OF_TESTS, objective="proxy", stage="quick", scores="proxy 1: text=1,recall=1"))
    assert app.run(["search", "worker", "--trials", "1"]) == 2
    assert "--study: s: its scores are of proxy 1: text=1,recall=1, and cannot be compared" in capsys.readouterr().err
    assert not stored(here).trials


def test_baselines_are_the_searchs_own_matter(here: Path) -> None:
    begun(here)
    assert app.run(["search", "worker", "--trials", "2"]) == 0
    assert all("baseline" not in t.user_attrs for t in stored(here).trials)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--study", "t"], "no study 't'; there is s"),
        (["--storage", "sqlite:////no/such/x.db"], "--storage: "),
    ],
)
def test_bad_input_is_one_line(options: list[str], told: str, here: Path, capsys) -> None:
    begun(here)
    assert app.run(["search", "worker", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert len(err.splitlines()) == 1


def test_without_a_study_there_is_nothing_to_join(here: Path, capsys) -> None:
    assert app.run(["search", "worker"]) == 2
    assert "there is none; edgeprof search makes one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"space": "what"}, "is no TOML"),
        ({"budgets": ({"metric": "params", "name": "params", "limit": -1},)}, "stored budget"),
        ({"objective": "no_such_module_at_all:f"}, "cannot be imported"),
        ({"also": ("tpot",)}, "--also"),
    ],
)
def test_a_study_that_says_nonsense_is_one_line(changes: Any, told: str, here: Path, capsys) -> None:
    study = begun(here)
    study.set_user_attr(SETUP, asdict(replace(SETUP_OF_TESTS, **changes)))
    assert app.run(["search", "worker"]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err


def timed(device: str) -> Setup:
    budget = parse_budget("tpot", "20ms@64").filled(runtime="torch_eager", dtype="fp32", n_threads=1)
    return replace(SETUP_OF_TESTS, budgets=(asdict(budget),), devices={"local": device})


def test_elsewhere_local_is_still_the_device_that_the_search_began_with(here: Path, lab: Any, monkeypatch) -> None:
    """A worker's own machine has cells as well; they are none of this study's."""
    mine = Place(device_id="mine", fingerprint="e" * 16, device=object())  # type: ignore[arg-type]
    monkeypatch.setattr(
        "edgeprof.cli.targets.find_place", lambda name, store: mine if name == "local" else find_place(name, store)
    )
    begun(here, timed("lab"))
    with pytest.raises(UsageError, match="no results of 'lab'"):
        Session.resume(Where(study="s", storage=None, results=None))
    write_cells(here, lab)
    session = Session.resume(Where(study="s", storage=None, results=None))
    assert session.places["local"].device_id == "lab"
    assert session.places["local"].device is None
    assert app.run(["search", "worker", "--study", "s", "--trials", "2"]) == 0
    assert all(t.user_attrs["predicted"]["tpot@64"][0] > 0 for t in stored(here).trials)


def write_cells(here: Path, lab: Any) -> None:
    from edgeprof.predict.types import Target
    from edgeprof.search.budgets import load_budget
    from edgeprof.search.costs import Costs
    from edgeprof.search.space import load_space

    budget = load_budget(timed("lab").budgets[0])
    costs = Costs(
        space=load_space("tiny"),
        budgets=[budget],
        knowledge={"local": lab.knowledge([])},
        make_target=lambda _, config: Target(config=config, runtime="torch_eager", dtype="fp32", kv_dtype="fp32"),
    )
    (rings,) = costs.rings().values()
    folder = here / "results" / "lab"
    folder.mkdir(parents=True)
    (folder / "instances.jsonl").write_bytes(b"".join(map(to_line, lab.measure(rings))))


def test_a_worker_whose_results_say_that_nothing_is_feasible_says_so(here: Path, capsys) -> None:
    begun(here, replace(SETUP_OF_TESTS, budgets=(asdict(parse_budget("params", "10k")),)))
    assert app.run(["search", "worker"]) == 1
    err = capsys.readouterr().err
    assert "study s: by the results in " in err
    assert "no layout keeps its budgets" in err


# Workers that a search starts


@pytest.fixture
def session(here: Path) -> Any:
    return SimpleNamespace(
        study=SimpleNamespace(study_name="s"),
        store=SimpleNamespace(root=here / "results"),
        storage="postgresql://u:pw@h/d",
    )


class Started:
    """Stands in for processes: each runs a Python text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, command: list[str], *, env: dict[str, str], **more: Any) -> Any:
        self.commands.append(command)
        self.environments.append(env)
        self.processes.append(POPEN([sys.executable, "-c", self.text], env=env, **more))
        return self.processes[-1]


POPEN = subprocess.Popen


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch):
    def make(text: str) -> Started:
        fake = Started(text)
        monkeypatch.setattr(search_workers.subprocess, "Popen", fake)
        return fake

    return make


def test_workers_join_the_study_by_name_and_no_argument_shows_a_password(session: Any, started: Any) -> None:
    fake = started("")
    with search_workers.workers(session, 2, 50):
        pass
    assert len(fake.commands) == 2
    assert fake.commands[0][1:] == [
        "-m", "edgeprof", "search", "worker", "--study", "s", "--trials", "50", "--results", str(session.store.root),
    ]  # fmt: skip
    assert {e["EDGEPROF_STORAGE"] for e in fake.environments} == {"postgresql://u:pw@h/d"}


def test_without_workers_nothing_is_started(session: Any, started: Any) -> None:
    fake = started("")
    with search_workers.workers(session, 0, 50):
        pass
    assert fake.commands == []


def test_what_a_worker_died_of_is_told(session: Any, started: Any, caplog: pytest.LogCaptureFixture) -> None:
    started("import sys; print('first', file=sys.stderr); sys.exit('no such study')")
    with caplog.at_level(logging.WARNING), search_workers.workers(session, 1, 50):
        pass
    assert "a worker ended with 1: no such study" in caplog.text


def test_an_interruption_ends_the_workers_too(session: Any, started: Any, tmp_path: Path) -> None:
    """Politely, so that they end what their objectives have started."""
    told, ready = tmp_path / "told", tmp_path / "ready"
    fake = started(
        f"import time, pathlib\ntry:\n    pathlib.Path({str(ready)!r}).touch(); time.sleep(600)\n"
        f"except KeyboardInterrupt:\n    pathlib.Path({str(told)!r}).touch()"
    )

    def interrupted() -> None:
        with search_workers.workers(session, 1, 50):
            while not ready.exists():
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert told.exists()
    assert fake.processes[0].returncode == 0


def test_one_that_does_not_listen_is_killed(session: Any, started: Any, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(search_workers, "PATIENCE_S", 0.2)
    ready = tmp_path / "ready"
    fake = started(
        f"import signal, time, pathlib\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\npathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(600)"
    )
    with search_workers.workers(session, 1, 50):
        while not ready.exists():
            time.sleep(0.01)
    assert fake.processes[0].returncode == -signal.SIGKILL
