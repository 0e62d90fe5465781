"""What twins are trained on: synthetic tasks with fresh data for every step, and windows of a text.

A batch is a pair of integer arrays (batch, tokens): inputs, and the targets of each position, ``IGNORED`` where there is none. It
depends on the generator only, never on the model: all candidates see the same data in the same order.

Source: tasks after MAD, arXiv 2403.17844, section 3.1; sizes are the project's own.
"""

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Batch = tuple[Ids, Ids]

IGNORED = -100
"""Target of a position that nothing is learnt from; torch's own default."""


def recall(rng: np.random.Generator, *, batch: int, tokens: int, n_keys: int) -> Batch:
    """In-context recall: ``key value key value ...`` with a fresh value for each key in every sequence.

    Keys are 0 to ``n_keys`` - 1, values the ``n_keys`` ids after them, each drawn uniformly. The target at a key is its value,
    once it has been seen before in the sequence.
    """
    pairs = tokens // 2
    value_of = rng.integers(n_keys, 2 * n_keys, size=(batch, n_keys))
    keys = rng.integers(0, n_keys, size=(batch, pairs))
    values = np.take_along_axis(value_of, keys, 1)
    inputs = np.stack([keys, values], -1).reshape(batch, 2 * pairs)
    targets = np.full_like(inputs, IGNORED)
    targets[:, ::2] = np.where(_seen_before(keys), values, IGNORED)
    return inputs, targets


def _seen_before(keys: Ids) -> NDArray[np.bool_]:
    """Whether each element occurs earlier in its row."""
    same = keys[:, :, None] == keys[:, None, :]
    return np.asarray(np.tril(same, -1).any(-1))


def selective_copying(rng: np.random.Generator, *, batch: int, tokens: int, n_copied: int, n_symbols: int) -> Batch:
    """Selective copying: symbols among blanks, then as many blanks to repeat them in, in order.

    Symbols are 0 to ``n_symbols`` - 1, the blank is ``n_symbols``, the mark that asks for the copy ``n_symbols`` + 1.
    """
    places = np.sort(rng.random((batch, tokens - n_copied - 1)).argsort(1)[:, :n_copied], 1)
    symbols = rng.integers(0, n_symbols, size=(batch, n_copied))
    inputs = np.full((batch, tokens), n_symbols)
    np.put_along_axis(inputs, places, symbols, 1)
    inputs[:, -n_copied - 1] = n_symbols + 1
    targets = np.full_like(inputs, IGNORED)
    targets[:, -n_copied - 1 : -1] = symbols
    return inputs, targets


def text_windows(rng: np.random.Generator, stream: Ids, *, batch: int, tokens: int) -> Batch:
    """Windows of a text from random places; the target is the next token."""
    begins = rng.integers(0, len(stream) - tokens, size=batch)
    windows = np.stack([stream[begin : begin + tokens + 1] for begin in begins])
    return windows[:, :-1], windows[:, 1:]
