"""A short training of a twin, told in segments: what the proxy and the user's text are scored with."""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeprof.models.config import ArchConfig
from edgeprof.models.initialise import initialise
from edgeprof.models.model import model_of
from edgeprof.search.tasks import Batch
from edgeprof.search.twin import TwinReference, TwinSize, shrink

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from edgeprof.models.module import Model

SEGMENTS = 10
"""Equal parts that a training is told in, on the same grid for every candidate."""

WARM_UP_STEPS = 30
"""Steps of linear warm-up, or a fifth of a shorter training."""

BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.98), 0.01, 1.0

MakeBatch = Callable[[np.random.Generator], Batch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A twin's size and how it is trained; the same for all candidates.

    ``decay`` is the share of steps over which the learning rate falls linearly to zero at the end, ``embedding_sd`` the spread
    of the embedding's start. Settings come from a sweep on 16 layouts of 8 slots (docs/search.md).
    """

    size: TwinSize
    batch: int
    steps: int
    learning_rate: float
    decay: float
    embedding_sd: float


class TwinTraining:
    """The twin of a layout in training; ``segments`` runs it.

    Deterministic for a seed where torch runs on one thread. Data depend on the seed and ``name`` only, and weights start
    alike wherever layouts share them, so that candidates with one seed are paired.
    """

    def __init__(
        self,
        config: ArchConfig,
        recipe: Recipe,
        make_batch: MakeBatch,
        *,
        reference: TwinReference,
        name: str,
        seed: int,
    ) -> None:
        from edgeprof.models.module import Model

        self.recipe = recipe
        self._make_batch = make_batch
        self._rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        self.model: Model = Model(model_of(shrink(config, recipe.size, reference), all_logits=True))
        initialise(self.model, seed)
        table = self.model.embedding.table.data
        table.mul_(recipe.embedding_sd / table.std())

    def segments(self) -> Iterator[float]:
        """Trains; yields the mean training loss in nats of each segment.

        A training that diverges has learnt nothing: from there on its loss is that of a uniform guess.
        """
        optimiser = _optimiser(self.model)
        uniform = math.log(self.recipe.size.vocab)
        diverged = False
        for segment in np.array_split(np.arange(self.recipe.steps), SEGMENTS):
            losses = [uniform if diverged else self._step(optimiser, int(step)) for step in segment]
            diverged = diverged or not all(map(math.isfinite, losses))
            yield uniform if diverged else float(np.mean(losses))

    def _step(self, optimiser: "Optimizer", step: int) -> float:
        import torch

        for group in optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, step)
        loss = batch_loss(self.model, self._make_batch(self._rng))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP, foreach=True)
        optimiser.step()
        return loss.item()


def _optimiser(model: "Model") -> "Optimizer":
    import torch

    return torch.optim.AdamW(model.parameters(), betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step: linear up, constant, linear down to zero."""
    up = (step + 1) / min(WARM_UP_STEPS, max(1, recipe.steps // 5))
    down = (recipe.steps - step) / (recipe.steps * recipe.decay)
    return recipe.learning_rate * min(1.0, up, down)


def batch_loss(model: "Model", batch: Batch) -> "Tensor":
    """Mean cross-entropy over the targets of a batch, in nats."""
    import torch
    from torch.nn import functional as F

    from edgeprof.operators.module import Packed
    from edgeprof.search.tasks import IGNORED

    inputs, targets = (torch.from_numpy(np.ascontiguousarray(ids)) for ids in batch)
    return F.cross_entropy(model(inputs, Packed(), 0).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
