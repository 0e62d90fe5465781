"""Amounts of tokens and of time as people write them."""

import re

from edgeprof.core.errors import UsageError

FACTORS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
"""Decimal, as budgets of tokens are: 20M is twenty million. Lengths and batches are powers of two elsewhere."""

MOST_TOKENS = 10**15
MOST_HOURS = 24 * 365 * 10

_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kKmMbBgGtT]?)")


def parse_tokens(text: str, *, field: str) -> int:
    """A number of tokens: ``500k``, ``20M``, ``1.5B``.

    Raises:
        UsageError: it is none.
    """
    match = _AMOUNT.fullmatch(text.strip().replace("_", "").replace(",", ""))
    tokens = round(float(match[1]) * FACTORS[match[2].lower()]) if match else 0
    if not 1 <= tokens <= MOST_TOKENS:
        raise UsageError(f"{field}: {text!r:.40} is no number of tokens; write 500k, 20M or 1.5B")
    return tokens


def check_hours(hours: float, *, field: str) -> float:
    """Checks a time in hours.

    Raises:
        UsageError: it is none.
    """
    if not 0 < hours <= MOST_HOURS:
        raise UsageError(f"{field}: {hours:g} is no number of hours to train for; use more than 0, as in 0.5 or 12")
    return hours


def format_count(count: float) -> str:
    """A count with three significant digits: ``189K``, ``3.79M``, ``1.2B``."""
    for unit, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= factor * 0.9995:
            return f"{count / factor:.3g}{unit}"
    return f"{count:.3g}"


def format_time(seconds: float) -> str:
    """A time in its two largest units: ``45 s``, ``3 min 20 s``, ``5 h 10 min``, ``2 d 3 h``."""
    whole = round(seconds)
    for large, size, small, part in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {large} {whole % size // part} {small}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
