"""Writes one split's tokens into shards, and takes up where a journal says that it was left."""

import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from edgeprof.train.data.index import (
    ENDS_DTYPE,
    Counts,
    ShardEntry,
    SplitEntry,
    SplitName,
    ends_file,
    file_sha256,
    shard_documents,
    shard_file,
)


class LostDataError(Exception):
    """A file holds less than the journal says."""


class SplitWriter:
    """Appends documents to a split: tokens to shards of ``shard_tokens`` each, where documents end to a file of ends.

    A document goes on in the next shard where one is full.
    """

    def __init__(self, folder: Path, name: SplitName, dtype: np.dtype[Any], shard_tokens: int, counts: Counts) -> None:
        """Cuts the files back to what ``counts`` says that they hold.

        Raises:
            LostDataError: they hold less.
        """
        self.folder, self.name, self.dtype, self.shard_tokens = folder, name, dtype, shard_tokens
        self.tokens, self.documents, self.text_bytes = counts.tokens, counts.documents, counts.text_bytes
        self.unknown_tokens, self.replacement_characters = counts.unknown_tokens, counts.replacement_characters
        self._cut_back()
        self._shard: FileIO | None = None
        self._ends = _append_to(folder / ends_file(name))

    def _cut_back(self) -> None:
        full, rest = divmod(self.tokens, self.shard_tokens)
        whole, itemsize = self.shard_tokens * self.dtype.itemsize, self.dtype.itemsize
        kept = {self.folder / shard_file(self.name, n): whole for n in range(full)}
        if rest:
            kept[self.folder / shard_file(self.name, full)] = rest * itemsize
        for path in self.folder.glob(f"{self.name}-*.bin"):
            if path not in kept:
                path.unlink()
        kept[self.folder / ends_file(self.name)] = self.documents * ENDS_DTYPE.itemsize
        for path, size in kept.items():
            if (path.stat().st_size if path.exists() else 0) < size:
                raise LostDataError(path.name)
            if path.exists():
                os.truncate(path, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._shard, self._ends):
            if file is not None:
                file.close()

    def add(self, ids: npt.NDArray[np.int64], *, ends: bool) -> None:
        """Appends tokens of a document; with ``ends`` it is whole."""
        while len(ids):
            if self._shard is None:
                self._shard = _append_to(self.folder / shard_file(self.name, self.tokens // self.shard_tokens))
            room = self.shard_tokens - self.tokens % self.shard_tokens
            part, ids = ids[:room], ids[room:]
            _write(self._shard, part.astype(self.dtype).tobytes())
            self.tokens += len(part)
            if self.tokens % self.shard_tokens == 0:
                os.fsync(self._shard.fileno())
                self._shard.close()
                self._shard = None
        if ends:
            self.documents += 1
            _write(self._ends, np.array(self.tokens, dtype=ENDS_DTYPE).tobytes())

    def count(self, text: str, unknown_tokens: int) -> None:
        """Counts the text that tokens were made of."""
        self.text_bytes += len(text.encode())
        self.unknown_tokens += unknown_tokens
        self.replacement_characters += text.count("\ufffd")

    def counts(self) -> Counts:
        """What has been appended, once it is on the disk."""
        for file in (self._shard, self._ends):
            if file is not None:
                os.fsync(file.fileno())
        return Counts(
            tokens=self.tokens,
            documents=self.documents,
            text_bytes=self.text_bytes,
            unknown_tokens=self.unknown_tokens,
            replacement_characters=self.replacement_characters,
        )

    def entry(self) -> SplitEntry:
        """The split as the index describes it; checksums are of what the files hold now."""
        counts = self.counts()
        path = self.folder / ends_file(self.name)
        ends: npt.NDArray[np.int64] = (
            np.memmap(path, dtype=ENDS_DTYPE, mode="r") if self.documents else np.empty(0, dtype=np.int64)
        )
        n_shards = -(-self.tokens // self.shard_tokens)
        shards = [
            ShardEntry(
                tokens=min(self.shard_tokens, self.tokens - number * self.shard_tokens),
                documents=documents,
                sha256=file_sha256(self.folder / shard_file(self.name, number)),
            )
            for number, documents in enumerate(shard_documents(ends, self.shard_tokens, n_shards))
        ]
        return SplitEntry(**counts.model_dump(), ends_sha256=file_sha256(path), shards=shards)


def _append_to(path: Path) -> FileIO:
    """A file without a buffer of its own, which a full disk would leave with bytes that nobody can write."""
    return path.open("ab", buffering=0)


def _write(file: FileIO, content: bytes) -> None:
    while content:
        content = content[file.write(content) :]
