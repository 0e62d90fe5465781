"""Where documents come from: the standard library, files, globs, and folders of files or of Hugging Face ``datasets``."""

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeprof.core.errors import UsageError
from edgeprof.train.data.pieces import Piece, pieces_of
from edgeprof.train.data.readers import read_arrow, read_jsonl, read_parquet, read_text
from edgeprof.train.data.stdlib import stdlib_documents

Kind = Literal["stdlib", "text", "jsonl", "parquet", "arrow"]

STDLIB = "stdlib"
"""The source that needs no file. A folder of that name is ``./stdlib``."""

SUFFIXES: dict[str, Kind] = {
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}

STATE_FILE, SPLITS_FILE = "state.json", "dataset_dict.json"
"""What ``datasets`` writes beside its Arrow files, and into a folder that holds several splits."""

MAX_STATE_BYTES = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How files are read: the field or column that holds the text, and whether blank lines part a text file's documents."""

    field: str = "text"
    paragraphs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file of documents, or the standard library; ``given`` is what the user named it by."""

    given: str
    kind: Kind
    path: Path | None = None
    size_bytes: int

    def pieces(self, reading: Reading) -> Iterator[Piece]:
        """Its documents in order.

        Raises:
            UsageError: something in it cannot be read: names the file, the place and the fix.
        """
        if self.path is None:
            return _stdlib_pieces()
        match self.kind:
            case "text":
                return read_text(self.path, paragraphs=reading.paragraphs)
            case "jsonl":
                return read_jsonl(self.path, reading.field)
            case "parquet":
                return read_parquet(self.path, reading.field)
            case _:
                return read_arrow(self.path, reading.field)


def _stdlib_pieces() -> Iterator[Piece]:
    read_bytes = 0
    for text in stdlib_documents():
        read_bytes += len(text.encode())
        yield from pieces_of([(text, read_bytes)])


def read_all(sources: Sequence[Source], reading: Reading) -> Iterator[Piece]:
    """The documents of all sources in order; ``read_bytes`` counts over all of them.

    Raises:
        UsageError: something cannot be read: names the file, the place and the fix.
    """
    before = 0
    for source in sources:
        try:
            for piece in source.pieces(reading):
                yield Piece(text=piece.text, begins=piece.begins, ends=piece.ends, read_bytes=before + piece.read_bytes)
        except OSError as error:
            raise _unreadable(source.path or Path(source.given), error) from None
        before += source.size_bytes


def find_sources(given: Sequence[str]) -> list[Source]:
    """The files behind ``given``, in that order, each file once; those of a glob or a folder sorted by their paths.

    Raises:
        UsageError: one names nothing, or nothing that can be read.
    """
    found: dict[Path | str, Source] = {}
    for name in given:
        for source in _find(name):
            found.setdefault(STDLIB if source.path is None else source.path.resolve(), source)
    return list(found.values())


def _find(given: str) -> list[Source]:
    if given == STDLIB:
        size = sum(len(text.encode()) for text in stdlib_documents())
        return [Source(given=given, kind="stdlib", size_bytes=size)]
    if not given or "\0" in given:
        raise UsageError("sources: an empty name; name files, folders, globs or stdlib")
    path = Path(given)
    try:
        if path.exists():
            return _find_path(given, path)
        # Path.glob takes no absolute pattern
        matches = sorted(glob.glob(given, recursive=True)) if glob.has_magic(given) else []  # noqa: PTH207
        matches = [m for m in matches if Path(m).is_dir() or Path(m).suffix in SUFFIXES]
        # a pattern like data/** matches a folder and also each file in it; find_sources keeps each file once
        found = [source for match in matches for source in _find_path(given, Path(match), required=False)]
    except OSError as error:
        raise _unreadable(path, error) from None
    if not found:
        raise UsageError(f"{given}: no such file or folder; name text, JSONL or Parquet files, or stdlib")
    return found


def _find_path(given: str, path: Path, *, required: bool = True) -> list[Source]:
    if path.is_dir():
        return _find_folder(given, path, required=required)
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: what is in it? Its name ends in none of {', '.join(SUFFIXES)}; rename it")
    return [_file(given, path, SUFFIXES[path.suffix])]


def _find_folder(given: str, folder: Path, *, required: bool) -> list[Source]:
    if (folder / SPLITS_FILE).is_file():
        splits = sorted(p.parent.name for p in folder.glob(f"*/{STATE_FILE}"))
        raise UsageError(
            f"{folder}: holds the splits {', '.join(splits)}; name one, as in {folder}/{(splits or ['train'])[0]}"
        )
    if (folder / STATE_FILE).is_file():
        return [_file(given, folder / name, "arrow") for name in _arrow_files(folder / STATE_FILE)]
    paths = sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    visible = [p for p in paths if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if required and not visible:
        raise UsageError(f"{folder}: holds no file that ends in {', '.join(SUFFIXES)}, and no saved datasets folder")
    return [_file(given, p, SUFFIXES[p.suffix]) for p in visible]


def _arrow_files(state: Path) -> list[str]:
    """Names of the Arrow files of a folder that ``Dataset.save_to_disk`` wrote.

    Source: ``Dataset.load_from_disk`` of datasets: ``_data_files`` in order; older versions kept a selection of rows in
    ``_indices_data_files``, without which the files hold other rows than the data set.
    """
    if state.stat().st_size > MAX_STATE_BYTES:
        raise UsageError(f"{state}: too large to be one that datasets wrote; save the data set again")
    try:
        content = json.loads(state.read_bytes())
        names = [entry["filename"] for entry in content["_data_files"]]
        selected = content.get("_indices_data_files")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{state}: is not as datasets writes it; save the data set again with save_to_disk") from None
    if selected:
        raise UsageError(f"{state}: the data set is a selection of its rows; save it again after flatten_indices()")
    if not all(isinstance(name, str) and name and Path(name).name == name for name in names):
        raise UsageError(f"{state}: _data_files: names a file outside its folder; save the data set again")
    return names


def _file(given: str, path: Path, kind: Kind) -> Source:
    if not path.is_file():
        raise UsageError(f"{path}: no such file, or none that holds data; correct the name or save the data again")
    return Source(given=given, kind=kind, path=path, size_bytes=path.stat().st_size)


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path}: cannot be read ({error.strerror or error}); correct its name or permissions")
