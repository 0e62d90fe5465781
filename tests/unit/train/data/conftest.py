"""Small data sets of made-up text."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprof.train.data.dataset import DataSet, open_data
from edgeprof.train.data.prepare import Order, prepare

WORDS = [
    "the",
    "short",
    "convolution",
    "keeps",
    "a",
    "few",
    "inputs",
    "and",
    "attention",
    "them",
    "all",
    "—",
    "äöü",
    "語",
]
VOCAB = 300


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Documents of 1 to 40 words, all of them different."""
    chance = random.Random(seed)
    return [f"{n} " + " ".join(chance.choices(WORDS, k=chance.randint(1, 40))) for n in range(count)]


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.steps = 0

    def stage(self, name: str, total: int) -> None:
        self.stages.append((name, total))

    def step(self, label: str) -> None:
        self.steps += 1


@pytest.fixture
def silent() -> Silent:
    return Silent()


@pytest.fixture
def texts() -> list[str]:
    return make_texts(60)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes texts as a JSONL file."""

    def write(texts: list[str], name: str = "data.jsonl", field: str = "text") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")
        return path

    return write


@pytest.fixture
def order(tmp_path: Path, jsonl: Callable[..., Path], texts: list[str]) -> Callable[..., Order]:
    """An order for the test's texts; keywords replace its fields."""

    def make(**changes: Any) -> Order:
        fields: dict[str, Any] = {"out": tmp_path / "out", "vocab": VOCAB, "shard_tokens": 500, "held_out": 0.1}
        if "sources" not in changes:
            fields["sources"] = [str(jsonl(texts))]
        return Order(**(fields | changes))

    return make


@pytest.fixture
def dataset(order: Callable[..., Order]) -> Callable[..., DataSet]:
    """Makes and opens a data set."""

    def make(**changes: Any) -> DataSet:
        wanted = order(**changes)
        prepare(wanted, Silent())
        return open_data(wanted.out)

    return make
