"""The journal file of a study, kept whole where a process is killed while it writes, or the disk is full."""

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages.journal import JournalFileBackend

MOST_LINE_BYTES = 1 << 20
"""How far back the end of the last whole line is looked for; the longest lines hold a space file's text."""


class Journal(JournalFileBackend):
    """Optuna's journal, under the kernel's lock; what goes wrong with the file is told as one kind of error.

    Optuna's own locks are files, which a killed process leaves behind: everybody else then waits for half a minute. The kernel's
    lock ends with its process. And a line that somebody was killed in the middle of is cut off before the next one is written:
    glued to it, both would be lost, and the journal with them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._kernel_lock = FileLock(path.with_name(f"{path.name}.flock"))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The lines from a number on.

        Raises:
            StorageInternalError: the file cannot be read, or holds something else.
        """
        try:
            yield from super().read_logs(log_number_from)
        except OSError as error:
            raise StorageInternalError(f"{self._path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise StorageInternalError(f"{self._path}: holds a line that is not a journal's: {error}") from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Writes lines at the end; they are on the disk when this returns.

        Raises:
            StorageInternalError: the file cannot be written.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        try:
            with self._kernel_lock, self._path.open("r+b") as file:
                cut_torn_line(file, self._path)
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageInternalError(f"{self._path}: cannot be written: {error.strerror}") from error


def cut_torn_line(file: IO[bytes], path: Path) -> None:
    """Cuts off what comes after the last line's end, and goes to the file's end.

    Raises:
        StorageInternalError: there is more of it than a line can have: this is no journal.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0 or _last_byte(file) == b"\n":
        return
    begin = max(0, size - MOST_LINE_BYTES)
    file.seek(begin)
    tail = file.read()
    torn = len(tail) - (tail.rfind(b"\n") + 1)
    if torn == MOST_LINE_BYTES:
        raise StorageInternalError(f"{path}: its last line is too long for a journal of studies")
    file.truncate(size - torn)
    file.seek(0, os.SEEK_END)


def _last_byte(file: IO[bytes]) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)
