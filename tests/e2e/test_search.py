"""``edgeprof search`` as a program: killed and resumed, with workers, in a database."""

import json
import os
import signal
import textwrap
from collections import Counter
from typing import Any

import pytest

from edgeprof.models.config import load_config
from edgeprof.search.study import FAILED, load_study, open_storage

pytestmark = pytest.mark.slow

QUALITY = """
import os, pathlib, time

def attention(config):
    log = pathlib.Path(os.environ["QUALITY_LOG"])
    with log.open("a") as file:
        file.write(f"{os.getpid()} {config.pattern}\\n")
    time.sleep(float(os.environ.get("QUALITY_SECONDS", "0")))
    end = time.monotonic() + 100
    while len({line.split()[0] for line in log.read_text().splitlines()}) < int(os.environ.get("QUALITY_WORKERS", "1")):
        assert time.monotonic() < end, "the other workers do not come"
        time.sleep(0.05)
    return sum(block.mixer.name != "short_conv" for block in config.layers) / 10
"""

SEARCH = (
    "search", "--space", "tiny", "--objective", "quality_e2e:attention", "--max-params", "330k", "--max-state", "1MB@1024",
    "--no-measure", "--finalists", "2", "--json",
)  # fmt: skip


@pytest.fixture
def home(make_program: Any) -> Any:
    """A program with an objective that says in a file what it was asked, takes its time, and waits for other workers."""
    program = make_program("search")
    (program.home / "quality_e2e.py").write_text(textwrap.dedent(QUALITY))
    program.extra |= {"QUALITY_LOG": str(program.home / "log")}
    return program


def asked(program: Any) -> list[str]:
    log = program.home / "log"
    return log.read_text().splitlines() if log.exists() else []


def study_of(program: Any, url: str | None = None) -> Any:
    return load_study(open_storage(url, program.results / "studies"), None)


def states(program: Any) -> Counter[str]:
    return Counter(t.state.name for t in study_of(program).trials)


def test_a_search_that_is_killed_goes_on_to_the_exact_number_of_trials(home: Any, waiting: Any) -> None:
    """Killed in the middle of trials, three times, the last one right after its start."""
    home.extra["QUALITY_SECONDS"] = "0.3"
    for goal in (2, 5, 6):
        process = home.start(*SEARCH, "--trials", "9")
        assert waiting(lambda goal=goal: len(asked(home)) >= goal, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert states(home)["RUNNING"] <= 2
    done = home.run(*SEARCH, "--trials", "9")
    assert done.returncode == 0, done.stderr
    found = states(home)
    assert found["COMPLETE"] == 9
    assert found["RUNNING"] == 0
    assert found["FAIL"] == 3  # those that the kills met
    document = json.loads(done.stdout)
    assert document["trials"] == 9
    assert load_config(str(home.home / "winner.toml")).pattern == document["winner"]["pattern"]


def test_workers_share_a_journal_and_do_every_trial_once(home: Any) -> None:
    home.extra |= {"QUALITY_SECONDS": "0.2", "QUALITY_WORKERS": "3"}
    done = home.run(*SEARCH, "--trials", "12", "--workers", "3")
    assert done.returncode == 0, done.stderr
    assert len({line.split()[0] for line in asked(home)}) == 3
    found = states(home)
    assert (found["COMPLETE"], found["RUNNING"]) == (12, 0)
    assert json.loads(done.stdout)["trials"] == 12


def test_a_worker_that_is_killed_costs_its_trial_only(home: Any, waiting: Any) -> None:
    home.extra |= {"QUALITY_SECONDS": "0.3", "QUALITY_WORKERS": "2"}
    main = home.start(*SEARCH, "--trials", "14", "--workers", "2")

    def workers() -> set[int]:
        return {int(line.split()[0]) for line in asked(home)} - {main.pid}

    assert waiting(lambda: bool(workers()), main)
    os.kill(next(iter(workers())), signal.SIGKILL)
    _, err = main.communicate(timeout=120)
    assert main.returncode == 0, err
    found = states(home)
    assert (found["COMPLETE"], found["RUNNING"]) == (14, 0)
    assert all(FAILED not in t.user_attrs for t in study_of(home).trials)
    assert "a worker ended with -9" in err


def test_a_database_by_its_url_is_joined_by_a_worker(home: Any) -> None:
    home.extra["EDGEPROF_STORAGE"] = f"sqlite:///{home.home / 'study.db'}"
    assert home.run(*SEARCH, "--trials", "3").returncode == 0
    joined = home.run("search", "worker", "--trials", "5", "--json")
    assert joined.returncode == 0, joined.stderr
    assert json.loads(joined.stdout)["trials"] == 5
    again = home.run(*SEARCH, "--trials", "5")
    assert json.loads(again.stdout)["trials"] == 5


def test_ctrl_c_ends_the_workers_and_keeps_what_is_done(home: Any, waiting: Any) -> None:
    home.extra |= {"QUALITY_SECONDS": "0.3", "QUALITY_WORKERS": "2"}
    process = home.start(*SEARCH, "--trials", "50", "--workers", "2")
    assert waiting(lambda: len({line.split()[0] for line in asked(home)}) == 2 and len(asked(home)) > 4, process)
    process.send_signal(signal.SIGINT)  # to the program alone; it tells its workers
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "the same command continues from there" in err.splitlines()[-1]
    found = states(home)
    assert found["RUNNING"] == 0
    assert found["COMPLETE"] >= 2


SMALL_SPACE = """
schema_version = 1
description = "Two layers."
d_model = 32
vocab = 256
tied = true
max_context = 256
layers = 2

[mixers]
conv3 = { op = "short_conv", kernel_size = 3 }
gqa2 = { op = "gqa", n_heads = 2, n_kv_heads = 1, head_dim = 16 }

[ffns]
ff64 = { op = "swiglu", d_ff = 64 }

[slots]
"0" = ["conv3"]
"""


def test_a_search_measures_its_winner_and_the_report_the_baselines_beside_it(home: Any, tiny_effort: str) -> None:
    (home.home / "small.toml").write_text(SMALL_SPACE)
    done = home.run(
        "search", "--space", "small.toml", "--objective", "quality_e2e:attention", "--runtime", "onnxruntime",
        "--max-tpot", "1s@32", "--trials", "2", "--finalists", "1", "--yes", "--json",
        script=tiny_effort,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    budgets = {budget["name"]: budget for budget in document["winner"]["budgets"]}
    assert all(budget["kept"] and budget["measured"] > 0 for budget in budgets.values())
    lines = len(home.lines())
    told = home.run(
        "search", "report", "--config", document["winner"]["path"], "--measure", "--json", script=tiny_effort
    )
    assert told.returncode == 0, told.stderr
    measured = json.loads(told.stdout)["measured"]
    assert {"all conv", "all gqa", "winner"} <= set(measured)
    for figures in measured.values():
        low, high = figures["tpot@32"]["measured_ci95"]
        assert 0 < low <= figures["tpot@32"]["measured"] <= high
    assert len(home.lines()) > lines
