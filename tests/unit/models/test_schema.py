"""The configuration file's schema, field by field."""

from pathlib import Path
from typing import Any

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.models.schema import clipped, parse_document, parse_file

LAYER = {"mixer": {"op": "short_conv"}, "ffn": {"op": "swiglu", "d_ff": 8}}
WHOLE = {"schema_version": 1, "d_model": 8, "vocab": 16, "layers": [LAYER]}


def test_what_is_left_out_has_its_default() -> None:
    parsed = parse_document(WHOLE, "x")
    assert (parsed.tied, parsed.norm_eps, parsed.max_context, parsed.bos_token) == (True, 1e-5, 32768, None)
    assert parsed.layers[0].count == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version: 2 is newer than 1; upgrade edgeprof"),
        ({"schema_version": 0}, "schema_version: write schema_version = 1"),
        ({"schema_version": True}, "schema_version: write schema_version = 1"),
        ({"schema_version": "1"}, "schema_version: write schema_version = 1"),
        ({"d_model": "64"}, "d_model: '64' is not a whole number"),
        ({"d_model": 64.0}, "d_model: 64.0 is not a whole number"),
        ({"d_model": True}, "d_model: True is not a whole number"),
        ({"d_model": -64}, "d_model: -64 is too small; use 1 or more"),
        ({"vocab": 2**24 + 1}, "vocab: 16777217 is too large; use at most 16777216"),
        ({"vocab": 10**4000}, f"vocab: 1{'0' * 56}... is too large; use at most 16777216"),
        ({"tied": 1}, "tied: 1 is not true or false"),
        ({"name": ""}, "name: is empty; leave it out or give one"),
        ({"name": "x" * 201}, "name: is longer than 200 characters; shorten it"),
        ({"name": "\ud800"}, "name: is not a text of whole characters"),
        ({"name": 3}, "name: 3 is not a text in quotes"),
        ({"norm_eps": 0.0}, "norm_eps: 0.0 is too small; use more than 0"),
        ({"norm_eps": 1}, "norm_eps: 1 is too large; use less than 1"),
        ({"norm_eps": float("nan")}, "norm_eps: nan is not a finite number"),
        ({"embedding_scale": float("inf")}, "embedding_scale: inf is not a finite number"),
        ({"embedding_scale": "2"}, "embedding_scale: '2' is not a number"),
        ({"bos_token": -1}, "bos_token: -1 is too small; use 0 or more"),
        ({"d_modell": 3}, "d_modell: no such field; did you mean d_model?"),
        ({"layers": []}, "layers: is empty; give at least one [[layers]] table"),
        ({"layers": [LAYER] * 1025}, "layers: has more than 1024 tables; no model is that deep"),
        ({"layers": 3}, "layers: 3 is not a list; write [[layers]] tables"),
        ({"layers": [3]}, "layers[0]: 3 is not a table; write [[layers]] with a mixer and an ffn"),
        ({"layers": [LAYER, LAYER | {"cuont": 2}]}, "layers[1].cuont: no such field; did you mean count?"),
        ({"layers": [LAYER | {"mixer": "swa"}]}, "layers[0].mixer: 'swa' is not a table; write { op = ..., and its dimensions }"),
        ({"layers": [{"ffn": LAYER["ffn"]}]}, "layers[0].mixer: is missing; add it"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_fix(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_document(WHOLE | changes, "my.toml")
    assert str(caught.value) == f"my.toml: {message}"


@pytest.mark.parametrize("field", ["d_model", "vocab", "layers"])
def test_a_field_that_must_be_there_is_asked_for(field: str) -> None:
    with pytest.raises(UsageError, match=f"my.toml: {field}: is missing; add it"):
        parse_document({n: v for n, v in WHOLE.items() if n != field}, "my.toml")


def test_a_configuration_of_another_kind_says_how_it_is_read() -> None:
    with pytest.raises(UsageError, match="read it with edgeprof new --from-hf"):
        parse_document({"model_type": "lfm2", "hidden_size": 8}, "config.json")
    with pytest.raises(UsageError, match="not a table of fields"):
        parse_document([WHOLE], "config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"d_model": 1, "vocab": 2, "d_model": 3}', "d_model: comes twice; remove one"),
        ('{"d_model": NaN}', "NaN is not a finite number; write one"),
        ('{"d_model": -Infinity}', "-Infinity is not a finite number; write one"),
        ("[" * 1_000_000, "is nested too deeply"),
        ("{", "Expecting property name enclosed in double quotes"),
    ],
)
def test_json_is_read_as_strictly_as_toml(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "my.json"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        parse_file(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_message_shows_what_was_given_on_one_short_line() -> None:
    assert clipped("a\nb") == r"'a\nb'"
    assert clipped([1, 2]) == "[1, 2]"
    assert clipped("x" * 100) == "'" + "x" * 56 + "..."
    assert clipped(10**5000) == "a number of thousands of digits"
