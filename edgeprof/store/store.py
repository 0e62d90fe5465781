"""The store: one append-only file of JSON lines per device, one line for each fresh load that was measured.

A line is written under a lock and is on the disk before ``append`` returns. A process that dies in the middle leaves a
torn last line and nothing else; the next append puts the torn bytes aside and goes on.
"""

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from edgeprof.core.errors import UsageError
from edgeprof.core.types import InstanceRecord
from edgeprof.store.schema import NewerSchemaError, RecordError, load_json, parse_line, to_line

log = logging.getLogger(__name__)

DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
"""Device ids name folders and come from devices, so they hold nothing that a path could misread."""

RECORDS = "instances.jsonl"
TORN = "instances.torn"
LOCK = "instances.lock"

LOCK_TIMEOUT_S = 60
"""A lock is held for one append: who waits longer waits for a process that hangs."""

RESULTS_VARIABLE = "EDGEPROF_RESULTS"


def results_root(option: Path | None = None) -> Path:
    """The folder that holds the results: the option, else EDGEPROF_RESULTS, else the user's data folder."""
    if option is not None:
        return option
    if variable := os.environ.get(RESULTS_VARIABLE):
        return Path(variable)
    from platformdirs import user_data_path

    return user_data_path("edgeprof", appauthor=False) / "results"


class Store:
    """The results below one folder, ``root/<device_id>/instances.jsonl``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def devices(self) -> list[str]:
        """Ids of the devices that have records, sorted."""
        with _told_as_usage(self.root, "read"):
            if not self.root.is_dir():
                return []
            names = [path.parent.name for path in self.root.glob(f"*/{RECORDS}")]
        return sorted(name for name in names if DEVICE_ID.fullmatch(name))

    def append(self, record: InstanceRecord) -> None:
        """Adds one record; when this returns it is on the disk, and when it raises the file is as it was.

        Raises:
            UsageError: the record holds an absurd value, or the folder cannot be written (full disk, no permission).
        """
        folder = self._folder(record.device_id)
        try:
            line = to_line(record)
        except RecordError as error:
            raise UsageError(f"record {record.id}: {error}; it was not stored, measure it again") from None
        with _told_as_usage(folder, "written"):
            _make_folder(folder)
            with FileLock(folder / LOCK, timeout=LOCK_TIMEOUT_S, poll_interval=0.01):
                _append_line(folder, line)

    def records(self, device_id: str) -> list[InstanceRecord]:
        """Every whole record of a device, in the order of writing; a torn last line is left out with a warning.

        Reading changes nothing: the next append repairs the torn line.

        Raises:
            UsageError: a record is corrupt or newer than this program, named as path:line.
        """
        path = self._folder(device_id) / RECORDS
        with _told_as_usage(path.parent, "read"):
            if not path.exists():
                return []
            content = path.read_bytes()
        whole = _whole_length(content)
        if whole < len(content):
            log.warning("%s: the last line is torn and left out; the next measurement repairs it", path)
        lines = enumerate(content[:whole].split(b"\n")[:-1], start=1)
        return [_parse(path, number, line, device_id) for number, line in lines]

    def _folder(self, device_id: str) -> Path:
        if not DEVICE_ID.fullmatch(device_id):
            raise UsageError(
                f"device_id: {device_id!r:.100} is not a device id; use 1 to 80 of a-z, 0-9, '.', '_', '-', "
                "beginning with a letter or a digit"
            )
        return self.root / device_id


def _parse(path: Path, number: int, line: bytes, device_id: str) -> InstanceRecord:
    """The record in one line of a file.

    Raises:
        UsageError: it is corrupt, newer than this program, or another device's.
    """
    try:
        record = parse_line(line)
        if record.device_id != device_id:
            raise RecordError(f"device_id: {record.device_id!r} lies in the folder of {device_id!r}")
    except NewerSchemaError as error:
        raise UsageError(f"{path}:{number}: {error}; upgrade edgeprof, or choose another --results folder") from None
    except RecordError as error:
        raise UsageError(f"{path}:{number}: {error}; correct this line or remove it from the file") from None
    return record


@contextmanager
def _told_as_usage(folder: Path, done: str) -> Iterator[None]:
    """Turns what the file system refuses into one line that names the folder and the fix."""
    try:
        yield
    except Timeout:
        raise UsageError(
            f"{folder}: still locked after {LOCK_TIMEOUT_S} s; end the other edgeprof that writes there"
        ) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "free some space there and run the same command again, or" if full else "correct its permissions, or"
        raise UsageError(
            f"{folder}: cannot be {done} ({error.strerror or error}); {fix} choose another folder with --results "
            f"or {RESULTS_VARIABLE}"
        ) from None


def _make_folder(folder: Path) -> None:
    """Makes the folder and has every new directory entry on the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_directory(path.parent)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _append_line(folder: Path, line: bytes) -> None:
    """Writes a line after the last whole one, and takes a part that was written back if the disk refuses the rest."""
    path = folder / RECORDS
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        end = _repair(descriptor, folder)
        try:
            _write(descriptor, line)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)
    if is_new:
        _sync_directory(folder)


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
    os.fsync(descriptor)


def _repair(descriptor: int, folder: Path) -> int:
    """Cuts a torn last line off, kept aside in ``instances.torn``; returns where the last whole line ends."""
    size = os.fstat(descriptor).st_size
    start, tail = size, b""
    while start > 0 and tail.count(b"\n") < 2:  # back to the newline before the last line
        start = max(0, start - 2**16)
        tail = os.pread(descriptor, size - start, start)
    whole = start + _whole_length(tail)
    if whole < size:
        torn = tail[whole - start :]
        aside = os.open(folder / TORN, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _write(aside, torn + b"\n")
        finally:
            os.close(aside)
        os.ftruncate(descriptor, whole)
        os.fsync(descriptor)
        log.warning("%s: cut off a torn last line of %d bytes; it is kept in %s", folder / RECORDS, len(torn), TORN)
    return whole


def _whole_length(content: bytes) -> int:
    """Bytes of ``content`` up to its last line that is whole: ended by a newline, and JSON.

    A file system may leave zeros where the last line was to be after a power cut, hence the look at its content.
    """
    end = content.rfind(b"\n") + 1
    start = content.rfind(b"\n", 0, max(end - 1, 0)) + 1
    try:
        if end:
            load_json(content[start:end])
    except RecordError:
        return start
    return end
