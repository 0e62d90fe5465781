"""The configuration file's schema: every field is checked, and an error names its path."""

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.core.toml import parse_toml
from edgeprof.core.units import format_bytes
from edgeprof.models.config import CONFIG_SCHEMA_VERSION, MAX_LAYERS
from edgeprof.operators.base import MAX_SIZE, NORM_EPSILON, Dims
from edgeprof.operators.registry import OPERATORS

MAX_CONFIG_BYTES = 1024**2
"""More than 1024 layers that all differ take: a larger file is something else."""

MAX_NAME = 200

Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
TokenId = Annotated[int, Field(ge=0, le=MAX_SIZE)]
Part = dict[str, Any]
"""An operator's name as ``op`` and its dimensions, which the operator itself checks."""


class Strict(BaseModel):
    """No unknown fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class LayerFile(Strict):
    """``[[layers]]``."""

    count: Annotated[int, Field(ge=1, le=MAX_LAYERS)] = 1
    mixer: Part
    ffn: Part


class ConfigFile(Strict):
    """The whole file."""

    schema_version: int
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)] | None = None
    d_model: Size
    vocab: Size
    tied: bool = True
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = NORM_EPSILON
    embedding_scale: Annotated[float, Field(gt=0, le=MAX_SIZE)] = 1.0
    sandwich_norm: bool = False
    max_context: Size = 32_768
    bos_token: TokenId | None = None
    eos_token: TokenId | None = None
    pad_token: TokenId | None = None
    layers: Annotated[list[LayerFile], Field(min_length=1, max_length=MAX_LAYERS)]
    provenance: dict[str, Any] | None = None
    """Where a found architecture is from: device, study, budgets, figures. Nothing reads it but people and reports."""


def parse_file(path: Path) -> ConfigFile:
    """A file's content, checked.

    Raises:
        UsageError: it is no small text file, no TOML or JSON, or a field is wrong.
    """
    return parse_document(read_document(path, "edgeprof new writes one"), path.name)


def read_document(path: Path, remedy: str) -> Any:
    """What a small TOML or JSON file holds, by its suffix; ``remedy`` is said where there is no such file.

    Raises:
        UsageError: it is no small text file, no TOML or JSON.
    """
    text = _read_text(path, remedy)
    try:
        return parse_toml(text) if path.suffix == ".toml" else _parse_json(text)
    except ValueError as error:
        huge = "set_int_max_str_digits" in str(error)  # Python's advice, which is none for a user
        raise UsageError(f"{path}: {'has a number of thousands of digits' if huge else clipped(error, 200)}") from None


def _read_text(path: Path, remedy: str) -> str:
    try:
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; name the .toml or .json file in it")
        if not path.is_file():
            raise UsageError(f"{path}: no such file; {remedy}")
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise UsageError(f"{path}: is larger than {format_bytes(MAX_CONFIG_BYTES)}: not a configuration")
        return content.decode()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not text in UTF-8; save it as UTF-8") from None


def _parse_json(text: str) -> Any:
    """The value of a JSON text, in which no name comes twice and every number is finite.

    Raises:
        ValueError: it is no such text.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((most, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{most}: comes twice; remove one")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a finite number; write one")


def parse_document(data: Any, label: str) -> ConfigFile:
    """A configuration's document, checked field by field.

    Raises:
        UsageError: names the first field that is wrong, and the fix.
    """
    if not isinstance(data, dict):
        raise UsageError(f"{label}: not a table of fields; edgeprof new writes a configuration")
    version = data.get("schema_version")
    if version is None and "model_type" in data:
        raise UsageError(f"{label}: is a Hugging Face configuration; read it with edgeprof new --from-hf")
    if type(version) is int and version > CONFIG_SCHEMA_VERSION:
        raise UsageError(
            f"{label}: schema_version: {clipped(version)} is newer than {CONFIG_SCHEMA_VERSION}; upgrade edgeprof"
        )
    if type(version) is not int or version != CONFIG_SCHEMA_VERSION:
        raise UsageError(f"{label}: schema_version: write schema_version = {CONFIG_SCHEMA_VERSION}")
    try:
        return ConfigFile.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{label}: {first_error(error)}") from None


def clipped(value: object, limit: int = 60) -> str:
    """A given value as a message shows it: on one line, and short enough for it."""
    try:
        text = " ".join((repr(value) if isinstance(value, str) else str(value)).split())
    except ValueError:  # Python writes no integer of more than some thousand digits
        text = "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def own_dims(op: str, dims: Dims) -> Dims:
    """What an operator takes of ``dims``, with its name."""
    own = {f.name for f in fields(OPERATORS.get(op))} - {"d_model"}
    return {"op": op} | {name: value for name, value in dims.items() if name in own}


MESSAGES = {
    "missing": "is missing; add it",
    "int_type": "{input} is not a whole number",
    "float_type": "{input} is not a number",
    "bool_type": "{input} is not true or false",
    "string_type": "{input} is not a text in quotes",
    "string_unicode": "is not a text of whole characters",
    "string_too_short": "is empty; leave it out or give one",
    "string_too_long": "is longer than {max_length} characters; shorten it",
    "finite_number": "{input} is not a finite number",
    "greater_than_equal": "{input} is too small; use {ge} or more",
    "greater_than": "{input} is too small; use more than {gt:g}",
    "less_than_equal": "{input} is too large; use at most {le}",
    "less_than": "{input} is too large; use less than {lt:g}",
    "list_type": "{input} is not a list; write [[layers]] tables",
    "dict_type": "{input} is not a table; write {{ op = ..., and its dimensions }}",
    "model_type": "{input} is not a table; write [[layers]] with a mixer and an ffn",
    "too_short": "is empty; give at least one [[layers]] table",
    "too_long": f"has more than {MAX_LAYERS} tables; no model is that deep",
}
"""What is wrong and what helps, by pydantic's type of error."""


def first_error(error: ValidationError) -> str:
    """The outermost thing that pydantic found, as ``layers[3].count: what is wrong and what helps``."""
    detail = min(error.errors(include_url=False), key=lambda d: len(d["loc"]))
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in detail["loc"]).lstrip(".")
    if detail["type"] == "extra_forbidden":
        model = LayerFile if "layers" in detail["loc"] else ConfigFile
        known = list(model.model_fields)
        return f"{path[:80]}: no such field; {did_you_mean(str(detail['loc'][-1])[:80], known)}"
    message = MESSAGES.get(detail["type"], detail["msg"])
    return f"{path}: {message.format(input=clipped(detail['input']), **detail.get('ctx', {}))}"
