"""What a wrong range is answered with."""

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.core.ranges import parse_sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-4", "--kv-len: -4 is not a length; use 1 or more"),
        ("0", "--kv-len: 0 is not a length; use 1 or more"),
        ("0-8*2", "--kv-len: 0 is not a length; use 1 or more"),
        ("99999999999", "--kv-len: 99999999999 is too large for a length; use at most 16777216"),
        ("1024m", "--kv-len: 1073741824 is too large for a length; use at most 16777216"),
        ("9-2", "--kv-len: 9-2 runs backwards; write 2-9"),
        ("1-9*1", "--kv-len: 1-9*1 never ends; use a factor of 2 or more"),
        ("1-9+0", "--kv-len: 1-9+0 never ends; use a step of 1 or more"),
        ("1,,2", "--kv-len: a value is empty; write values separated by commas, as in 1,2,4"),
        ("1e3", "--kv-len: '1e3' is not a length or a range; write 4096, 4k, 1-8, 128-1024+128 or 256-32768*2"),
        ("٣", "--kv-len: '٣' is not a length or a range; write 4096, 4k, 1-8, 128-1024+128 or 256-32768*2"),
    ],
)
def test_a_wrong_range_names_the_option_the_value_and_the_fix(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_sizes([text], field="--kv-len", what="length")
    assert str(caught.value) == message


def test_a_value_that_is_asked_for_twice_is_meant_once() -> None:
    assert parse_sizes(["1,2", "2-4"], field="--batch") == (1, 2, 3, 4)
