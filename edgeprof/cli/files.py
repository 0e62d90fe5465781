"""Files that commands write: refused with one line where they cannot be, and never left half written."""

import os
import shutil
import tempfile
from pathlib import Path

from edgeprof.core.errors import UsageError


def check_target(path: Path, *, field: str, force: bool) -> None:
    """Checks, before any work is done, that ``path`` may be written.

    Raises:
        UsageError: it is a folder, it exists and ``force`` is not set, or its folder cannot be written to.
    """
    if path.is_dir():
        raise UsageError(f"{field}: {path} is a folder; give a file's name")
    if path.exists() and not force:
        raise UsageError(f"{field}: {path} exists; choose another name, or overwrite it with --force")
    if not path.parent.is_dir():
        raise UsageError(f"{field}: {path.parent} is no folder; make it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{field}: {path.parent} cannot be written to; correct its permissions or choose another")


def write_whole(path: Path, content: bytes, *, field: str) -> None:
    """Replaces the file by ``content`` at once: a reader sees the old file or the new one. Its permissions stay.

    Raises:
        UsageError: the file system refuses.
    """
    target = path.resolve()
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name[:100]}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        if target.exists():
            shutil.copymode(target, temporary)
        else:
            temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise UsageError(f"{field}: {path} cannot be written ({error.strerror}); choose another place") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The process's mask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
