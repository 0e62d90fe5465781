"""A training step measured on this machine with random tokens, before any is trained."""

from dataclasses import dataclass

import torch

from edgeprof.models.config import ArchConfig
from edgeprof.train.data.loader import Batch
from edgeprof.train.distributed import Processes
from edgeprof.train.loss import CrossEntropy
from edgeprof.train.memory import peak_bytes, told_as_usage
from edgeprof.train.network import make_network
from edgeprof.train.optimiser import make_optimiser
from edgeprof.train.precision import best_seconds
from edgeprof.train.settings import Precision, Running, Settings
from edgeprof.train.step import Stepper, micro_batch_of


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """Seconds of forward and backward over one micro-batch and of one update, and the memory that they took at most.

    ``peak_bytes`` is of the whole process: on a CPU resident memory, the program itself included; on a GPU what was allocated.
    """

    precision: Precision
    micro_batch: int
    gradient_s: float
    update_s: float
    peak_bytes: int
    choice: str

    def seconds(self, settings: Settings) -> float:
        """Seconds of a whole step."""
        return self.gradient_s * settings.batch / self.micro_batch + self.update_s


def measure_step(config: ArchConfig, settings: Settings, running: Running, device: torch.device) -> MeasuredStep:
    """Times a few micro-batches in each precision, then two updates.

    Raises:
        UsageError: the memory is not enough.
    """
    with told_as_usage():
        network = make_network(
            config,
            CrossEntropy(settings.z_loss),
            seed=settings.seed,
            mask_documents=settings.mask_documents,
            checkpoint_activations=running.checkpoint_activations,
        ).to(device)
        stepper = Stepper(
            called=network,
            optimiser=make_optimiser(settings, network.model.spec, network.weights()),
            processes=Processes(rank=0, world_size=1, device=device),
            settings=settings,
            micro_batch=micro_batch_of(settings, running, device, world_size=1),
        )
        batch = random_batch(config.vocab, stepper.micro_batch, settings.seq_len)
        said: list[str] = []
        stepper.choose_precision(batch, settings.precision, said.append)
        (gradient_s,) = best_seconds([lambda: stepper.gradients(batch)], device)

        def update() -> None:
            for parameter in network.parameters():
                parameter.grad = torch.zeros_like(parameter)
            stepper.optimiser.step(1.0)

        (update_s,) = best_seconds([update], device, tries=2)
    return MeasuredStep(
        precision=stepper.precision,
        micro_batch=stepper.micro_batch,
        gradient_s=gradient_s,
        update_s=update_s,
        peak_bytes=peak_bytes(device),
        choice=said[0] if said else f"{stepper.precision}, as asked for",
    )


def random_batch(vocab: int, rows: int, seq_len: int) -> Batch:
    """Rows of random tokens, each one document."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab, (rows, seq_len + 1), generator=generator)
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), torch.zeros(rows, seq_len, dtype=torch.int64))
