"""Workers that share a study in a database: trials a minute of one and of four, and what 20 kills of workers cost.

The storage is any that Optuna opens, and better an empty one; of a PostgreSQL of one's own:

    initdb -D /tmp/pg -E UTF8 && pg_ctl -D /tmp/pg -o "-p 5444 -k /tmp" -w start
    python benchmarks/workers.py --storage postgresql://$USER@localhost:5444/postgres [--objective workers:waits]

Two objectives: ``workers:waits`` takes a second and no processor, as a training elsewhere would, and so shows what sharing costs;
``proxy`` trains the twin of each layout here, and is bound by the processors that there are.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from optuna.storages import RDBStorage

from edgeprof.models.config import ArchConfig
from edgeprof.search.study import load_study

LIMITS = ("--max-params", "330k", "--max-state", "1MB@1024")


def waits(config: ArchConfig) -> float:
    """A quality that takes a second."""
    time.sleep(1.0)
    return sum(layer.mixer.name != "short_conv" for layer in config.layers) / 10


class Study:
    """A study of the tiny space in the storage, and the processes that do its trials."""

    def __init__(self, options: argparse.Namespace, home: Path, name: str) -> None:
        self.options, self.home, self.name = options, home, f"{name}-{int(time.time())}"
        self.storage = RDBStorage(options.storage)
        stage = ("--stage", "quick") if options.objective == "proxy" else ()
        how = ("--objective", options.objective, *stage, "--no-measure", "--finalists", "1")
        arguments = ["--space", "tiny", *LIMITS, *how, "--sampler", options.sampler, "--trials", "1"]
        process = self.start("search", "--study", self.name, *arguments, "--out", str(home / "winner.toml"))
        assert process.wait() == 0, "the study was not made"

    def start(self, *args: str) -> "subprocess.Popen[bytes]":
        """Runs the program on the storage, in a process group of its own."""
        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        own = {"PYTHONPATH": paths, "EDGEPROF_RESULTS": str(self.home), "EDGEPROF_STORAGE": self.options.storage}
        command = [sys.executable, "-m", "edgeprof", *args]
        return subprocess.Popen(command, env={**os.environ, **own}, stdout=subprocess.DEVNULL, start_new_session=True)

    def worker(self, n_trials: int) -> "subprocess.Popen[bytes]":
        """Starts a worker that goes on until the study has so many trials."""
        return self.start("search", "worker", "--study", self.name, "--trials", str(n_trials))

    def trials(self, state: str) -> list:
        """The study's trials in a state, as the storage has them now."""
        found = load_study(self.storage, self.name).get_trials(deepcopy=False)
        return [trial for trial in found if trial.state.name == state]


def rate(options: argparse.Namespace, home: Path, n_workers: int) -> float:
    """Trials a minute, from the second that all workers have begun to the last trial's end."""
    study = Study(options, home, f"rate-{n_workers}")
    workers = [study.worker(options.trials) for _ in range(n_workers)]
    assert [worker.wait() for worker in workers] == [0] * n_workers
    done = sorted(study.trials("COMPLETE"), key=lambda trial: trial.datetime_start)[1:]
    first_of = {trial.user_attrs["worker"]: trial.datetime_start for trial in reversed(done)}
    begin = max(first_of.values())
    counted = [trial for trial in done if trial.datetime_start >= begin]
    seconds = (max(trial.datetime_complete for trial in counted) - begin).total_seconds()
    took = [(trial.datetime_complete - trial.datetime_start).total_seconds() for trial in counted]
    found = 60 * len(counted) / seconds
    print(
        f"{n_workers} workers: {found:.1f} trials a minute over {len(counted)} trials of {statistics.median(took):.2f} s"
    )
    return found


def kill(options: argparse.Namespace, home: Path) -> None:
    """Kills workers at random moments, each followed by a new one, until the study has its trials."""
    study = Study(options, home, "kills")
    rng, n_trials = random.Random(0), 4 * options.kills
    workers = [study.worker(n_trials) for _ in range(4)]
    in_flight = 0
    for _ in range(options.kills):
        time.sleep(rng.uniform(*options.every))
        victim = workers.pop(rng.randrange(len(workers)))
        if victim.poll() is not None:
            sys.exit("a worker had ended before all kills: raise --trials or shorten --every")
        os.kill(victim.pid, signal.SIGSTOP)  # so that what it is at is known before it is gone
        in_flight += any(f":{victim.pid}:" in t.user_attrs.get("worker", "") for t in study.trials("RUNNING"))
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
        workers.append(study.worker(n_trials))
    codes = [worker.wait() for worker in workers]
    lost = [trial for trial in study.trials("FAIL") if trial.params]
    print(
        f"{options.kills} kills, {in_flight} of them in the middle of a trial: {len(study.trials('COMPLETE'))} of {n_trials} "
        f"trials done, {len(study.trials('RUNNING'))} left running, {len(lost)} lost; the workers ended with {codes}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", required=True, metavar="URL")
    parser.add_argument("--objective", default="workers:waits")
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--trials", type=int, default=60, help="of each rate")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--every", type=float, nargs=2, default=(2.0, 6.0), help="seconds between kills, from and to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        one, four = (rate(options, Path(home), n) for n in (1, 4))
        print(f"4 workers do {four / one:.2f} times as many")
        if options.kills:
            kill(options, Path(home))


if __name__ == "__main__":
    main()
