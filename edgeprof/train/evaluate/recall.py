"""In-context recall: pairs of tokens that stand together nowhere else, and the first of one of them again.

The tokens are drawn from the model's own vocabulary, so that it needs to know no text: what is asked is whether it looks back.

Source: the task after MAD, arXiv 2403.17844, section 3.1; numbers of pairs are the project's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from edgeprof.core.errors import UsageError
from edgeprof.train.data.prepare import Reporter
from edgeprof.train.evaluate.doom_loop import wilson
from edgeprof.train.evaluate.language_model import LanguageModel

Ids = npt.NDArray[np.int64]

PAIRS = (8, 32)
BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallRow:
    """Share of ``n`` sequences of ``pairs`` in which the likeliest next token is the right one, with its Wilson interval.

    ``chance`` is what guessing among the tokens that were shown as second ones gets.
    """

    pairs: int
    n: int
    accuracy: float
    ci95: tuple[float, float]
    chance: float


def recall(
    model: LanguageModel,
    *,
    pairs: tuple[int, ...] = PAIRS,
    n: int = 64,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Iterator[RecallRow]:
    """A row for each number of pairs that the model's context and vocabulary have room for.

    Raises:
        UsageError: ``n`` is no number of sequences.
    """
    if n < 1:
        raise UsageError(f"n: {n} is no number of sequences; use 1 or more")
    ids = model.text.ordinary_ids()
    for count in pairs:
        fits = model.max_context is None or 2 * count + 1 <= model.max_context
        if fits and 2 * count <= len(ids):
            yield _row(model, np.array(ids), count, n, np.random.default_rng([seed, count]))
        if reporter is not None:
            reporter.step(f"{count} pairs" if fits else f"{count} pairs: the context is too short")


def _row(model: LanguageModel, ids: Ids, pairs: int, n: int, rng: np.random.Generator) -> RecallRow:
    right = 0
    for first in range(0, n, BATCH):
        rows = min(BATCH, n - first)
        drawn = np.stack([rng.choice(ids, 2 * pairs, replace=False) for _ in range(rows)])
        asked = rng.integers(0, pairs, rows)
        prompts = np.concatenate([drawn, np.take_along_axis(drawn, 2 * asked[:, None], 1)], 1)
        answers = np.take_along_axis(drawn, 2 * asked[:, None] + 1, 1)[:, 0]
        logits, _ = model.decoding(torch.from_numpy(prompts).to(model.device), prompts.shape[1])
        right += int((logits.argmax(-1).cpu().numpy() == answers).sum())
    return RecallRow(pairs=pairs, n=n, accuracy=right / n, ci95=wilson(right, n), chance=1 / pairs)
