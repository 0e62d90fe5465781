"""What is left of the store when processes are killed or compete."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edgeprof
from edgeprof.core.canonical import canonical_json
from edgeprof.store import Store

WRITER = """
import dataclasses, sys
from pathlib import Path
from edgeprof.store import Store
from edgeprof.store.schema import parse_line
root, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
template = parse_line(sys.stdin.readline())
for n in range(count):
    record = dataclasses.replace(template, id=f"{name}-{n}")
    Store(root).append(record)
    print(record.id, flush=True)
"""


def start_writer(root, name, count, template):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root), name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(edgeprof.__file__).parents[1])},
    )
    process.stdin.write(canonical_json(template) + "\n")
    process.stdin.close()
    return process


@pytest.mark.slow
def test_kill_9_loses_at_most_the_record_in_flight(tmp_path, make_record):
    store, randomness, acknowledged = Store(tmp_path), random.Random(9), []
    template = make_record(samples_ns=[10**9] * 5000)
    for kill in range(15):
        with start_writer(tmp_path, f"kill{kill}", 10**6, template) as process:
            acknowledged.append(process.stdout.readline().strip())
            time.sleep(randomness.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            acknowledged += process.stdout.read().split()
        store.append(make_record(id=f"after{kill}"))
        acknowledged.append(f"after{kill}")
    stored = [r.id for r in store.records("host")]
    assert len(set(stored)) == len(stored)
    assert [i for i in stored if i in set(acknowledged)] == acknowledged
    assert len(stored) - len(acknowledged) <= 15  # whole on the disk, killed before it could say so


@pytest.mark.slow
def test_two_writers_lose_nothing(tmp_path, make_record):
    writers = [start_writer(tmp_path, name, 40, make_record()) for name in ("a", "b")]
    for writer in writers:
        with writer:
            writer.stdout.read()
        assert writer.returncode == 0
    stored = [r.id for r in Store(tmp_path).records("host")]
    assert sorted(stored) == sorted(f"{name}-{n}" for name in ("a", "b") for n in range(40))
    assert [i for i in stored if i.startswith("a")] == [f"a-{n}" for n in range(40)]
