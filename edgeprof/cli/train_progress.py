"""Training on stderr: one line with loss, tokens/s, MFU and ETA; without a terminal a plain line now and then."""

import os
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edgeprof.cli.progress import LINE_EVERY_S, ProgressReporter

if TYPE_CHECKING:
    from edgeprof.train.metrics import Row
    from edgeprof.train.settings import Settings

REDRAW_EVERY_S = 0.2
"""Seconds between two drawings of the line: a step must not wait for the terminal."""

SMOOTH = 0.9
"""How much of the shown loss and speed is that of earlier steps."""


class TrainingProgress(ProgressReporter):
    """Stages of preparing data as bars, then training as one line. Only the first process of a run says anything."""

    def __enter__(self) -> Self:
        self.silent = os.environ.get("RANK", "0") != "0"
        self.tokens_per_s = self.loss = 0.0
        self.held_out = ""
        self.drawn = 0.0
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def stage(self, name: str, total: int) -> None:
        """A stage of preparing data begins."""
        if not self.silent:
            super().stage(name, total)

    def step(self, label: str) -> None:
        """One step of it is done."""
        if not self.silent:
            super().step(label)

    def say(self, text: str) -> None:
        """Something that was found or chosen."""
        self.progress.console.print(text, markup=False, soft_wrap=True)

    def begin(self, *, step: int, settings: "Settings", mfu_of_rate: float | None) -> None:
        """Training goes on after ``step``."""
        self.settings, self.mfu_of_rate = settings, mfu_of_rate
        self.said = time.monotonic()
        going_on = f", going on after step {step:,}" if step else ""
        self.say(
            f"{settings.steps:,} steps of {settings.step_tokens:,} tokens, {settings.optimiser}, "
            f"lr {settings.lr:g}, {settings.schedule}{going_on}"
        )
        self.task = self.progress.add_task("train", total=settings.steps, completed=step, stage="train", cell="")

    def row(self, row: "Row") -> None:
        """A step or an evaluation is done."""
        from edgeprof.train.metrics import HeldOutRow

        if isinstance(row, HeldOutRow):
            self.held_out = f", held-out {row.held_out_loss:.3f}"
            return
        self.tokens_per_s = _smoothed(self.tokens_per_s, row.tokens_per_s)
        self.loss = _smoothed(self.loss, self.loss if row.loss is None else row.loss)
        now = time.monotonic()
        last = row.step == self.settings.steps
        if self.live and (last or now - self.drawn > REDRAW_EVERY_S):
            self.drawn = now
            self.progress.update(self.task, completed=row.step, cell=self._line())
        elif not self.live and (last or now - self.said > LINE_EVERY_S):
            self.said = now
            left = (self.settings.steps - row.step) * self.settings.step_tokens / self.tokens_per_s
            self.say(f"step {row.step:,}/{self.settings.steps:,}: {self._line()}, ETA {_time(left)}")

    def _line(self) -> str:
        mfu = "" if self.mfu_of_rate is None else f", MFU {self.tokens_per_s * self.mfu_of_rate:.0%}"
        return f"loss {self.loss:.3f}{self.held_out}, {self.tokens_per_s:,.0f} tokens/s{mfu}"


def _smoothed(before: float, now: float) -> float:
    return SMOOTH * before + (1 - SMOOTH) * now if before else now


def _time(seconds: float) -> str:
    from edgeprof.train.amounts import format_time

    return format_time(seconds)
