"""What a process's memory does while a cell is loaded and called, read from Linux's /proc."""

import re
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


def status_bytes(text: str, field: str) -> int | None:
    """A field of /proc/self/status in bytes, or None where the kernel does not give it."""
    match = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


class MemoryWatch:
    """Measures growth since it was made; the kernel's peak counter is reset first, so earlier peaks do not hide it.

    Source: proc(5): writing 5 to clear_refs resets VmHWM to the current resident size.
    """

    def __init__(self) -> None:
        try:
            CLEAR_REFS.write_text("5")
            self.can_reset = True
        except OSError:
            self.can_reset = False
        self.before = self._read()

    def _read(self) -> dict[str, int | None]:
        try:
            text = STATUS.read_text()
        except OSError:
            text = ""
        return {field: status_bytes(text, field) for field in ("VmHWM", "VmRSS", "RssAnon", "RssFile")}

    def deltas(self) -> dict[str, int | None]:
        """Bytes by which the peak, the anonymous and the file-backed resident size exceed those at the start.

        The peak is None where the kernel's counter could not be reset.
        """
        now = self._read()

        def grown(after: int | None, before: int | None) -> int | None:
            return None if after is None or before is None else after - before

        return {
            "peak_rss_delta_bytes": grown(now["VmHWM"], self.before["VmRSS"]) if self.can_reset else None,
            "anon_delta_bytes": grown(now["RssAnon"], self.before["RssAnon"]),
            "file_delta_bytes": grown(now["RssFile"], self.before["RssFile"]),
        }
