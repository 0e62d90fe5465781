"""Writing that survives: whole files at once, folders synced, and what the disk refuses told in one line."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprof.core.errors import UsageError

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
