"""What a process's memory does while a cell is loaded and called, read from Linux's /proc."""

import ctypes
import re
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
SMAPS = Path("/proc/self/smaps")

PR_SET_THP_DISABLE = 41


def use_small_pages() -> None:
    """Has this process use no huge pages from now on, where it can (Linux): memory is told to the page.

    A huge page rounds a cell of a megabyte up to 2 MiB; of a model made of such cells it rounds only the end.

    Source: prctl(2).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def return_free_memory() -> None:
    """Gives pages of the heap that are free back to the system, where the C library can (glibc).

    What a load takes from pages that something else has left is not seen to grow. That hid up to a megabyte of every cell, and a
    model of eight layers took 5 MiB more than its cells.

    Source: malloc_trim(3).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def code_bytes(smaps: str, own: Path) -> int:
    """Resident bytes of mapped files that do not lie in the folder ``own``: programs and libraries, paged in as they run."""
    total, counts = 0, False
    for line in smaps.splitlines():
        if " kB" not in line and re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            path = line.split(maxsplit=5)[5:]
            counts = bool(path) and path[0].startswith("/") and not path[0].startswith(f"{own}/")
        elif counts and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def status_bytes(text: str, field: str) -> int | None:
    """A field of /proc/self/status in bytes, or None where the kernel does not give it."""
    match = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


class MemoryWatch:
    """Measures growth since it was made; free memory is given back and the kernel's peak counter reset first, as both hide it.

    Source: proc(5): writing 5 to clear_refs resets VmHWM to the current resident size.
    """

    def __init__(self, own: Path) -> None:
        self.own = own
        self.code_before = self._code()  # first: the lines it reads leave a megabyte of free heap behind
        return_free_memory()
        try:
            CLEAR_REFS.write_text("5")
            self.can_reset = True
        except OSError:
            self.can_reset = False
        self.before = self._status()

    def _status(self) -> dict[str, int | None]:
        try:
            text = STATUS.read_text()
        except OSError:
            text = ""
        return {field: status_bytes(text, field) for field in ("VmHWM", "VmRSS", "RssAnon", "RssFile")}

    def _code(self) -> int | None:
        try:
            return code_bytes(SMAPS.read_text(), self.own)
        except OSError:
            return None

    def deltas(self) -> dict[str, int | None]:
        """Bytes by which the peak, the anonymous and the file-backed resident size exceed those at the start.

        The code is the part of the file-backed size that is no file of the artifact's. The peak is None where the kernel's
        counter could not be reset.
        """
        now = self._status()

        def grown(after: int | None, before: int | None) -> int | None:
            return None if after is None or before is None else after - before

        return {
            "peak_rss_delta_bytes": grown(now["VmHWM"], self.before["VmRSS"]) if self.can_reset else None,
            "anon_delta_bytes": grown(now["RssAnon"], self.before["RssAnon"]),
            "file_delta_bytes": grown(now["RssFile"], self.before["RssFile"]),
            "code_delta_bytes": grown(self._code(), self.code_before),
        }
