"""Ranges mean what they say, for any values."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprof.core.errors import UsageError
from edgeprof.core.ranges import MAX_SIZE, MAX_VALUES, parse_sizes

sizes = st.integers(1, MAX_SIZE)


@given(st.lists(sizes, min_size=1, max_size=20, unique=True), st.booleans())
def test_a_list_keeps_its_values_and_their_order_however_it_is_split(values: list[int], repeated: bool) -> None:
    texts = [str(v) for v in values] if repeated else [",".join(map(str, values))]
    assert parse_sizes(texts, field="--kv-len") == tuple(values)


@given(sizes, st.integers(1, 10_000), st.integers(0, 50))
def test_an_arithmetic_range_is_pythons_range(first: int, step: int, count: int) -> None:
    last = min(MAX_SIZE, first + step * count + step // 2)
    expected = tuple(range(first, last + 1, step))
    assert parse_sizes([f"{first}-{last}+{step}"], field="--kv-len") == expected


@given(sizes, sizes, st.integers(2, 100), st.sampled_from("*x"))
def test_a_geometric_range_multiplies_from_the_first_to_at_most_the_last(
    a: int, b: int, factor: int, sign: str
) -> None:
    first, last = sorted((a, b))
    values = parse_sizes([f"{first}-{last}{sign}{factor}"], field="--kv-len")
    assert values[0] == first
    assert all(y == x * factor for x, y in pairwise(values))
    assert values[-1] <= last < values[-1] * factor


@given(st.integers(1, MAX_SIZE // 1024))
def test_k_multiplies_by_1024(n: int) -> None:
    assert parse_sizes([f"{n}k"], field="--kv-len") == parse_sizes([f"{n}K"], field="--kv-len") == (n * 1024,)


@given(st.text(max_size=30) | st.from_regex(r"[0-9kKmM,x*+-]{1,20}", fullmatch=True))
def test_any_text_gives_sizes_within_bounds_or_one_line_that_names_the_option(text: str) -> None:
    values = refusal = None
    try:
        values = parse_sizes([text], field="--kv-len")
    except UsageError as e:
        refusal = str(e)
    if values is None:
        assert refusal is not None
        assert refusal.startswith("--kv-len: ")
    else:
        assert 1 <= len(values) <= MAX_VALUES
        assert all(1 <= v <= MAX_SIZE for v in values)
        assert len(set(values)) == len(values)


@given(st.integers(MAX_VALUES + 1, MAX_SIZE))
def test_more_values_than_anyone_means_are_refused(last: int) -> None:
    with pytest.raises(UsageError, match="more than 256 values; use a larger step"):
        parse_sizes([f"1-{last}"], field="--kv-len")
