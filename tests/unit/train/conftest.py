"""A small data set, a small model, and runs of a few steps."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.train.data.prepare import Order as DataOrder
from edgeprof.train.data.prepare import prepare
from edgeprof.train.metrics import read_metrics
from edgeprof.train.session import DataChoice, Order, train
from edgeprof.train.summary import Summary

DIMS = {"kernel_size": 3, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "window": 8, "d_ff": 48}
CONFIG = config_of_pattern("CSG", DIMS, name="small", d_model=32, vocab=300, max_context=64)

WORDS = [
    "the",
    "model",
    "reads",
    "a",
    "token",
    "and",
    "writes",
    "what",
    "may",
    "follow",
    "it",
    "while",
    "layers",
    "mix",
    "norms",
    "scale",
    "gates",
    "open",
]
GIVEN = {
    "tokens": 1280,
    "seq_len": 32,
    "batch": 4,
    "lr": 0.01,
    "precision": "fp32",
    "save_every": 4,
    "evaluate_every": 5,
}
"""Ten steps."""


@dataclass
class Heard:
    """An observer that remembers."""

    rows: list[Any] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    on_row: Callable[[Any], None] = lambda row: None

    def stage(self, name: str, total: int) -> None: ...
    def step(self, label: str) -> None: ...

    def begin(self, **facts: Any) -> None:
        self.began = facts

    def row(self, row: Any) -> None:
        self.rows.append(row)
        self.on_row(row)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def config() -> ArchConfig:
    return CONFIG


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text as JSON lines, a document each."""
    chance = random.Random(3)
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    lines = [json.dumps({"text": " ".join(chance.choices(WORDS, k=chance.randint(3, 40)))}) for _ in range(300)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, prepared for the small model."""
    folder = tmp_path_factory.mktemp("data") / "set"
    prepare(DataOrder(sources=[str(corpus)], out=folder, vocab=CONFIG.vocab, held_out=0.1), Heard())
    return folder


Train = Callable[..., Summary]


def train_small(out: Path, data: Path, heard: Heard, order: dict[str, Any], given: dict[str, Any]) -> Summary:
    fields: dict[str, Any] = {"config": CONFIG, "data": DataChoice(sources=(str(data),)), "device": "cpu"}
    wanted = {name: value for name, value in (GIVEN | given).items() if value is not None}
    return train(Order(**(fields | {"out": out, "given": wanted} | order)), heard)


@pytest.fixture
def run(data: Path, heard: Heard) -> Train:
    """Trains the small model into a folder for ten steps; settings by name, and fields of the order."""
    return lambda out, *, order=None, **given: train_small(out, data, heard, order or {}, given)


@pytest.fixture(scope="session")
def train_alone(data: Path) -> Train:
    """The same for fixtures that last longer than a test."""
    return lambda out, **given: train_small(out, data, Heard(), {}, given)


@pytest.fixture(scope="session")
def given() -> dict[str, Any]:
    return GIVEN


@pytest.fixture(scope="session")
def losses() -> Callable[[Path], list[float]]:
    """The loss of every step of a run."""
    return lambda out: [row["loss"] for row in read_metrics(out / "metrics.jsonl") if "grad_norm" in row]


@pytest.fixture(scope="session")
def weights() -> Callable[[Path], dict[str, torch.Tensor]]:
    """The weights and moments of a run's last checkpoint."""
    from safetensors.torch import load_file

    def load(out: Path) -> dict[str, torch.Tensor]:
        folder = sorted((out / "checkpoints").glob("step-*"))[-1]
        files = [p for p in folder.glob("*.safetensors") if not p.name.startswith("rng")]
        return {name: tensor for path in files for name, tensor in load_file(path).items()}

    return load
