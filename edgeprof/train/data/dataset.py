"""A data set opened for reading: tokens and documents of its splits, memory-mapped, whatever their size."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeprof.core.errors import UsageError
from edgeprof.models.gguf_tokenizer import TOKENIZER_FILE
from edgeprof.train.data.index import (
    ENDS_DTYPE,
    DataIndex,
    SplitEntry,
    SplitName,
    ends_file,
    problems,
    read_index,
    shard_file,
)
from edgeprof.train.data.tokenizer import COMPANIONS

if TYPE_CHECKING:
    from edgeprof.models.config import ArchConfig

Tokens = npt.NDArray[np.int64]


class TokenSplit:
    """The tokens of a split as one long sequence, documents one after another."""

    def __init__(self, folder: Path, name: SplitName, index: DataIndex, entry: SplitEntry) -> None:
        self.name, self.fingerprint, self.n_ids = name, index.fingerprint, index.tokenizer.n_ids
        self.tokens, self.documents = entry.tokens, entry.documents
        self._folder, self._dtype, self._shard_tokens = folder, index.dtype, index.shard_tokens
        self._shard = cache(self._open_shard)
        self.ends: Tokens = np.memmap(folder / ends_file(name), dtype=ENDS_DTYPE, mode="r")
        """Where each document ends: the position after its last token."""

    def _open_shard(self, number: int) -> npt.NDArray[Any]:
        return np.memmap(self._folder / shard_file(self.name, number), dtype=self._dtype, mode="r")

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens ``start`` to ``stop``, shape (stop - start).

        Raises:
            UsageError: one is no id of the tokenizer: the shard was damaged after its checksum was looked at.
        """
        assert 0 <= start <= stop <= self.tokens
        tokens = np.empty(stop - start, dtype=np.int64)
        at = start
        while at < stop:
            number, offset = divmod(at, self._shard_tokens)
            part = self._shard(number)[offset : offset + stop - at]
            tokens[at - start : at - start + len(part)] = part
            at += len(part)
        if len(tokens) and tokens.max() >= self.n_ids:
            raise UsageError(
                f"{self._folder / shard_file(self.name, start // self._shard_tokens)}: token {tokens.max()} is none of the "
                f"tokenizer's {self.n_ids:,}: the shard is corrupt; run its edgeprof data prepare again"
            )
        return tokens

    def documents_between(self, start: int, stop: int) -> Tokens:
        """The number of each token's document, from 0 for that of the first token, shape (stop - start)."""
        first, last = np.searchsorted(self.ends, [start, stop - 1], side="right")
        begins = np.zeros(stop - start, dtype=np.int64)
        begins[np.asarray(self.ends[first:last]) - start] = 1  # no document is empty: each has its end token
        return np.cumsum(begins)


class DataSet:
    """A folder that ``prepare`` has finished."""

    def __init__(self, folder: Path, index: DataIndex) -> None:
        self.folder, self.index = folder, index

    @property
    def tokenizer_files(self) -> list[Path]:
        """The tokenizer's files, to be copied beside a model that is trained on these data."""
        return [path for name in (TOKENIZER_FILE, *COMPANIONS) if (path := self.folder / name).is_file()]

    def split(self, name: SplitName) -> TokenSplit:
        """A split's tokens.

        Raises:
            UsageError: nothing was held out.
        """
        for known, entry in self.index.splits():
            if known == name:
                return TokenSplit(self.folder, name, self.index, entry)
        raise UsageError(
            f"{self.folder}: nothing is held out for evaluation; prepare the data again with --held-out 1%"
        )

    def check_fits(self, config: "ArchConfig") -> None:
        """Checks that a model of this configuration can be trained on the data.

        Raises:
            UsageError: its vocabulary is smaller than the tokenizer's, or another token ends its documents.
        """
        ids, eos = self.index.tokenizer.n_ids, self.index.tokenizer.eos_token
        fix = f"prepare the data with --config {config.name}, or use a configuration"
        if ids > config.vocab:
            raise UsageError(
                f"{self.folder}: the data have a vocabulary of {ids:,}, {config.name} has {config.vocab:,}; {fix} with "
                f"vocab = {ids}"
            )
        if config.eos_token is not None and config.eos_token != eos:
            raise UsageError(
                f"{self.folder}: documents end with token {eos}, eos_token of {config.name} is {config.eos_token}; {fix} "
                f"with eos_token = {eos}"
            )


def open_data(folder: Path, *, checksums: bool = True) -> DataSet:
    """Opens a finished data set; without ``checksums`` only the sizes of its files are looked at.

    Checksums read all of the data once, at the speed of the disk.

    Raises:
        UsageError: it is none, it is unfinished, or a file is missing or corrupt.
    """
    index = read_index(folder)
    if damage := next(problems(folder, index, checksums=checksums), None):
        raise UsageError(f"{damage}; run its edgeprof data prepare again: it makes the data anew")
    return DataSet(folder, index)
