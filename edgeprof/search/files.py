"""What the search's own TOML files share: a version, strict fields, and errors of one line with the field's path."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.models.schema import MESSAGES, clipped, read_document

Known = Mapping[str, Sequence[str]]
"""The fields that a file's tables have, by the tables' name; those of the file itself under no name."""

T = TypeVar("T", bound=BaseModel)


def read_toml(path: Path, remedy: str) -> dict[str, Any]:
    """The content of a small TOML file; ``remedy`` is said where there is no such file.

    Raises:
        UsageError: it cannot be read, or is no TOML.
    """
    if path.suffix != ".toml":
        raise UsageError(f"{clipped(str(path), 200)}: not a .toml file; {remedy}")
    found: dict[str, Any] = read_document(path, remedy)
    return found


def check_version(data: Mapping[str, Any], version: int, label: str) -> None:
    """Checks that a file called ``label`` is of the version that this program knows.

    Raises:
        UsageError: it is not.
    """
    found = data.get("schema_version")
    if type(found) is int and found > version:
        raise UsageError(f"{label}: schema_version: {clipped(found)} is newer than {version}; upgrade edgeprof")
    if type(found) is not int or found != version:
        raise UsageError(f"{label}: schema_version: write schema_version = {version}")


def check_file(model: type[T], data: Mapping[str, Any], *, label: str, known: Known, messages: Mapping[str, str]) -> T:
    """The content as ``model``, field by field.

    ``messages`` are the model's own words for pydantic's types of errors, before those of configurations.

    Raises:
        UsageError: names the outermost field that is wrong, and the fix.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{label}: {_first_error(error, known, messages)}") from None


def _first_error(error: ValidationError, known: Known, messages: Mapping[str, str]) -> str:
    """The outermost thing that pydantic found, as ``rules[0].at_least: what is wrong and what helps``."""
    detail = min(error.errors(include_url=False), key=lambda d: len(d["loc"]))
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{clipped(p)[1:-1]}" for p in detail["loc"]).lstrip(".")
    if detail["type"] == "extra_forbidden":
        fields = known[str(detail["loc"][0]) if len(detail["loc"]) > 1 else ""]
        return f"{path}: no such field; {did_you_mean(str(detail['loc'][-1])[:80], list(fields))}"
    message = messages.get(detail["type"]) or MESSAGES.get(detail["type"], detail["msg"])
    return f"{path}: {message.format(input=clipped(detail['input']), **detail.get('ctx', {}))}"
