"""Batches for training and evaluation. Where training stands in the data is one number, which a checkpoint stores."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edgeprof.core.errors import UsageError
from edgeprof.train.data.dataset import TokenSplit
from edgeprof.train.data.permutation import Permutation

IGNORED = -100
"""Target of a position that is not scored. Source: ``ignore_index`` of torch's cross_entropy."""

STATE_VERSION = 1


class Batch(NamedTuple):
    """Rows of tokens, all int64, shape (batch, seq_len).

    ``targets`` are the next tokens. The end of a document is predicted, the first token of the next one is not. Documents
    are numbered from 0 in each row, in order.
    """

    ids: Tensor
    targets: Tensor
    documents: Tensor


class Batches:
    """Endless batches of a split in a shuffled order that ``seed`` determines, every epoch in another.

    The split is cut into samples of ``seq_len`` tokens (and the one after, as the last target); fewer than ``seq_len`` tokens at
    its end are left out. The order of samples depends on nothing but the data, ``seq_len`` and ``seed``: ``batch`` rows of it
    make a batch of all processes together, of which process ``rank`` of ``world_size`` gets every ``world_size``-th row. So a
    run may go on with another number of processes, or another batch size, at the very next sample.
    """

    def __init__(
        self, split: TokenSplit, *, batch: int, seq_len: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """Begins at the first sample.

        Raises:
            UsageError: the data are shorter than one sample, or processes cannot share the batch evenly.
        """
        assert 0 <= rank < world_size
        if batch < 1 or batch % world_size:
            raise UsageError(f"batch: {batch} rows cannot be shared by {world_size} processes; use a multiple of it")
        self.n_samples = (split.tokens - 1) // seq_len
        if self.n_samples < 1:
            raise UsageError(
                f"data: {split.tokens:,} tokens are too few for one sequence of {seq_len:,} and its last target; use a "
                "shorter sequence or more data"
            )
        self.split, self.batch, self.seq_len, self.seed = split, batch, seq_len, seed
        self.rank, self.world_size = rank, world_size
        self.position = 0
        """Samples that all processes together have been given, over all epochs."""
        self._order = lru_cache(maxsize=2)(lambda epoch: Permutation(self.n_samples, seed=seed, epoch=epoch))

    @property
    def epoch(self) -> float:
        """How often the data have been seen."""
        return self.position / self.n_samples

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """This process's rows of the next batch, shape (batch / world_size, seq_len)."""
        rows = make_batch(
            self.split, self.samples(self.position, self.batch)[self.rank :: self.world_size], self.seq_len
        )
        self.position += self.batch
        return rows

    def samples(self, position: int, count: int) -> list[int]:
        """Numbers of the samples at ``position`` and after it in the order of all epochs."""
        positions = np.arange(position, position + count, dtype=np.int64)
        epochs, within = positions // self.n_samples, positions % self.n_samples
        found = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs):
            found[epochs == epoch] = self._order(int(epoch))(within[epochs == epoch])
        return [int(sample) for sample in found]

    def state(self) -> dict[str, Any]:
        """Where the data stand, as JSON takes it: what ``restore`` needs to go on with the next sample."""
        return {"version": STATE_VERSION, "position": self.position} | self._identity()

    def _identity(self) -> dict[str, Any]:
        """What the order of samples depends on."""
        split = self.split
        return {"data": split.fingerprint, "split": split.name, "seq_len": self.seq_len, "seed": self.seed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a ``state()`` of the same data, sequence length and seed.

        Raises:
            UsageError: one of these differs, or it is no such state.
        """
        if state.get("version") != STATE_VERSION or type(state.get("position")) is not int or state["position"] < 0:
            raise UsageError("checkpoint: its position in the data cannot be read; go on from another checkpoint")
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise UsageError(
                    f"checkpoint: {name}: was {state.get(name)!s:.40} and is {own} now, so samples would be missed or seen "
                    "twice; use what was used before, or begin anew"
                )
        self.position = state["position"]


def make_batch(split: TokenSplit, samples: list[int], seq_len: int, *, filler: int = 0) -> Batch:
    """The rows of these samples. What the split does not fill of a row is ``filler``, a document of its own, not scored."""
    shape = (len(samples), seq_len)
    ids, targets = np.full(shape, filler, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
    documents = np.zeros(shape, dtype=np.int64)
    for row, sample in enumerate(samples):
        start = sample * seq_len
        stop = min(start + seq_len + 1, split.tokens)
        n = stop - start - 1
        tokens, of_document = split.read(start, stop), split.documents_between(start, stop)
        ids[row, :n] = tokens[:-1]
        targets[row, :n] = np.where(of_document[:-1] == of_document[1:], tokens[1:], IGNORED)
        documents[row] = of_document[-1] + 1
        documents[row, :n] = of_document[:-1]
    return Batch(torch.from_numpy(ids), torch.from_numpy(targets), torch.from_numpy(documents))


def in_order(split: TokenSplit, *, batch: int, seq_len: int) -> Iterator[Batch]:
    """All of a split once, in its order, for evaluation: each token is a target once, but for the first of a document.

    The last row is filled up, and the last batch may have fewer rows.
    """
    n_samples = -(-(split.tokens - 1) // seq_len)
    for first in range(0, n_samples, batch):
        yield make_batch(split, list(range(first, min(first + batch, n_samples))), seq_len)
