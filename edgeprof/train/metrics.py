"""What a run reports of each step: a line of JSON in ``metrics.jsonl``, written as it happens."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edgeprof.core.canonical import plain
from edgeprof.train.data.disk import replace_file, writing_to


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One step: ``step`` counts from 1, ``tokens`` are those seen by then, ``loss`` is in nats a token.

    ``loss`` and ``grad_norm`` are None where they were not finite, and the step was ``skipped``.
    """

    step: int
    tokens: int
    loss: float | None
    lr: float
    grad_norm: float | None
    tokens_per_s: float
    skipped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutRow:
    """An evaluation after a step."""

    step: int
    held_out_loss: float
    bits_per_byte: float


Row = StepRow | HeldOutRow


class MetricsFile:
    """Appends rows. What the file holds beyond a checkpoint is cut off when the run goes on from there."""

    def __init__(self, path: Path, *, after_step: int) -> None:
        """Keeps the rows up to a step.

        Raises:
            UsageError: the file system refuses.
        """
        self.path = path
        kept = [line for line, row in _lines(path) if row["step"] <= after_step]
        with writing_to(path.parent):
            replace_file(path, b"".join(kept))
            self._file: BinaryIO = path.open("ab", buffering=0)

    def append(self, row: Row) -> None:
        """Writes a row at once."""
        with writing_to(self.path.parent):
            self._file.write(json.dumps(plain(row), allow_nan=False).encode() + b"\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Whole lines that hold a row; a kill may have left half of one at the end."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and type(row.get("step")) is int and line.endswith(b"\n"):
                yield line, row


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a run in order; evaluations have ``held_out_loss``, steps have ``loss``."""
    return [row for _, row in _lines(path)]
