"""What has become of a run so far, from its folder alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgeprof.train.checkpoint import Checkpoints
from edgeprof.train.run_folder import CHECKPOINTS, MODEL, Run

LAST_STEPS = 10
"""Steps whose losses are averaged as the run's: a single one depends on its batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """``loss`` is the mean of the last ten steps' in nats a token, ``held_out_loss`` of the last evaluation.

    ``tokens_per_s`` is the median step's, evaluations and checkpoints left out. ``checkpoint`` and ``model`` are None before
    there is one.
    """

    run: Run
    steps: int
    tokens: int
    loss: float | None
    held_out_loss: float | None
    bits_per_byte: float | None
    tokens_per_s: float | None
    skipped: int
    checkpoint: Path | None
    model: Path | None

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self.steps == self.run.settings.steps


def summarise(run: Run, rows: Sequence[dict[str, Any]]) -> Summary:
    """The summary of a run with these rows of metrics."""
    steps = [row for row in rows if "grad_norm" in row]
    evaluations = [row for row in rows if "held_out_loss" in row]
    losses = [row["loss"] for row in steps if row["loss"] is not None][-LAST_STEPS:]
    found = Checkpoints(run.folder / CHECKPOINTS, keep=1)
    checkpoints = found.steps()
    model = run.folder / MODEL
    last = evaluations[-1] if evaluations else {}
    return Summary(
        run=run,
        steps=steps[-1]["step"] if steps else 0,
        tokens=steps[-1]["tokens"] if steps else 0,
        loss=sum(losses) / len(losses) if losses else None,
        held_out_loss=last.get("held_out_loss"),
        bits_per_byte=last.get("bits_per_byte"),
        tokens_per_s=median(row["tokens_per_s"] for row in steps) if steps else None,
        skipped=sum(row["skipped"] for row in steps),
        checkpoint=found.path(checkpoints[-1]) if checkpoints else None,
        model=model if model.is_dir() else None,
    )
