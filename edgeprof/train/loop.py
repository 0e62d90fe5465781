"""The training loop: steps, rows of metrics, evaluations and checkpoints, until the budget is spent or someone interrupts."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgeprof.core.errors import UsageError
from edgeprof.train.checkpoint import Checkpoints, Progress, Tensors
from edgeprof.train.data.loader import Batches
from edgeprof.train.data.prepare import Reporter
from edgeprof.train.held_out import HeldOut
from edgeprof.train.interrupt import Interrupt
from edgeprof.train.metrics import HeldOutRow, MetricsFile, Row, StepRow
from edgeprof.train.network import Network
from edgeprof.train.schedule import lr_share
from edgeprof.train.settings import Settings
from edgeprof.train.step import Stepper, StepResult

log = logging.getLogger(__name__)


class Observer(Reporter, Protocol):
    """Hears how training goes, and how data is prepared; only the first process's does."""

    def begin(self, *, step: int, settings: Settings, mfu_of_rate: float | None) -> None:
        """Steps after ``step`` begin. ``mfu_of_rate`` times tokens/s is the share of the measured roof."""

    def row(self, row: Row) -> None:
        """A step or an evaluation is done."""

    def say(self, text: str) -> None:
        """Something that was found or chosen."""


@dataclass(slots=True, kw_only=True)
class Loop:
    """A run under way. ``evaluate`` is the held-out loss as things stand; None where nothing is held out."""

    settings: Settings
    network: Network
    stepper: Stepper
    batches: Batches
    checkpoints: Checkpoints
    evaluate: Callable[[], HeldOut] | None
    save_every: int
    evaluate_every: int
    observer: Observer
    mfu_of_rate: float | None = None
    metrics: MetricsFile | None = None
    step: int = 0
    updates: int = 0
    skipped_in_a_row: int = 0
    loss: float | None = None
    saved: Path | None = None
    _began: float = field(default=0.0, init=False)

    def resume(self, folder: Path) -> None:
        """Goes on from a checkpoint.

        Raises:
            UsageError: it is of another model or other data.
        """
        progress = self.checkpoints.load(folder, self.tensors(), self.stepper.processes)
        self.stepper.optimiser.set_updates(progress.updates)
        self.batches.restore(progress.data)
        self.step, self.updates, self.loss = progress.step, progress.updates, progress.loss
        self.skipped_in_a_row = progress.skipped_in_a_row
        self.saved = folder

    def tensors(self) -> Tensors:
        """What a checkpoint holds."""
        return Tensors(weights=dict(self.network.weights()), moments=self.stepper.optimiser.moments())

    def run(self, interrupt: Interrupt) -> None:
        """All steps that are left; a checkpoint stands at the end.

        Raises:
            KeyboardInterrupt: it was interrupted; a checkpoint has been saved, and the message says how to go on.
            UsageError: too many steps in a row were not finite, the memory is gone, or the disk is full.
        """
        if self.stepper.processes.is_first:
            self.observer.begin(step=self.step, settings=self.settings, mfu_of_rate=self.mfu_of_rate)
        while self.step < self.settings.steps:
            self._one_step()
            last = self.step == self.settings.steps
            if self.evaluate is not None and (last or self.step % self.evaluate_every == 0):
                self._evaluate(self.evaluate)
            stop = self.stepper.processes.any(interrupt.asked)
            if last or stop or self.step % self.save_every == 0:
                self._save()
            if stop and not last:
                raise KeyboardInterrupt(
                    f"step {self.step:,} of {self.settings.steps:,} is saved; the same command goes on from there"
                )

    def _one_step(self) -> None:
        began = time.perf_counter()
        share = lr_share(self.settings, self.step)
        result = self.stepper.step(next(self.batches), share)
        self.step += 1
        self.updates += not result.skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if result.skipped else 0
        if not result.skipped:
            self.loss = result.loss
        self._report(result, self.settings.lr * share, time.perf_counter() - began)
        if self.skipped_in_a_row >= self.settings.max_skipped:
            last_good = "none was saved" if self.saved is None else f"{self.saved} is the last checkpoint"
            raise UsageError(
                f"loss: not finite in {self.skipped_in_a_row} steps in a row, up to step {self.step}: training diverged; "
                f"begin a new run with a lower --lr than {self.settings.lr:g} ({last_good})"
            )

    def _report(self, result: StepResult, lr: float, seconds: float) -> None:
        row = StepRow(
            step=self.step,
            tokens=self.step * self.settings.step_tokens,
            loss=None if result.skipped else result.loss,
            lr=lr,
            grad_norm=None if result.skipped else result.grad_norm,
            tokens_per_s=self.settings.step_tokens / seconds,
            skipped=result.skipped,
        )
        self._tell(row)
        if result.skipped and self.stepper.processes.is_first:
            log.warning("step %d: loss %s, gradient %s: skipped", self.step, result.loss, result.grad_norm)

    def _evaluate(self, evaluate: Callable[[], HeldOut]) -> None:
        found = evaluate()
        self._tell(HeldOutRow(step=self.step, held_out_loss=found.loss, bits_per_byte=found.bits_per_byte))

    def _tell(self, row: Row) -> None:
        if self.metrics is not None:
            self.metrics.append(row)
            self.observer.row(row)

    def _save(self) -> None:
        progress = Progress(
            step=self.step,
            updates=self.updates,
            skipped_in_a_row=self.skipped_in_a_row,
            loss=self.loss,
            data=self.batches.state(),
        )
        self.saved = self.checkpoints.save(progress, self.tensors(), self.stepper.processes)
