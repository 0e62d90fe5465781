"""Times and counts as people write them."""

import re

from edgeprof.core.errors import UsageError

NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9}
COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
"""Counts have powers of 1000: 100M is a hundred million."""

MAX_NS = 3600 * 10**9
"""An hour: nobody waits longer for a token or a prompt."""

MAX_COUNT = 10**13

_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-zµ]*)")


def parse_ns(text: str, *, field: str) -> float:
    """Nanoseconds in ``12ms``, ``900us`` or ``1.5s``.

    Raises:
        UsageError: it is no time with a unit, or none that a budget can have.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2].lower() not in NS:
        raise UsageError(f"{field}: {text[:80]!r} is not a time with its unit; write 12ms, 900us or 1.5s")
    value = float(match[1]) * NS[match[2].lower()]
    if not 0 < value <= MAX_NS:
        raise UsageError(f"{field}: {text[:80]} is no time to allow; use more than 0 and at most 3600s")
    return value


def parse_count(text: str, *, field: str) -> int:
    """The number in ``100M``, ``1.2B``, ``500k`` or plain digits.

    Raises:
        UsageError: it is no count, or an absurd one.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2].lower() not in COUNTS:
        raise UsageError(f"{field}: {text[:80]!r} is not a count; write 100M, 1.2B or plain digits")
    value = round(float(match[1]) * COUNTS[match[2].lower()])
    if not 1 <= value <= MAX_COUNT:
        raise UsageError(f"{field}: {text[:80]} is no count to allow; use 1 to {MAX_COUNT}")
    return value
