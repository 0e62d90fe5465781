"""Lets a teacher read a data set once, and stores what it expects; killed at any moment, the same call goes on."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from edgeprof.core.errors import UsageError
from edgeprof.train.data.dataset import DataSet
from edgeprof.train.data.disk import LOCK_FILE, locked, replace_file, sync_folder, writing_to
from edgeprof.train.data.loader import Batch, make_batch
from edgeprof.train.data.prepare import Reporter
from edgeprof.train.distill.divergence import TOP_K
from edgeprof.train.distill.stored import damages, row_key
from edgeprof.train.distill.stored_index import (
    KEY_DTYPE,
    KEYS_FILE,
    SHARD_TOKENS,
    STORED_FILE,
    StoredIndex,
    read_stored_index,
    stored_shard,
)
from edgeprof.train.distill.teacher import Teacher, check_same_tokenizer, load_teacher, teacher_fingerprint
from edgeprof.train.evaluate.causal_lm import Dtype

log = logging.getLogger(__name__)

BATCH_TOKENS = 2**12
"""Tokens that the teacher is given at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to store: the ``k`` likeliest tokens after every token of the training split, cut into rows of ``seq_len``."""

    teacher: Path
    data: DataSet
    out: Path
    seq_len: int
    k: int = TOP_K
    dtype: Dtype = "fp32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    shard_tokens: int = SHARD_TOKENS


def prepare(order: Order, reporter: Reporter) -> StoredIndex:
    """Stores the distributions, goes on storing, or finds them stored already.

    Raises:
        UsageError: the teacher cannot be used, the folder holds something else, or the disk is full.
    """
    check_same_tokenizer(order.teacher, order.data)
    with locked(order.out, "edgeprof distill prepare"), writing_to(order.out):
        index = _begun(order, _wanted(order))
        if len(index.shards) < index.n_shards:
            index = _read_all(order, index, reporter)
        if index.keys_sha256 is None:
            index = _write_keys(order, index, reporter)
    return index


def _wanted(order: Order) -> StoredIndex:
    """The index of what is asked for, with nothing done."""
    split = order.data.split("train")
    if order.seq_len < 2 or split.tokens <= order.seq_len:
        raise UsageError(f"--seq-len: {order.seq_len}: use 2 or more, and less than the data's {split.tokens:,} tokens")
    n_ids = order.data.index.tokenizer.n_ids
    if not 1 <= order.k <= n_ids:
        raise UsageError(f"--k: {order.k} tokens cannot be kept of {n_ids:,}; use 1 to {n_ids}")
    return StoredIndex(
        teacher=str(order.teacher),
        teacher_fingerprint=teacher_fingerprint(order.teacher),
        dtype=order.dtype,
        data_fingerprint=order.data.index.fingerprint,
        seq_len=order.seq_len,
        k=order.k,
        n_ids=n_ids,
        samples=(split.tokens - 1) // order.seq_len,
        shard_samples=max(1, order.shard_tokens // order.seq_len),
    )


def _begun(order: Order, wanted: StoredIndex) -> StoredIndex:
    """What the folder holds of it: shards up to the first that is damaged.

    Raises:
        UsageError: the folder holds something else.
    """
    folder = order.out
    if not (folder / STORED_FILE).is_file():
        others = sorted(
            p.name for p in folder.iterdir() if p.name != LOCK_FILE and not p.name.startswith(f".{STORED_FILE}")
        )
        if others:
            raise UsageError(f"--out: {folder} holds other files ({others[0]:.60}); choose a new or an empty folder")
        _commit(folder, wanted)
        return wanted
    index = read_stored_index(folder)
    stored = index.identity()
    for name, value in wanted.identity().items():
        if stored[name] != value:
            raise UsageError(
                f"--out: {folder} holds another teacher's distributions, or of other data ({name}: was {stored[name]}, now "
                f"{value}); choose another folder"
            )
    if damage := next(damages(folder, index, checksums=True), None):
        log.warning("%s; it is made again", damage.text)
        index = index.model_copy(update={"shards": index.shards[: damage.shard], "keys_sha256": None})
        _commit(folder, index)
    return index


def _commit(folder: Path, index: StoredIndex) -> None:
    replace_file(folder / STORED_FILE, (index.model_dump_json(indent=2) + "\n").encode())


def _read_all(order: Order, index: StoredIndex, reporter: Reporter) -> StoredIndex:
    """Has the teacher read the shards that are missing; each is committed as soon as it is on the disk."""
    teacher = load_teacher(order.teacher, order.data, device=order.device, dtype=order.dtype, k=order.k)
    left = range(len(index.shards), index.n_shards)
    tokens = sum(len(index.samples_of(shard)) for shard in left) * index.seq_len
    reporter.stage("read", -(-tokens // BATCH_TOKENS))
    read = 0
    for shard in left:
        content = bytearray()
        for batch in _batches(order, index.samples_of(shard)):
            content += _records(teacher, batch, order.device, index)
            before, read = read, read + batch.ids.numel()
            for _ in range(before // BATCH_TOKENS, read // BATCH_TOKENS):
                reporter.step(f"{read:,} tokens")
        replace_file(order.out / stored_shard(shard), bytes(content))
        sha256 = hashlib.sha256(content).hexdigest()
        index = index.model_copy(update={"shards": [*index.shards, sha256]})
        _commit(order.out, index)
    if tokens % BATCH_TOKENS:
        reporter.step(f"{read:,} tokens")
    return index


def _batches(order: Order, samples: range) -> Iterator[Batch]:
    rows = max(1, BATCH_TOKENS // order.seq_len)
    split = order.data.split("train")
    for first in range(samples.start, samples.stop, rows):
        yield make_batch(split, list(range(first, min(first + rows, samples.stop))), order.seq_len)


def _records(teacher: Teacher, batch: Batch, device: torch.device, index: StoredIndex) -> bytes:
    found = teacher.top_k(Batch(*(x.to(device) for x in batch)))
    records = np.empty(batch.ids.numel(), dtype=index.record)
    for name, values in found._asdict().items():
        records[name] = values.cpu().numpy()
    return records.tobytes()


def _write_keys(order: Order, index: StoredIndex, reporter: Reporter) -> StoredIndex:
    """Writes by what each row is found, which finishes the folder.

    Raises:
        UsageError: two different rows share a key.
    """
    reporter.stage("index", 1)
    keys = np.empty(index.samples, dtype=KEY_DTYPE)
    sample = 0
    for batch in _batches(order, range(index.samples)):
        for ids, documents in zip(batch.ids.numpy(), batch.documents.numpy(), strict=True):
            keys[sample] = row_key(ids, documents), sample
            sample += 1
    keys.sort(order=["key", "sample"])
    _check_unique(order, keys)
    replace_file(order.out / KEYS_FILE, keys.tobytes())
    index = index.model_copy(update={"keys_sha256": hashlib.sha256(keys.tobytes()).hexdigest()})
    _commit(order.out, index)
    sync_folder(order.out)
    reporter.step(f"{index.samples:,} rows")
    return index


def _check_unique(order: Order, keys: np.ndarray) -> None:
    """Checks that rows with one key are one and the same: then it does not matter which of them is found."""
    split = order.data.split("train")
    for at in np.flatnonzero(keys["key"][1:] == keys["key"][:-1]):
        one, other = (make_batch(split, [int(keys["sample"][i])], order.seq_len) for i in (at, at + 1))
        if not (torch.equal(one.ids, other.ids) and torch.equal(one.documents, other.documents)):
            raise UsageError(f"{order.data.folder}: two rows share a key; use another --seq-len")
