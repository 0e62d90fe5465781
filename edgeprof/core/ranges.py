"""Sizes as a user writes them: ``4096``, ``4k``, ``1,2,4``, ``1-8``, ``128-1024+128``, ``256-32768*2``."""

import re
from collections.abc import Iterable, Iterator

from edgeprof.core.errors import UsageError

MAX_SIZE = 2**24
"""Largest size that is taken for meant: no model has a wider layer, a larger vocabulary or a longer context."""

MAX_VALUES = 256
"""Most values that one option may ask for: each one is multiplied by every other option's."""

SUFFIXES = {"": 1, "k": 1024, "m": 1024**2}

_NUMBER = r"([0-9]{1,12})([kKmM]?)"
_ITEM = re.compile(rf"{_NUMBER}(?:-{_NUMBER}(?:([*x+]){_NUMBER})?)?")


def parse_sizes(texts: Iterable[str], *, field: str, what: str = "size", maximum: int = MAX_SIZE) -> tuple[int, ...]:
    """The sizes that ``texts`` ask for, in the order given, each one once.

    A text is a list, separated by commas, of ``N``, ``A-B`` (step 1), ``A-B+S`` (step S) and ``A-B*F`` or ``A-BxF``
    (each F times the one before); the end is included where a step meets it. A suffix k or M multiplies by 1024 or
    1024^2.

    Args:
        texts: what was given; an option that is repeated has several.
        field: the option or field, named in errors.
        what: what a value is called in errors.
        maximum: the largest value allowed.

    Raises:
        UsageError: names the field, the value and the fix.
    """
    values: dict[int, None] = {}
    for item in split_list(texts, field=field):
        for value in _expand(item, field, what):
            check_size(value, field=field, what=what, maximum=maximum)
            values[value] = None
            if len(values) > MAX_VALUES:
                raise UsageError(
                    f"{field}: {item} asks for more than {MAX_VALUES} values; use a larger step, as in 256-32768*2"
                )
    return tuple(values)


def check_size(value: int, *, field: str, what: str = "size", maximum: int = MAX_SIZE) -> int:
    """Returns ``value`` if it is between 1 and ``maximum``.

    Raises:
        UsageError: it is not.
    """
    if value < 1:
        raise UsageError(f"{field}: {value} is not a {what}; use 1 or more")
    if value > maximum:
        raise UsageError(f"{field}: {value} is too large for a {what}; use at most {maximum}")
    return value


def split_list(texts: Iterable[str], *, field: str) -> list[str]:
    """The items of texts that are lists separated by commas.

    Raises:
        UsageError: an item is empty.
    """
    items = [item.strip() for text in texts for item in text.split(",")]
    if "" in items:
        raise UsageError(f"{field}: a value is empty; write values separated by commas, as in 1,2,4")
    return items


def _expand(item: str, field: str, what: str) -> Iterator[int]:
    """The values of one item; endless steps and ranges that run backwards are refused."""
    match = _ITEM.fullmatch(item)
    if match is None:
        raise UsageError(_not_a_range(item, field, what))
    first = _number(match[1], match[2])
    if match[3] is None:
        yield first
        return
    last, step = _number(match[3], match[4]), 1 if match[6] is None else _number(match[6], match[7])
    if first > last:
        raise UsageError(f"{field}: {item} runs backwards; write {last}-{first}")
    if first < 1:
        raise UsageError(f"{field}: {first} is not a {what}; use 1 or more")
    multiply = match[5] in ("*", "x")
    if step < (2 if multiply else 1):
        raise UsageError(f"{field}: {item} never ends; use {'a factor of 2' if multiply else 'a step of 1'} or more")
    value = first
    while value <= last:
        yield value
        value = value * step if multiply else value + step


def _number(digits: str, suffix: str) -> int:
    return int(digits) * SUFFIXES[suffix.lower()]


def _not_a_range(item: str, field: str, what: str) -> str:
    if re.fullmatch(r"-[0-9]+", item):
        return f"{field}: {item} is not a {what}; use 1 or more"
    return f"{field}: {item!r} is not a {what} or a range; write 4096, 4k, 1-8, 128-1024+128 or 256-32768*2"
