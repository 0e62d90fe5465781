"""The index of a data set, ``index.json``: what its shards hold, with checksums. A folder without it is no data set yet."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeprof.core.errors import UsageError
from edgeprof.core.ranges import MAX_SIZE
from edgeprof.models.gguf_tokenizer import TOKENIZER_FILE
from edgeprof.models.schema import read_document

SCHEMA_VERSION = 1
"""Version of the index and of the shards that it describes."""

INDEX_FILE = "index.json"
JOURNAL_FILE = "prepare.json"
"""How far a data set is that has no index yet."""

SplitName = Literal["train", "held_out"]
SPLITS: tuple[SplitName, ...] = ("train", "held_out")

ENDS_DTYPE = np.dtype("<i8")
"""Ends of documents, as positions in the tokens of their split."""

Count = Annotated[int, Field(ge=0, le=2**60)]
TokenId = Annotated[int, Field(ge=0, lt=MAX_SIZE)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=4096)]


class Strict(BaseModel):
    """No unknown fields, no conversions, no changes."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


M = TypeVar("M", bound=Strict)


class TokenizerEntry(Strict):
    """The tokenizer beside the shards: its file's checksum, how many ids it has, and what its special tokens are."""

    sha256: Sha256
    n_ids: Annotated[int, Field(ge=1, le=MAX_SIZE)]
    eos_token: TokenId
    bos_token: TokenId | None
    pad_token: TokenId | None
    unknown_token: TokenId | None


class ShardEntry(Strict):
    """One file of tokens; ``documents`` are those that end in it."""

    tokens: Annotated[int, Field(ge=1, le=2**60)]
    documents: Count
    sha256: Sha256


class Counts(Strict):
    """How far a split is written, or what all of it holds; ``text_bytes`` are of UTF-8."""

    tokens: Count = 0
    documents: Count = 0
    text_bytes: Count = 0
    unknown_tokens: Count = 0
    replacement_characters: Count = 0


class SplitEntry(Counts):
    """A split: what it holds, the checksum of its documents' ends, and its shards in order."""

    ends_sha256: Sha256
    shards: list[ShardEntry]


class SourceEntry(Strict):
    """What the data was made from, as the user named it."""

    given: Text
    kind: Text
    files: Count
    size_bytes: Count


class DataIndex(Strict):
    """The whole index. ``fingerprint`` is equal for equal documents, tokenizer, split and layout."""

    schema_version: int
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    vocab: Annotated[int, Field(ge=1, le=MAX_SIZE)]
    shard_tokens: Annotated[int, Field(ge=1, le=2**40)]
    tokenizer: TokenizerEntry
    sources: list[SourceEntry]
    empty_documents: Count
    train: SplitEntry
    held_out: SplitEntry | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """How a token is stored."""
        return token_dtype(self.tokenizer.n_ids)

    def splits(self) -> Iterator[tuple[SplitName, SplitEntry]]:
        """The splits that there are, by name."""
        yield "train", self.train
        if self.held_out is not None:
            yield "held_out", self.held_out

    @model_validator(mode="after")
    def _is_consistent(self) -> "DataIndex":
        """Counts of shards add up, so that what is read by them lies within the files."""
        for name, split in self.splits():
            sizes = [shard.tokens for shard in split.shards]
            if sum(sizes) != split.tokens or sum(s.documents for s in split.shards) != split.documents:
                raise ValueError(f"{name}: its shards do not add up to it")
            if any(size != self.shard_tokens for size in sizes[:-1]) or max(sizes, default=0) > self.shard_tokens:
                raise ValueError(f"{name}: a shard before the last has not shard_tokens tokens")
            if not 1 <= split.documents <= split.tokens:
                raise ValueError(f"{name}: holds no document, or more documents than tokens")
        return self


class Journal(Strict):
    """How far a data set is: pieces of documents that are in the files, and what each split's files hold of them.

    What the files hold beyond that was written after the last commit, and is cut off. ``tokenizer_sha256`` is None before the
    tokenizer is there.
    """

    schema_version: int = SCHEMA_VERSION
    fingerprint: str
    tokenizer_sha256: Sha256 | None = None
    pieces: Count = 0
    train: Counts = Counts()
    held_out: Counts = Counts()


def token_dtype(n_ids: int) -> np.dtype[Any]:
    """The smallest unsigned integer that holds ids below ``n_ids``, little-endian on every machine."""
    return np.dtype("<u2" if n_ids <= 2**16 else "<u4")


def shard_file(split: SplitName, number: int) -> str:
    """Name of a file of tokens."""
    return f"{split}-{number:05d}.bin"


def ends_file(split: SplitName) -> str:
    """Name of the file of a split's documents' ends."""
    return f"{split}.ends"


def read_index(folder: Path) -> DataIndex:
    """A folder's index, checked.

    Raises:
        UsageError: there is none, the data set is unfinished, or the index is wrong or newer: names the field and the fix.
    """
    path = folder / INDEX_FILE
    if (folder / JOURNAL_FILE).is_file() and not path.is_file():
        raise UsageError(
            f"{folder}: the data set is unfinished; run its edgeprof data prepare again, which goes on from there"
        )
    document = read_document(path, "edgeprof data prepare makes a data set")
    return parse_model(DataIndex, document, path, "empty the folder and run edgeprof data prepare again")


def parse_model(model: type[M], data: Any, path: Path, fix: str) -> M:
    """A file's content as a model.

    Raises:
        UsageError: a field is wrong: names the file, the field and ``fix``.
    """
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:
        raise UsageError(f"{path}: schema_version: {version} is newer than {SCHEMA_VERSION}; upgrade edgeprof")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise UsageError(f"{path}: schema_version: {version!s:.20} is not {SCHEMA_VERSION}; {fix}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:80]
        raise UsageError(f"{path}: {field + ': ' if field else ''}{first['msg']:.120}; {fix}") from None


def problems(folder: Path, index: DataIndex, *, checksums: bool) -> Iterator[str]:
    """What is wrong with a data set's files, by sizes and with ``checksums`` byte by byte; nothing if all is well."""
    yield from _problem(folder / TOKENIZER_FILE, None, index.tokenizer.sha256, checksums=checksums)
    for name, split in index.splits():
        ends_bytes = split.documents * ENDS_DTYPE.itemsize
        yield from _problem(folder / ends_file(name), ends_bytes, split.ends_sha256, checksums=checksums)
        for number, shard in enumerate(split.shards):
            path, size = folder / shard_file(name, number), shard.tokens * index.dtype.itemsize
            yield from _problem(path, size, shard.sha256, checksums=checksums)


def _problem(path: Path, size: int | None, sha256: str, *, checksums: bool) -> Iterator[str]:
    try:
        found = path.stat().st_size
        if size is not None and found != size:
            yield f"{path}: has {found:,} bytes in place of {size:,}"
        elif checksums and file_sha256(path) != sha256:
            yield f"{path}: its checksum is not the one in {INDEX_FILE}: the file is corrupt"
    except OSError as error:
        yield f"{path}: cannot be read ({error.strerror})"


def file_sha256(path: Path) -> str:
    """Checksum of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shard_documents(ends: npt.NDArray[np.int64], shard_tokens: int, n_shards: int) -> list[int]:
    """How many of the ends lie in each shard."""
    borders = np.searchsorted(ends, np.arange(n_shards + 1) * shard_tokens, side="right")
    return [int(n) for n in np.diff(borders)]
