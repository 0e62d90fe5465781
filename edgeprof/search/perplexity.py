"""Quality as the held-out loss of a twin that is trained on the user's own text."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig
from edgeprof.search.objective import Direction, Report, Score, Stage, find_stage
from edgeprof.search.tasks import Batch, Ids, text_windows
from edgeprof.search.text import VOCAB, Corpus, read_corpus
from edgeprof.search.twin import TwinReference, TwinSize
from edgeprof.search.twin_training import SEGMENTS, Recipe, TwinTraining, batch_loss

RECIPE = Recipe(
    size=TwinSize(d_model=48, vocab=VOCAB, tokens=128),
    batch=4,
    steps=600,
    learning_rate=6e-3,
    decay=0.3,
    embedding_sd=0.15,
)
"""The proxy's text part, twice as long, and with a longer decay: what counts here is where a training ends."""

STAGES = (Stage(name="standard"), Stage(name="quick", length=0.25), Stage(name="final", length=2.0, seeds=2))

HELD_OUT_BATCHES, HELD_OUT_BATCH = 8, 16
"""Held-out windows: 128, the same for every candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityObjective:
    """Mean held-out loss in nats a token after a short training; the exponential of it is the twin's perplexity."""

    name: str
    corpus: Corpus
    reference: TwinReference
    direction: Direction = "minimize"

    @property
    def final_stage(self) -> Stage:
        """Twice as long, two seeds."""
        return STAGES[-1]

    def stage(self, name: str) -> Stage:
        """The stage called ``name``.

        Raises:
            UsageError: there is none.
        """
        return find_stage("perplexity", name, STAGES)

    def score(self, config: ArchConfig, *, seed: int, budget: Stage, report: Report) -> Score:
        """Trains and scores. The standard error is the seeds'; of a single seed it is unknown."""
        begin = time.perf_counter()
        losses = []
        for offset in range(budget.seeds):
            training = self._training(config, seed + offset, budget.length)
            for segment, loss in enumerate(training.segments()):
                report(offset * SEGMENTS + segment, loss)
            losses.append(self._held_out_loss(training))
        value = statistics.fmean(losses)
        se = statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else None
        tokens_per_byte = len(self.corpus.held_out) / self.corpus.held_out_bytes
        parts = {"perplexity": math.exp(value), "bits_per_byte": value / math.log(2) * tokens_per_byte}
        return Score(value=value, se=se, seconds=time.perf_counter() - begin, parts=parts)

    def _training(self, config: ArchConfig, seed: int, length: float) -> TwinTraining:
        recipe = replace(RECIPE, steps=round(RECIPE.steps * length))
        windows = _windows(self.corpus.train, recipe.batch, recipe.size.tokens)
        return TwinTraining(config, recipe, windows, reference=self.reference, name="text", seed=seed)

    def _held_out_loss(self, training: TwinTraining) -> float:
        import torch

        windows = _windows(self.corpus.held_out, HELD_OUT_BATCH, RECIPE.size.tokens)
        rng = np.random.default_rng(0)
        with torch.no_grad():
            losses = [batch_loss(training.model, windows(rng)).item() for _ in range(HELD_OUT_BATCHES)]
        return statistics.fmean(losses)


def _windows(stream: Ids, batch: int, tokens: int) -> Callable[[np.random.Generator], Batch]:
    return lambda rng: text_windows(rng, stream, batch=batch, tokens=tokens)


def load_perplexity(path: str, reference: TwinReference) -> PerplexityObjective:
    """The objective of a text file or a folder of them.

    Raises:
        UsageError: none is named, or it cannot be read.
    """
    if not path:
        raise UsageError("objective perplexity: names no text; write perplexity:FILE, or a folder of text files")
    corpus = read_corpus(Path(path))
    return PerplexityObjective(name=f"perplexity {corpus.key}: {reference}", corpus=corpus, reference=reference)
