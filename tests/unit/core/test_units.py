"""Bytes, written and read."""

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.core.units import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("256MiB", 2**28), ("1.5 GiB", 3 * 2**29), ("64M", 2**26), ("1000", 1000), ("2kB", 2000), ("7B", 7)],
)
def test_sizes_are_read_in_iec_and_si_units(text: str, size: int) -> None:
    assert parse_bytes(text, field="--ring") == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5.2G", "12 parsecs", "nan"])
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--ring: .* is not a number of bytes; write 256MiB"):
        parse_bytes(text, field="--ring")


@pytest.mark.parametrize("text", ["0", "900000GiB"])
def test_no_memory_and_more_than_any_device_has_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--ring: .* use 1 byte to 16 TiB"):
        parse_bytes(text, field="--ring")


def test_bytes_are_shown_with_three_digits() -> None:
    assert [format_bytes(n) for n in (0, 24, 999, 1536, 5_872_025, 2**28, 2**40, 2**53)] == [
        "0 B",
        "24 B",
        "999 B",
        "1.5 KiB",
        "5.6 MiB",
        "256 MiB",
        "1 TiB",
        "8,192 TiB",
    ]
