"""One training step: micro-batches forward and backward, the gradient's norm, the update, or none where it is not finite."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgeprof.train.data.loader import IGNORED, Batch
from edgeprof.train.distributed import Processes, sharing_gradients
from edgeprof.train.memory import told_as_usage
from edgeprof.train.optimiser import Optimiser
from edgeprof.train.precision import FASTER, best_seconds, computing
from edgeprof.train.settings import Precision, Running, Settings

MICRO_TOKENS = {"cpu": 4096, "cuda": 65_536}
"""Tokens that a process takes at once, where a sequence is not longer and nothing else was asked for."""


def micro_batch_of(settings: Settings, running: Running, device: torch.device, *, world_size: int) -> int:
    """Sequences that a process takes at once."""
    chosen = running.micro_batch or MICRO_TOKENS[device.type] // settings.seq_len
    return max(1, min(settings.batch // world_size, chosen))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """``loss`` is the mean cross-entropy of the scored tokens, in nats; ``skipped`` says that no weight was changed."""

    loss: float
    grad_norm: float
    skipped: bool


@dataclass(slots=True, kw_only=True)
class Stepper:
    """The network as it is called, its optimiser, and how a batch is taken in parts of ``micro_batch`` sequences."""

    called: nn.Module
    optimiser: Optimiser
    processes: Processes
    settings: Settings
    micro_batch: int
    precision: Precision = "fp32"
    _parameters: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self._parameters = list(self.called.parameters())

    def step(self, batch: Batch, lr_share: float) -> StepResult:
        """Trains on this process's rows of a batch; gradients are of the mean over all scored tokens of all processes.

        Raises:
            UsageError: the memory is not enough.
        """
        with told_as_usage():
            cross_entropy, count = self.gradients(batch)
            norm = nn.utils.clip_grad_norm_(self._parameters, self.settings.clip)
        shared = self.processes.sum(cross_entropy)
        loss = float(shared) / count
        grad_norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        skipped = not (math.isfinite(loss) and math.isfinite(grad_norm))
        if skipped:
            self.optimiser.zero_grad()
        else:
            self.optimiser.step(lr_share)
        return StepResult(loss=loss, grad_norm=grad_norm, skipped=skipped)

    def gradients(self, batch: Batch) -> tuple[Tensor, float]:
        """Forward and backward over all parts: this process's summed cross-entropy, and the count of all scored tokens."""
        count = float(self.processes.sum((batch.targets != IGNORED).sum().double().to(self.processes.device)))
        count = max(count, 1.0)
        total = torch.zeros((), device=self.processes.device)
        parts = list(zip(*(torch.split(x, self.micro_batch) for x in batch), strict=True))
        for index, part in enumerate(parts):
            with sharing_gradients(self.called, share=index + 1 == len(parts)):
                with computing(self.precision, self.processes.device):
                    sums = self.called(*(x.to(self.processes.device, non_blocking=True) for x in part))
                # processes' gradients are averaged, and these are to be summed
                (sums.total * (self.processes.world_size / count)).backward()
            total += sums.cross_entropy
        return total, count

    def choose_precision(self, batch: Batch, asked: Precision, say: Callable[[str], None]) -> None:
        """Takes the format asked for; ``auto`` times a few micro-batches in both, and nothing is learnt from them."""
        if asked != "auto":
            self.precision = asked
            return
        part = Batch(*(x[: self.micro_batch] for x in batch))

        def gradients(precision: Precision) -> None:
            self.precision = precision
            self.gradients(part)
            self.optimiser.zero_grad()

        with told_as_usage():
            fp32, bf16 = best_seconds([lambda: gradients("fp32"), lambda: gradients("bf16")], self.processes.device)
        self.precision = "bf16" if self.processes.from_first(fp32 / bf16) > FASTER else "fp32"
        tokens = part.ids.numel()
        say(
            f"{self.precision}: measured {tokens / fp32:,.0f} tokens/s in fp32 and {tokens / bf16:,.0f} in bf16 autocast, "
            "without the optimiser"
        )
