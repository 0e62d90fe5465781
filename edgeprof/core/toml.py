"""TOML that comes from outside, read within bounds, and texts as TOML writes them."""

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

MAX_DOTS = 8192
MAX_LINE_DOTS = 256
"""Most dots in a file and in a line of it: on a dotted key tomllib spends memory as the square of its parts."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_OVERWRITTEN = re.compile(r"Cannot overwrite a value \(at line ([0-9]+),")


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ValueError: it is no TOML, a key comes twice, it is nested too deeply, or it has an absurd number of dots.
    """
    if text.count(".") > MAX_DOTS:
        raise ValueError(f"has more than {MAX_DOTS} dots; what is written by hand has fewer")
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if line.count(".") > MAX_LINE_DOTS:
            raise ValueError(f"line {number} has more than {MAX_LINE_DOTS} dots; give each table lines of its own")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        twice = _OVERWRITTEN.match(str(error))
        if twice is None:
            raise
        number = int(twice[1])
        key = lines[number - 1].partition("=")[0].strip()
        raise ValueError(f"{key}: comes twice (line {number}); remove one") from None


def toml_string(text: str) -> str:
    """A basic string in quotes: JSON's, but for the delete character, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def toml_value(value: Any) -> str:
    """A value in TOML: numbers, booleans and lists are JSON's; a table is written inline, without what is None."""
    if isinstance(value, Mapping):
        pairs = [f"{_key(name)} = {toml_value(v)}" for name, v in value.items() if v is not None]
        return "{ " + ", ".join(pairs) + " }" if pairs else "{}"
    return toml_string(value) if isinstance(value, str) else json.dumps(value)


def toml_table(name: str, values: Mapping[str, Any]) -> str:
    """A table with a line for each value; what is None is left out, as TOML has no word for it."""
    lines = [f"{_key(key)} = {toml_value(value)}" for key, value in values.items() if value is not None]
    return "\n".join([f"[{_key(name)}]", *lines]) + "\n"


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else toml_string(name)
