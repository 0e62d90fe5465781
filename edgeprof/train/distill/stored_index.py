"""The index of a teacher's stored distributions, ``distill.json``: whose they are, of which data, and which shards are done."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from edgeprof.core.errors import UsageError
from edgeprof.core.ranges import MAX_SIZE
from edgeprof.models.schema import read_document
from edgeprof.train.data.index import Count, Sha256, Strict, Text, parse_model, token_dtype

STORED_FILE = "distill.json"
KEYS_FILE = "keys.bin"

KEY_DTYPE = np.dtype([("key", "<u8"), ("sample", "<u8")])
"""A row's key and its number, in the order of the keys."""

SHARD_TOKENS = 2**18
"""Tokens of a shard, about: what is done again after a kill."""

Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Positive = Annotated[int, Field(ge=1, le=MAX_SIZE)]


class StoredIndex(Strict):
    """The whole file. It is finished once it has the checksum of the keys, which are written last."""

    schema_version: int = 1
    teacher: Text
    teacher_fingerprint: Fingerprint
    dtype: Literal["fp32", "bf16"]
    data_fingerprint: Fingerprint
    split: Literal["train"] = "train"
    seq_len: Positive
    k: Positive
    n_ids: Positive
    samples: Annotated[Count, Field(ge=1)]
    shard_samples: Positive
    shards: list[Sha256] = Field(default_factory=list)
    keys_sha256: Sha256 | None = None

    @property
    def n_shards(self) -> int:
        """Shards that there are in the end."""
        return -(-self.samples // self.shard_samples)

    @property
    def record(self) -> np.dtype[Any]:
        """How a token is stored: the log-probability of the rest, those of the top K, and their ids."""
        ids = token_dtype(self.n_ids)
        return np.dtype([("log_rest", "<f2"), ("values", "<f2", (self.k,)), ("indices", ids, (self.k,))])

    def samples_of(self, shard: int) -> range:
        """Numbers of the samples in a shard."""
        return range(shard * self.shard_samples, min((shard + 1) * self.shard_samples, self.samples))

    def identity(self) -> dict[str, Any]:
        """What must be equal for work to go on."""
        return self.model_dump(exclude={"shards", "keys_sha256", "teacher"})


def stored_shard(number: int) -> str:
    """Name of a shard."""
    return f"top-k-{number:05d}.bin"


def read_stored_index(folder: Path) -> StoredIndex:
    """A folder's index, checked.

    Raises:
        UsageError: there is none, or it is wrong: names the field and the fix.
    """
    path = folder / STORED_FILE
    document = read_document(path, "edgeprof distill prepare makes such a folder")
    fix = "empty the folder and run edgeprof distill prepare again"
    index = parse_model(StoredIndex, document, path, fix)
    if len(index.shards) > index.n_shards or (index.keys_sha256 and len(index.shards) < index.n_shards):
        raise UsageError(f"{path}: shards: are not as many as samples ask for; {fix}")
    return index
