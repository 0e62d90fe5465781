"""``edgeprof search worker`` on a real PostgreSQL: workers share a study, and one that dies costs its trial only."""

import importlib.util
import json
import os
import random
import signal
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from postgres import programs, server

from edgeprof.search.study import FAILED, load_study

pytestmark = pytest.mark.slow

QUALITY = """
import time

def attention(config):
    time.sleep(0.2)
    return sum(block.mixer.name != "short_conv" for block in config.layers) / 10
"""

SEARCH = (
    "search", "--space", "tiny", "--objective", "quality_pg:attention", "--max-params", "330k", "--max-state", "1MB@1024",
    "--no-measure", "--finalists", "1", "--sampler", "random", "--json",
)  # fmt: skip


@pytest.fixture
def url() -> Iterator[str]:
    folder = programs()
    if folder is None or importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs a PostgreSQL server (Debian: postgresql) and its driver (psycopg[binary])")
    with server(folder) as found:
        yield found


@pytest.fixture
def stored(url: str) -> Iterator[Callable[[], list[Any]]]:
    """What the database holds: all trials of its study."""
    from optuna.storages import RDBStorage

    storage = RDBStorage(url)
    yield lambda: load_study(storage, None).get_trials(deepcopy=False)
    storage.remove_session()
    storage.engine.dispose()


def test_four_workers_share_a_study_and_killed_ones_cost_their_trials_only(
    make_program: Any, waiting: Any, url: str, stored: Callable[[], list[Any]]
) -> None:
    program = make_program("postgres")
    (program.home / "quality_pg.py").write_text(textwrap.dedent(QUALITY))
    program.extra["EDGEPROF_STORAGE"] = url
    first = program.run(*SEARCH, "--trials", "2")
    assert first.returncode == 0, first.stderr
    n_trials, n_kills, rng = 24, 2, random.Random(0)

    def start() -> Any:
        return program.start("search", "worker", "--trials", str(n_trials), "--json")

    def n_complete() -> int:
        return sum(trial.state.name == "COMPLETE" for trial in stored())

    workers = [start() for _ in range(4)]
    n_in_flight = 0
    for kill in range(n_kills):
        assert waiting(lambda kill=kill: n_complete() >= 4 * (kill + 1))
        victim = workers.pop(rng.randrange(len(workers)))
        n_in_flight += victim.poll() is None
        os.killpg(victim.pid, signal.SIGKILL)
        victim.communicate()
        workers.append(start())
    for worker in workers:
        out, err = worker.communicate(timeout=200)
        assert worker.returncode == 0, err
        assert json.loads(out)["trials"] == n_trials
    trials = stored()
    assert n_complete() == n_trials
    assert sum(trial.state.name == "RUNNING" for trial in trials) == 0
    assert sum(trial.state.name == "FAIL" and bool(trial.params) for trial in trials) <= n_in_flight
    assert all(FAILED not in trial.user_attrs for trial in trials)
    done = program.run("search", "report", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"]["scored"] == n_trials
