"""Kills and interrupts: what was measured stays, what runs ends, and the same command goes on."""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter

import pytest

from edgeprof.bench.protocol import EFFORTS

pytestmark = pytest.mark.slow

ONE_RUNTIME = ("--runtime", "onnxruntime", "--json")


def test_kills_at_random_moments_lose_and_double_nothing(program, waiting) -> None:
    """The moments are spread over the run by the lines that it has stored, and random in between."""
    chance = random.Random(7)
    kept = program.lines()
    for more in (0, 3, 9, 5):
        process = program.start(*program.arguments(*ONE_RUNTIME))
        goal = len(kept) + more
        assert waiting(lambda goal=goal: len(program.lines()) >= goal, process)
        time.sleep(chance.uniform(0, 0.4))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = program.lines()
        assert now[: len(kept)] == kept
        kept = now
        assert waiting(lambda: not program.worker_ids())
    done = program.run(*program.arguments(*ONE_RUNTIME))
    assert done.returncode == 0, done.stderr
    lines = program.lines()
    assert lines[: len(kept)] == kept
    records = [json.loads(line) for line in lines]
    assert len({r["id"] for r in records}) == len(records)
    hot = Counter(r["case_key"] for r in records if r["kind"] == "latency" and r["case"]["cache_state"] == "hot")
    wanted = EFFORTS["quick"].rounds * EFFORTS["quick"].loads
    assert list(hot.values()) == [wanted, wanted]  # none too few, none too many
    assert {r["status"] for r in json.loads(done.stdout)["measurements"]} == {"ok"}
    sessions = {r["session_id"] for r in records}
    assert len(sessions) > 2


def interrupted(program, process) -> str:
    """Sends what Ctrl-C sends, to the program alone as it is the job's leader; returns its last words."""
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("edgeprof: interrupted; ")
    return last


def test_ctrl_c_while_measuring_keeps_the_records(program, waiting) -> None:
    process = program.start(*program.arguments(*ONE_RUNTIME))
    assert waiting(lambda: sum('"kind":"latency"' in line for line in program.lines()) >= 3, process)
    before = program.lines()
    assert "the same command continues from there" in interrupted(program, process)
    assert program.lines()[: len(before)] == before
    assert waiting(lambda: not program.worker_ids())
    done = program.run(*program.arguments(*ONE_RUNTIME))
    assert done.returncode == 0, done.stderr


def test_ctrl_c_while_building_ends_the_builds_and_begins_no_other(program, waiting) -> None:
    shutil.rmtree(program.home / "cache")
    process = program.start(*program.arguments("--json"))
    assert waiting(lambda: bool(program.worker_ids()), process)
    interrupted(program, process)
    assert waiting(lambda: not program.worker_ids())
    artifacts = program.home / "cache" / "artifacts"
    assert len([p for p in artifacts.glob("[!.]*")]) < 6  # of 8


def test_ctrl_c_while_checking_ends_the_checks(program, waiting) -> None:
    process = program.start(*program.arguments("--json"))
    assert waiting(lambda: bool(program.worker_ids()), process)
    interrupted(program, process)
    assert waiting(lambda: not program.worker_ids())
    assert sum('"kind":"probe"' in line for line in program.lines()) < 8
