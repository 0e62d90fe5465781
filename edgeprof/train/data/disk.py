"""Writing that survives: whole files at once, folders synced, and what the disk refuses told in one line."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from edgeprof.core.errors import UsageError

LOCK_FILE = ".lock"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns what the file system refuses into one line that names the folder and the fix.

    Raises:
        UsageError: the disk is full, or the folder may not be written to.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        if error.errno in NO_SPACE:
            raise UsageError(
                f"{folder}: cannot be written ({why}); free some space there and run the same command again: it goes on "
                "from what is done"
            ) from None
        raise UsageError(
            f"{folder}: cannot be written ({why}); correct its permissions or choose another --out"
        ) from None


@contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Makes a folder, and keeps it to this process; ``command`` is who else may be at work there.

    Raises:
        UsageError: it cannot be made, or another process has it.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out: {folder} is a file; name a folder")
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(f"{folder}: another {command} is at work there; wait for it or end it") from None
    try:
        yield
    finally:
        lock.release()


def replace_file(path: Path, content: bytes) -> None:
    """Replaces a file by ``content`` at once: after a crash it is the old one or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Has a folder's entries on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
