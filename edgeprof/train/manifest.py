"""A folder that appears whole or not at all, with the checksums of its files, and is believed only where they are right."""

import os
import re
import shutil
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeprof.core.errors import UsageError
from edgeprof.models.schema import read_document
from edgeprof.train.data.disk import replace_file, sync_folder
from edgeprof.train.data.index import Sha256, file_sha256

MANIFEST_FILE = "manifest.json"

FILE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,100}\.(safetensors|json)")
"""Names that a manifest may list: no paths, and nothing that could be a pickle."""

UNFINISHED = ".new"
"""What the name of a folder that is being written ends in."""


class FileEntry(BaseModel):
    """One file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    size_bytes: Annotated[int, Field(ge=0, le=2**60)]
    sha256: Sha256


class Manifest(BaseModel):
    """The files of a folder."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    schema_version: Literal[1] = 1
    files: Annotated[dict[str, FileEntry], Field(min_length=1, max_length=100_000)]


def unfinished(folder: Path) -> Path:
    """Where a folder is written before it takes its name."""
    return folder.with_name(f".{folder.name}{UNFINISHED}")


def publish(scratch: Path, folder: Path) -> None:
    """Has all files on the disk and listed, and gives the folder its name: from then on it counts."""
    files = {}
    for path in sorted(scratch.iterdir()):
        assert FILE_NAME.fullmatch(path.name), path.name
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.name] = FileEntry(size_bytes=path.stat().st_size, sha256=file_sha256(path))
    manifest = Manifest(files=files)
    replace_file(scratch / MANIFEST_FILE, manifest.model_dump_json(indent=2).encode())
    if folder.exists():
        shutil.rmtree(folder)
    scratch.rename(folder)
    sync_folder(folder.parent)


def problem(folder: Path) -> str | None:
    """What is wrong with a published folder, byte by byte; None if all is well."""
    try:
        manifest = Manifest.model_validate(read_document(folder / MANIFEST_FILE, "it was not written to its end"))
    except UsageError as error:
        return str(error)
    except ValidationError as error:
        return f"{folder / MANIFEST_FILE}: {error.errors()[0]['msg']:.120}"
    others = {path.name for path in folder.iterdir()} - set(manifest.files) - {MANIFEST_FILE}
    if others:
        return f"{folder / min(others)}: is not in its manifest"
    for name, entry in manifest.files.items():
        if not FILE_NAME.fullmatch(name):
            return f"{folder / MANIFEST_FILE}: lists {name!r:.80}, which is no file of a checkpoint"
        if wrong := _problem(folder / name, entry):
            return wrong
    return None


def _problem(path: Path, entry: FileEntry) -> str | None:
    try:
        if path.is_symlink() or not path.is_file():
            return f"{path}: is missing"
        if path.stat().st_size != entry.size_bytes:
            return f"{path}: has {path.stat().st_size:,} bytes in place of {entry.size_bytes:,}"
        if file_sha256(path) != entry.sha256:
            return f"{path}: its checksum is not the manifest's: the file is corrupt"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
    return None
