"""Architectures in files: read, checked, written."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.models.config import (
    MAX_LAYERS,
    ArchConfig,
    config_from_json,
    config_of_pattern,
    config_text,
    config_to_json,
    expand_pattern,
    load_config,
    preset_names,
    read_config,
    to_document,
    to_toml,
)
from edgeprof.models.schema import MAX_CONFIG_BYTES
from edgeprof.operators.base import Dims

HEADS: Dims = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
FIELDS: dict[str, Any] = {"d_model": 64, "vocab": 512}


def layer(**changes: Any) -> dict[str, Any]:
    """An attention layer's table; ``changes`` are of its mixer."""
    mixer = {"op": "swa", **HEADS, "window": 8} | changes
    return {"mixer": {n: v for n, v in mixer.items() if v is not None}, "ffn": {"op": "swiglu", "d_ff": 128}}


def document(**changes: Any) -> dict[str, Any]:
    """A small valid file; a field that is None is left out."""
    whole = {"schema_version": 1, **FIELDS, "layers": [layer()]} | changes
    return {n: v for n, v in whole.items() if v is not None}


@pytest.fixture
def refusal(tmp_path: Path) -> Any:
    """Reads a file of this content and returns the message with which it is refused."""

    def read(content: Any, name: str = "my.json") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with pytest.raises(UsageError) as caught:
            read_config(path)
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 400 + len(str(tmp_path))
        return message.removeprefix(f"{tmp_path}{os.sep}")

    return read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (document(layers=[layer(), layer(window=0)]), "my.json: layers[1].mixer.window: 0 is not a size; use 1 to 16777216"),
        (document(layers=[layer(window=-4)]), "my.json: layers[0].mixer.window: -4 is not a size; use 1 to 16777216"),
        (document(layers=[layer(window=1.5)]), "my.json: layers[0].mixer.window: 1.5 is not a whole number"),
        (document(layers=[layer(window="8")]), "my.json: layers[0].mixer.window: '8' is not a whole number"),
        (document(layers=[layer(window=True)]), "my.json: layers[0].mixer.window: True is not a whole number"),
        (document(layers=[layer(window=[8])]), "my.json: layers[0].mixer.window: [8] is not a whole number"),
        (document(layers=[layer(window=10**400)]), "my.json: layers[0].mixer.window: is not a size; use 1 to 16777216"),
        (document(layers=[layer(window=None)]), "my.json: layers[0].mixer.window: missing; give window = a whole number"),
        (
            document(layers=[layer(op="short_conv", kernel_size=0, window=None, n_heads=None, n_kv_heads=None, head_dim=None)]),
            "my.json: layers[0].mixer.kernel_size: 0 is not a size; use 1 to 16777216",
        ),
        (
            document(layers=[layer(n_kv_heads=3)]),
            "my.json: layers[0].mixer.n_kv_heads: 3 does not divide n_heads = 4; use a divisor",
        ),
        (
            document(layers=[layer(head_dim=15)]),
            "my.json: layers[0].mixer.head_dim: 15 is odd; RoPE rotates pairs, so use an even number",
        ),
        (document(layers=[layer(rope_theta=0)]), "my.json: layers[0].mixer.rope_theta: 0 is not a size; use 1 to 16777216"),
        (document(layers=[layer(qk_norm=1)]), "my.json: layers[0].mixer.qk_norm: 1 is not true or false"),
        (document(layers=[layer(windov=8)]), "my.json: layers[0].mixer.windov: no such dimension; did you mean window?"),
        (
            document(layers=[layer(d_model=64)]),
            "my.json: layers[0].mixer.d_model: is the whole model's; write d_model at the top",
        ),
        (document(layers=[layer(eps=1e-5)]), "my.json: layers[0].mixer.eps: is the whole model's; write norm_eps at the top"),
        (document(layers=[layer(op="gqqa")]), "my.json: layers[0].mixer.op: 'gqqa' is none; did you mean gqa?"),
        (document(layers=[layer(op="swiglu")]), "my.json: layers[0].mixer.op: 'swiglu' is none; known: gqa, short_conv, swa"),
        (document(layers=[layer(op=None)]), "my.json: layers[0].mixer.op: is missing; name short_conv or swa or gqa"),
        (
            document(layers=[layer() | {"ffn": {"op": "swiglu"}}]),
            "my.json: layers[0].ffn.d_ff: missing; give d_ff = a whole number",
        ),
        (document(layers=[layer() | {"count": 10**9}]), "my.json: layers[0].count: 1000000000 is too large; use at most 1024"),
        (document(layers=[layer() | {"count": 1e9}]), "my.json: layers[0].count: 1000000000.0 is not a whole number"),
        (document(layers=[layer() | {"count": 0}]), "my.json: layers[0].count: 0 is too small; use 1 or more"),
        (
            document(layers=[layer() | {"count": 1000}, layer() | {"count": 25}]),
            "my.json: layers[1].count: makes more than 1024 blocks in all; use a smaller one",
        ),
        (document(eos_token=512), "my.json: eos_token: 512 is not below vocab = 512; correct one of them"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_with_field_and_fix(refusal: Any, content: Any, message: str) -> None:
    assert refusal(content) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "my.toml: is not text in UTF-8; save it as UTF-8"),
        (b"x" * 10 * 2**20, "my.toml: is larger than 1 MiB: not a configuration"),
        (b"d_model = 1\nvocab = 2\nd_model = 3\n", "my.toml: d_model: comes twice (line 3); remove one"),
        (b"a = " + b"[" * 100_000, "my.toml: is nested too deeply"),
        (b"d_model = " + b"9" * 5000, "my.toml: has a number of thousands of digits"),
        (b"d_model", "my.toml: Expected '=' after a key in a key/value pair (at end of document)"),
        (b"schema_version = 1\nvocab = 5\nd_model = nan\nlayers = [{}]", "my.toml: d_model: nan is not a whole number"),
        (
            b"schema_version = 1\nd_model = 0x" + b"f" * 9999,
            "my.toml: d_model: a number of thousands of digits is too large; use at most 16777216",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_toml_of_a_config_is_refused(refusal: Any, content: bytes, message: str) -> None:
    assert refusal(content, "my.toml") == message


def test_the_largest_file_that_is_read_could_hold_any_config() -> None:
    layers = [layer(window=n + 1, rope_theta=1234567.125, qk_norm=False) for n in range(MAX_LAYERS)]
    content = json.dumps(document(layers=layers), indent=2)
    assert len(content) < MAX_CONFIG_BYTES
    assert len(to_toml(config_from_json(content))) < MAX_CONFIG_BYTES


def test_a_folder_or_nothing_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder; name the"):
        load_config(str(tmp_path))
    with pytest.raises(UsageError, match=r"none\.toml: no such file; edgeprof new writes one"):
        load_config(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="and no preset; did you mean lfm2-350m"):
        load_config("lfm2-35m")
    with pytest.raises(UsageError, match="File name too long"):
        load_config("x" * 5000 + ".toml")


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_is_called_as_its_file_and_comes_back_from_toml_and_json(preset: str, tmp_path: Path) -> None:
    config = load_config(preset)
    assert config.name == preset
    for suffix in (".toml", ".json"):
        path = tmp_path / f"other{suffix}"
        path.write_text(config_text(config, path))
        assert read_config(path) == config
    with pytest.raises(UsageError, match=r"x\.yaml: a configuration's name ends in \.toml or \.json"):
        config_text(config, Path("x.yaml"))


def test_a_file_without_a_name_is_called_after_the_file(tmp_path: Path) -> None:
    path = tmp_path / "my.v2.json"
    path.write_text(json.dumps(document()))
    assert read_config(path).name == "my.v2"


@pytest.mark.parametrize("name", ['a "b" \\c', "\x00\x1b[31m\x7f\n", "käse 猫 😀", " "])
def test_a_strange_name_comes_back(name: str, tmp_path: Path) -> None:
    config = replace(load_config("tiny-conv"), name=name)
    path = tmp_path / "x.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert read_config(path) == config


def test_equal_neighbours_are_one_layer_and_defaults_are_left_out() -> None:
    config = config_of_pattern("CCG", HEADS | {"d_ff": 128}, name="x", **FIELDS)
    written = to_document(config)
    assert set(written) == {"schema_version", "name", "d_model", "vocab", "tied", "layers"}
    assert [one.get("count") for one in written["layers"]] == [2, None]


def test_what_computes_the_same_has_the_same_json() -> None:
    config = config_of_pattern("G", HEADS | {"d_ff": 8, "rope_theta": 10000}, name="x", **FIELDS)
    alike = config_of_pattern("G", HEADS | {"d_ff": 8, "rope_theta": 10000.0}, name="y", max_context=9, **FIELDS)
    other = config_of_pattern("G", HEADS | {"d_ff": 8, "rope_theta": 10001.0}, name="x", **FIELDS)
    assert config_to_json(config) == config_to_json(alike) != config_to_json(other)
    assert config_from_json(config_to_json(config)).layers == config.layers


@pytest.mark.parametrize(
    ("pattern", "letters"),
    [
        ("CCG", "CCG"),
        ("C2G", "CCG"),
        ("(CCG)x2S", "CCGCCGS"),
        ("Cx2 (G(SC)2)2", "CC" + "GSCSC" * 2),
        ("Gx1024", "G" * 1024),
        ("((C))", "C"),
    ],
)
def test_a_pattern_may_repeat(pattern: str, letters: str) -> None:
    assert expand_pattern(pattern) == letters


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "is empty"),
        ("()", "is empty"),
        ("CXG", "'X' is no mixer; write C for short_conv"),
        ("CcG", "'c' is no mixer"),
        ("C-1", "'-' is no mixer"),
        ("C0", "makes no layers"),
        ("Cx1000000000", "more than 1024"),
        ("((((Cx999)x999)x999)x999)", "more than 1024"),
        ("C" * 1025, "more than 1024"),
        ("C" * 10_000_000, "is longer than 4096 characters"),
        ("C" + "9" * 4000, "more than 1024"),
        ("(CC", "has no )"),
        ("CC)2", "has no ("),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand_pattern(pattern)
    assert str(caught.value).startswith("pattern: ")
    assert message in str(caught.value)


def test_a_pattern_takes_one_feed_forward_width_or_one_a_layer() -> None:
    def build(d_ffs: list[int]) -> ArchConfig:
        return config_of_pattern("CC", {"d_ff": 8}, name="x", d_ffs=d_ffs, **FIELDS)

    assert [one.ffn.dims()["d_ff"] for one in build([]).layers] == [8, 8]
    assert [one.ffn.dims()["d_ff"] for one in build([16, 24]).layers] == [16, 24]
    with pytest.raises(UsageError, match="d_ff: 3 values for 2 layers"):
        build([16, 24, 32])
