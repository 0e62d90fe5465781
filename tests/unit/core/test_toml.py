"""TOML within bounds."""

import tomllib

import pytest

from edgeprof.core.toml import MAX_DOTS, MAX_LINE_DOTS, parse_toml, toml_string


def test_tables_are_read() -> None:
    assert parse_toml('a.b = 1.5\n[[c]]\nd = "e.f"\n') == {"a": {"b": 1.5}, "c": [{"d": "e.f"}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = 2\na = 3\n", r"a: comes twice \(line 3\); remove one"),
        ("a = " + "[" * 100_000, "is nested too deeply"),
        (".".join(["a"] * 1000) + " = 1", f"line 1 has more than {MAX_LINE_DOTS} dots"),
        ("a.b = 1 # ...\n" * MAX_DOTS, f"has more than {MAX_DOTS} dots"),
        ("a = ", "Invalid value"),
    ],
)
def test_what_is_no_toml_or_would_take_all_memory_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_toml(text)


@pytest.mark.parametrize("text", ['a "b" \\c', "tab\tline\nreturn\r", "\x00\x1b\x7f\x85", "käse 猫 😀", ""])
def test_a_text_is_read_back_as_it_was(text: str) -> None:
    assert tomllib.loads(f"a = {toml_string(text)}") == {"a": text}
