"""Bytes as people write and read them."""

import re

from edgeprof.core.errors import UsageError

BYTE_UNITS = {
    "": 1,
    "b": 1,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
}
"""IEC units are powers of 1024, SI units powers of 1000; a bare letter is the IEC unit, as in lengths."""

MAX_BYTES = 2**44
"""16 TiB: more memory than a device that this measures has."""

_BYTES = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([A-Za-z]*)")


def parse_bytes(text: str, *, field: str) -> int:
    """The number of bytes in ``text``: ``256MiB``, ``1.5GiB``, ``64M`` or plain bytes.

    Raises:
        UsageError: it is no size, or none that memory can have.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None or match[2].lower() not in BYTE_UNITS:
        raise UsageError(f"{field}: {text!r} is not a number of bytes; write 256MiB, 1.5GiB or plain bytes")
    value = round(float(match[1]) * BYTE_UNITS[match[2].lower()])
    if not 1 <= value <= MAX_BYTES:
        raise UsageError(f"{field}: {text} is not a size of memory; use 1 byte to {format_bytes(MAX_BYTES)}")
    return value


def format_bytes(value: float) -> str:
    """Bytes with three significant digits in an IEC unit: ``1.5 MiB``, ``12.3 KiB``, ``24 B``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB" if abs(value) < 1000 else f"{value:,.0f} TiB"


def format_tokens(count: int) -> str:
    """A number of tokens as people say it: ``4K`` for 4096, ``1000`` for itself."""
    return f"{count // 1024}K" if count % 1024 == 0 else str(count)
