"""The trainings that the proxy is made of: their recipes, and the constants that make their losses comparable."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgeprof.search.tasks import Batch, recall, selective_copying, text_windows
from edgeprof.search.text import VOCAB, built_in_corpus
from edgeprof.search.twin import TwinSize
from edgeprof.search.twin_training import Recipe

MakeBatch = Callable[[np.random.Generator], Batch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One training. ``centre`` and ``scale`` are mean and standard deviation of its mean training loss over layouts, in nats.

    ``seed_sd`` is the standard deviation of one layout's loss over seeds, in nats.
    """

    kind: str
    name: str
    recipe: Recipe
    make_batch: MakeBatch
    centre: float
    scale: float
    seed_sd: float

    def worth(self, loss: float) -> float:
        """What a loss adds to a score; less loss is better."""
        return (self.centre - loss) / self.scale

    @property
    def worth_sd(self) -> float:
        """The spread of ``worth`` over seeds."""
        return self.seed_sd / self.scale


def _text(recipe: Recipe) -> MakeBatch:
    def make_batch(rng: np.random.Generator) -> Batch:
        return text_windows(rng, built_in_corpus().train, batch=recipe.batch, tokens=recipe.size.tokens)

    return make_batch


def _recall(recipe: Recipe) -> MakeBatch:
    return partial(recall, batch=recipe.batch, tokens=recipe.size.tokens, n_keys=recipe.size.vocab // 2)


def _copying(recipe: Recipe) -> MakeBatch:
    tokens = recipe.size.tokens
    return partial(
        selective_copying, batch=recipe.batch, tokens=tokens, n_copied=tokens // 8, n_symbols=recipe.size.vocab - 2
    )


KINDS: dict[str, Callable[[Recipe], MakeBatch]] = {"text": _text, "recall": _recall, "copying": _copying}

RECIPES = {
    "text_64": Recipe(
        size=TwinSize(d_model=32, vocab=VOCAB, tokens=64),
        batch=4, steps=100, learning_rate=8e-3, decay=0.07, embedding_sd=0.15,
    ),
    "recall_32": Recipe(
        size=TwinSize(d_model=32, vocab=8, tokens=32),
        batch=32, steps=80, learning_rate=8e-3, decay=0.1, embedding_sd=0.05,
    ),
    "copying_64": Recipe(
        size=TwinSize(d_model=32, vocab=10, tokens=64),
        batch=16, steps=80, learning_rate=6e-3, decay=0.01, embedding_sd=0.05,
    ),
}  # fmt: skip
"""By name, which begins with the kind. Longer sequences and trainings agree less with the truth of benchmarks/proxy_truth.py, and
take more time: docs/search.md."""

CONSTANTS: dict[str, tuple[float, float, float]] = {
    "text_64": (5.2720, 0.0383, 0.0198),
    "recall_32": (0.6802, 0.2698, 0.0935),
    "copying_64": (2.0156, 0.0890, 0.0536),
}
"""Centre, scale and spread over seeds, in nats. Layouts far from those measured get scores far from 0; their order does
not depend on the centres.

Source: the rows of benchmarks/proxy_truth.jsonl, 16 random layouts of 8 slots, seeds 0 to 11, Python 3.11's text; for copying
benchmarks/proxy.py on its layouts. Those hold extremes, such as convolutions alone, beside which all usual layouts' texts look
alike: with their scale a text counted a third of what it should.
"""


def _part(name: str, recipe: Recipe) -> Part:
    kind = name.partition("_")[0]
    centre, scale, seed_sd = CONSTANTS[name]
    return Part(
        kind=kind, name=name, recipe=recipe, make_batch=KINDS[kind](recipe), centre=centre, scale=scale, seed_sd=seed_sd
    )


PARTS = tuple(_part(name, recipe) for name, recipe in RECIPES.items())
"""A part of each kind."""
