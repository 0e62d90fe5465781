"""From a line of the store to an ``InstanceRecord`` and back: everything in a line is checked, nothing is guessed."""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from edgeprof.core.canonical import canonical_json
from edgeprof.core.types import SCHEMA_VERSION, BenchCase, InstanceRecord, Memory, Roof

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""``MIGRATIONS[v]`` turns a line of schema version v into one of version v + 1; version 1 is the first."""

MAX_NS = 7 * 24 * 3600 * 10**9
"""A week: no load, call or build takes longer."""

MAX_BYTES = 2**50
"""A pebibyte: more than the memory or the disk of any device that is measured here."""

MAX_PER_S = 1e18
"""An exaFLOP/s, or an exabyte a second: more than any device reaches."""

MAX_COUNT = 2**40
"""Above any number of tokens, dimensions, threads, rounds or calls."""

Range = tuple[float, float]


class RecordError(Exception):
    """A line that is not a record of the store: which field, and what is wrong with it."""


class NewerSchemaError(RecordError):
    """A line written by a newer edgeprof than this one."""


def to_line(record: InstanceRecord) -> bytes:
    """The record as a line of the store, newline included; what is returned is known to be readable again.

    Raises:
        RecordError: a value of the record has no place in the store.
    """
    try:
        text = canonical_json(record)
    except ValueError as error:  # NaN and infinities have no JSON
        raise RecordError(f"a number of the record is not finite ({error})") from None
    parse_line(text)
    return text.encode() + b"\n"


def parse_line(text: str | bytes) -> InstanceRecord:
    """The record that a line holds, migrated to the current schema.

    Raises:
        RecordError: the line is not JSON, or a field is missing, unknown, mistyped or absurd.
        NewerSchemaError: the line is of a newer schema.
    """
    line = _migrated(load_json(text))
    try:
        record = _adapter().validate_json(json.dumps(line))
    except ValueError as error:
        raise RecordError(_first_error(error)) from None
    for problem in (*_out_of_range("", line), *_contradictions(record)):
        raise RecordError(problem)
    return record


def load_json(text: str | bytes) -> Any:
    """The JSON value of a line, without the NaN and Infinity that Python's parser would let through.

    Raises:
        RecordError: it is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON ({error})") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a finite number")


def _migrated(value: Any) -> dict[str, Any]:
    """The line's object brought to the current schema, one version after the other."""
    if not isinstance(value, dict):
        raise RecordError(f"a record is a JSON object, not {type(value).__name__}")
    line: dict[str, Any] = value
    version = line.get("schema_version")
    if type(version) is not int or version < 1:
        raise RecordError(f"schema_version: {version!r} is not a version; the first is 1")
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(f"schema_version: {version} is newer than {SCHEMA_VERSION}, the newest known here")
    for old in range(version, SCHEMA_VERSION):
        line = {**MIGRATIONS[old](line), "schema_version": old + 1}
    return line


@functools.cache
def _adapter() -> "TypeAdapter[InstanceRecord]":
    """Pydantic's validator of the frozen dataclasses; imported here because start-up must stay fast."""
    from pydantic import ConfigDict, TypeAdapter, with_config

    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    for dataclass in (BenchCase, Memory, Roof, InstanceRecord):
        with_config(strict)(dataclass)
    return TypeAdapter(InstanceRecord)


def _first_error(error: ValueError) -> str:
    """The first thing that pydantic found, as ``field.path[3]: what is wrong``."""
    first = error.errors()[0]  # type: ignore[attr-defined]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "unexpected_keyword_argument":
        return f"{place}: an unknown field"
    if first["type"] == "json_invalid":  # such as half of a surrogate pair, which Python's parser accepts
        return f"not JSON ({first['msg']})"
    if first["type"] == "missing":
        return f"{place}: is missing"
    return f"{place}: {str(first['msg']).lower()}, not {first['input']!r:.80}"


def _out_of_range(path: str, value: Any, allowed: Range = (0, MAX_COUNT)) -> Iterator[str]:
    """The numbers of a line that cannot have been measured; the free-form environment is left alone."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not (path == "" and name == "environment"):
                yield from _out_of_range(f"{path}.{name}".lstrip("."), inner, _range(name, allowed))
        return
    low, high = allowed
    for index, number in enumerate(value if isinstance(value, list) else [value]):
        if isinstance(number, (int, float)) and not low <= number <= high:
            place = f"{path}[{index}]" if isinstance(value, list) else path
            yield f"{place}: {number!r:.40} is not between {low} and {high}"


def _contradictions(record: InstanceRecord) -> Iterator[str]:
    """Fields that cannot be true together."""
    if record.case is not None and record.case.kv_len < record.case.q_len:
        yield f"case.kv_len: {record.case.kv_len} is less than q_len, which it includes"
    if record.status == "ok" and record.kind in ("latency", "sentinel") and not record.samples_ns:
        yield "samples_ns: is empty although the status is ok"


RANGES: tuple[tuple[str, Range], ...] = (
    ("samples_ns", (1, MAX_NS)),
    ("_ns", (0, MAX_NS)),
    ("_delta_bytes", (-MAX_BYTES, MAX_BYTES)),  # memory can be given back
    ("_bytes", (0, MAX_BYTES)),
    ("_per_s", (0, MAX_PER_S)),
    ("probes", (0, MAX_PER_S)),
    ("_share", (0, 1)),
    ("_error", (0, sys.float_info.max)),
    ("dims", (-MAX_COUNT, MAX_COUNT)),
    ("batch", (1, MAX_COUNT)),
    ("_len", (1, MAX_COUNT)),
    ("n_threads", (1, MAX_COUNT)),
)
"""What a number can be, by the end of its field's name, which is its unit; the first that fits counts."""


def _range(name: str, inherited: Range) -> Range:
    """The range of a field's numbers; a name without a unit, such as a key of a mapping, has its parent's."""
    return next((allowed for ending, allowed in RANGES if name.endswith(ending)), inherited)
