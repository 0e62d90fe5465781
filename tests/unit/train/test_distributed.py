"""Two processes of gloo: they share the batch, or the weights too, and go on from each other's checkpoints."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprof.train.run_folder import CHECKPOINTS

pytestmark = pytest.mark.slow

RUNS = [("ddp", "adamw", 1e-5), ("fsdp", "adamw", 1e-5), ("fsdp", "muon", 1e-3)]
"""How they share, the optimiser, and how far losses may be apart: Muon orthogonalises in bf16, which lifts a sum's last bit."""

PROCESS = """
import json, os, sys
import torch
from pathlib import Path
from edgeprof.models.config import load_config
from edgeprof.train.session import DataChoice, Order, train

class Silent:
    def __getattr__(self, name):
        return lambda *args, **kwargs: None

torch.set_num_threads(1)
config, data, given, jobs = load_config(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
for out, settings, port in jobs:
    os.environ["MASTER_PORT"] = str(port)
    train(Order(config=config, out=Path(out), given=given | settings, data=DataChoice(sources=(data,)), device="cpu"), Silent())
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def module_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def cut(source: Path, out: Path) -> None:
    """A run that was killed after its checkpoint at step 8."""
    shutil.copytree(source, out)
    shutil.rmtree(out / CHECKPOINTS / "step-00000010")


@pytest.fixture(scope="module")
def two(module_path, config, data, given, train_alone) -> Path:
    """The folder of runs: by one process, by two, and by two that went on where one stopped."""
    from edgeprof.models.config import to_toml

    for optimiser in ("adamw", "muon"):
        train_alone(module_path / f"one-{optimiser}", optimiser=optimiser)
    jobs = [(module_path / f"{parallel}-{optimiser}", parallel, optimiser) for parallel, optimiser, _ in RUNS]
    for parallel in ("ddp", "fsdp"):
        cut(module_path / "one-adamw", module_path / f"resumed-{parallel}")
        jobs.append((module_path / f"resumed-{parallel}", parallel, "adamw"))
    (module_path / "config.toml").write_text(to_toml(config))
    ports = free_ports(len(jobs))
    told = [
        (str(out), {"parallel": parallel, "optimiser": optimiser}, port)
        for (out, parallel, optimiser), port in zip(jobs, ports, strict=True)
    ]
    arguments = [str(module_path / "config.toml"), str(data), json.dumps(given), json.dumps(told)]
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning:edgeprof", "-c", PROCESS, *arguments],
            env=environment | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return module_path


@pytest.mark.parametrize(("parallel", "optimiser", "apart"), RUNS)
def test_two_processes_learn_what_one_learns(two, losses, parallel, optimiser, apart) -> None:
    assert losses(two / f"{parallel}-{optimiser}") == pytest.approx(losses(two / f"one-{optimiser}"), abs=apart)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_go_on_from_the_checkpoint_of_one(two, losses, parallel) -> None:
    found, wanted = losses(two / f"resumed-{parallel}"), losses(two / "one-adamw")
    assert found[:8] == wanted[:8]
    assert found[8:] == pytest.approx(wanted[8:], abs=1e-5)


def test_one_process_goes_on_from_the_shards_of_two(two, losses, train_alone) -> None:
    out = two / "back"
    cut(two / "fsdp-adamw", out)
    shards = sorted(p.name for p in (out / CHECKPOINTS / "step-00000008").glob("shard-*"))
    assert len(shards) == 4  # weights and moments of each process
    train_alone(out, optimiser="adamw")
    assert losses(out)[8:] == pytest.approx(losses(two / "one-adamw")[8:], abs=1e-5)


def test_the_model_of_two_processes_is_whole(two, config) -> None:
    from edgeprof.models.weights import load_weights

    one, shared = (load_weights(two / name / "model", config) for name in ("one-adamw", "fsdp-adamw"))
    for name, values in one.items():
        assert shared[name] == pytest.approx(values, abs=2e-3)
