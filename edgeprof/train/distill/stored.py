"""A teacher's distributions from disk: memory-mapped, found by what a row of tokens holds, whoever asks for it and when."""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from edgeprof.core.errors import UsageError
from edgeprof.train.data.index import file_sha256
from edgeprof.train.data.loader import Batch
from edgeprof.train.distill.divergence import TopK
from edgeprof.train.distill.stored_index import KEY_DTYPE, KEYS_FILE, StoredIndex, read_stored_index, stored_shard

Records = npt.NDArray[Any]
Row = npt.NDArray[np.int64]


class StoredTopK:
    """What ``edgeprof distill prepare`` stored, in place of the teacher."""

    def __init__(self, folder: Path, index: StoredIndex) -> None:
        self.folder, self.index = folder, index
        self._keys: Records = np.memmap(folder / KEYS_FILE, dtype=KEY_DTYPE, mode="r")
        self._shard = cache(self._open_shard)

    def _open_shard(self, number: int) -> Records:
        shape = (len(self.index.samples_of(number)), self.index.seq_len)
        return np.memmap(self.folder / stored_shard(number), dtype=self.index.record, mode="r", shape=shape)

    def top_k(self, batch: Batch) -> TopK:
        """The distributions of all tokens of a batch, row after row, on its device.

        Raises:
            UsageError: a row is none of the data that the teacher read.
        """
        rows = zip(batch.ids.cpu().numpy(), batch.documents.cpu().numpy(), strict=True)
        records = np.concatenate([self._records(row_key(ids, documents)) for ids, documents in rows])
        device = batch.ids.device
        return TopK(
            values=torch.from_numpy(records["values"].copy()).to(device),
            indices=torch.from_numpy(records["indices"].astype(np.int64)).to(device),
            log_rest=torch.from_numpy(records["log_rest"].copy()).to(device),
        )

    def _records(self, key: int) -> Records:
        keys = self._keys["key"]
        at = int(np.searchsorted(keys, np.uint64(key)))
        if at == len(keys) or int(keys[at]) != key:
            raise UsageError(
                f"{self.folder}: the teacher has not read a row of {self.index.seq_len:,} tokens that training asks for: it is "
                "of other data, or of another --seq-len; run edgeprof distill prepare for these"
            )
        shard, within = divmod(int(self._keys["sample"][at]), self.index.shard_samples)
        return np.asarray(self._shard(shard)[within])


def row_key(ids: Row, documents: Row) -> int:
    """64 bits that stand for a row: its tokens, and where its documents part.

    Two different rows of a billion share one with probability 0.03, and ``prepare`` refuses such data.
    """
    digest = hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=8)
    digest.update(documents.astype("<i8").tobytes())
    return int.from_bytes(digest.digest(), "little")


def open_stored(folder: Path, *, checksums: bool = True) -> StoredTopK:
    """Opens what ``edgeprof distill prepare`` has finished; without ``checksums`` only the sizes of files are looked at.

    Raises:
        UsageError: it is unfinished, or a file is missing or corrupt.
    """
    index = read_stored_index(folder)
    if index.keys_sha256 is None:
        raise UsageError(
            f"{folder}: {len(index.shards):,} of {index.n_shards:,} shards are done; run its edgeprof distill prepare again, "
            "which goes on from there"
        )
    if damage := next(damages(folder, index, checksums=checksums), None):
        raise UsageError(f"{damage.text}; run its edgeprof distill prepare again: it makes that anew")
    return StoredTopK(folder, index)


class Damage(NamedTuple):
    """A file that is not as the index says: the shard's number, or the number of shards for the keys."""

    shard: int
    text: str


def damages(folder: Path, index: StoredIndex, *, checksums: bool) -> Iterator[Damage]:
    """What is wrong with the files that an index lists, by size and with ``checksums`` byte by byte, in their order."""
    token_bytes = index.seq_len * index.record.itemsize
    files = [(stored_shard(n), len(index.samples_of(n)) * token_bytes, sha) for n, sha in enumerate(index.shards)]
    if index.keys_sha256 is not None:
        files.append((KEYS_FILE, index.samples * KEY_DTYPE.itemsize, index.keys_sha256))
    for number, (name, size, sha256) in enumerate(files):
        path = folder / name
        try:
            if path.stat().st_size != size:
                yield Damage(number, f"{path}: has {path.stat().st_size:,} bytes in place of {size:,}")
            elif checksums and file_sha256(path) != sha256:
                yield Damage(number, f"{path}: its checksum is not the index's: the file is corrupt")
        except OSError as error:
            yield Damage(number, f"{path}: cannot be read ({error.strerror})")
