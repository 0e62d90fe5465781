"""Suites: TOML files that say which cells to measure, as matrices and includes of other suites."""

import os
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from edgeprof.bench.selection import DimValue
from edgeprof.core.dtypes import kv_itemsize, weight_dtype
from edgeprof.core.errors import UsageError
from edgeprof.core.ranges import MAX_SIZE, MAX_VALUES
from edgeprof.core.registry import did_you_mean
from edgeprof.core.toml import parse_toml
from edgeprof.core.types import CacheState, Phase
from edgeprof.core.units import MAX_BYTES, format_bytes
from edgeprof.operators.registry import OPERATORS
from edgeprof.runtimes.base import RUNTIMES

SUITE_SCHEMA_VERSION = 1
MAX_SUITE_BYTES = 1024 * 1024
"""A suite is written by hand; a file beyond this is something else."""

MAX_DECODE_TOKENS = 8
"""Most new tokens of a decode call (a few more than one where a draft is verified)."""

SHIPPED_FOLDER = Path(__file__).parent / "suites"


def split_dtype(name: str) -> tuple[str, str | None]:
    """The weight format and, where ``name`` is "weight/kv", the cache's format.

    Raises:
        UsageError: either is unknown.
    """
    weight, slash, kv = name.partition("/")
    weight_dtype(weight)
    if slash:
        kv_itemsize(kv)
    return weight, kv if slash else None


def length_pairs(phase: str, q_lens: tuple[int, ...] | None, kv_lens: tuple[int, ...] | None) -> list[tuple[int, int]]:
    """The (q_len, kv_len) of a phase's cells.

    Decode takes 1 new token unless told otherwise. A prefill for which only one of the two is given is a full one:
    kv_len = q_len. Where both are given, every pair with kv_len >= q_len is meant.

    Raises:
        UsageError: a length is missing, does not suit the phase, or fits none of the other kind.
    """
    if phase == "decode":
        q_lens = q_lens or (1,)
        if kv_lens is None:
            raise UsageError("kv_len: decode needs a context; give --kv-len or kv_len = [...]")
        if max(q_lens) > MAX_DECODE_TOKENS:
            raise UsageError(
                f"q_len: decode takes 1 to {MAX_DECODE_TOKENS} new tokens, not {max(q_lens)}; use phase prefill"
            )
    elif q_lens is None or kv_lens is None:
        full = q_lens or kv_lens
        if full is None:
            raise UsageError("q_len: prefill needs a number of tokens; give --q-len or q_len = [...]")
        return [(n, n) for n in full]
    pairs = [(q, kv) for q in q_lens for kv in kv_lens if kv >= q]
    for q in q_lens:
        if q > max(kv_lens):
            raise UsageError(f"kv_len: counts the new tokens too, so {max(kv_lens)} is too small for q_len {q}")
    for kv in kv_lens:
        if kv < min(q_lens):
            raise UsageError(f"kv_len: counts the new tokens too; use at least q_len = {min(q_lens)}, not {kv}")
    return pairs


def _operator(name: str) -> str:
    return _checked(OPERATORS.check, name)


def _runtime(name: str) -> str:
    return _checked(RUNTIMES.check, name)


def _dtype(name: str) -> str:
    return _checked(split_dtype, name)


def _checked(check: Any, name: str) -> str:
    """Runs a check of the program as pydantic wants it, so that the error gets the field's path."""
    try:
        check(name)
    except UsageError as e:
        raise ValueError(str(e)) from None
    return name


def _dim_values(value: Any) -> tuple[DimValue, ...]:
    """A dimension's values: one, or a list of them."""
    values = tuple(value) if isinstance(value, list) else (value,)
    if not values:
        raise ValueError("is empty; give a value")
    for v in values:
        if not isinstance(v, (bool, int, float)):
            raise ValueError(f"{v!r} is not a number, true or false")
        if not isinstance(v, bool) and not 0 < v <= MAX_SIZE:
            raise ValueError(f"{v} is not a size; use 1 to {MAX_SIZE}")
    return values


Size = Annotated[int, Field(strict=True, ge=1, le=MAX_SIZE)]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1, max_length=MAX_VALUES)]
RingSizes = Annotated[
    tuple[Annotated[int, Field(strict=True, ge=1, le=MAX_BYTES)], ...], Field(min_length=1, max_length=MAX_VALUES)
]
Ops = Annotated[tuple[Annotated[str, AfterValidator(_operator)], ...], Field(min_length=1)]
Runtimes = Annotated[tuple[Annotated[str, AfterValidator(_runtime)], ...], Field(min_length=1)]
DTypes = Annotated[tuple[Annotated[str, AfterValidator(_dtype)], ...], Field(min_length=1)]
Dims = dict[str, Annotated[tuple[DimValue, ...], BeforeValidator(_dim_values)]]


class Cells(BaseModel):
    """One matrix: the product of its lists is what is measured.

    ``dtype`` holds "weight" or "weight/kv" names; without it, every pair that a runtime offers. ``dims`` may give
    several values to a dimension, and dimensions that only some of the operators have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    op: Ops
    runtime: Runtimes
    dtype: DTypes | None = None
    phase: Annotated[tuple[Phase, ...], Field(min_length=1)]
    q_len: Sizes | None = None
    kv_len: Sizes | None = None
    batch: Sizes = (1,)
    threads: Sizes = (1,)
    cache_state: Annotated[tuple[CacheState, ...], Field(min_length=1)] = ("hot", "streaming")
    ring_bytes: RingSizes | None = None
    dims: Dims = {}


class SuiteFile(BaseModel):
    """A suite as it is written. ``dims`` are the defaults of all its cells."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    description: Annotated[str, Field(max_length=500)]
    includes: tuple[str, ...] = ()
    dims: Dims = {}
    cells: tuple[Cells, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite with its includes resolved: included cells come first. ``dims`` are those of the file itself."""

    name: str
    description: str
    dims: dict[str, tuple[DimValue, ...]]
    cells: tuple[Cells, ...]


def shipped_suites() -> list[str]:
    """Names of the suites that come with the program."""
    return sorted(p.stem for p in SHIPPED_FOLDER.glob("*.toml"))


def load_suite(name: str) -> Suite:
    """Reads a shipped suite by its name, or a file whose name ends in .toml.

    Raises:
        UsageError: it cannot be read or says something that makes no sense; names the file and the field.
    """
    return _load(_find(name, Path()), ())


def _find(name: str, folder: Path) -> Path:
    """The file of a suite that is named in ``folder``."""
    if name.endswith(".toml") or "/" in name:
        path = folder / name
        if not os.access(path, os.F_OK):
            raise UsageError(f"{path}: no such suite file; shipped suites: {', '.join(shipped_suites())}")
        return path
    if name not in shipped_suites():
        raise UsageError(f"unknown suite {name!r}: {did_you_mean(name, shipped_suites())}; a file's name ends in .toml")
    return SHIPPED_FOLDER / f"{name}.toml"


def _load(path: Path, including: tuple[Path, ...]) -> Suite:
    if path.resolve() in including:
        chain = " includes ".join(p.name for p in (*including, path))
        raise UsageError(f"{path}: includes: a suite cannot include itself ({chain})")
    label = path.stem if path.parent == SHIPPED_FOLDER else str(path)
    suite = _parse(path, label)
    cells: list[Cells] = []
    for i, name in enumerate(suite.includes):
        try:
            included = _find(name, path.parent)
        except UsageError as e:
            raise UsageError(f"{label}: includes[{i}]: {e}") from None
        cells += _load(included, (*including, path.resolve())).cells
    for i, cell in enumerate(suite.cells):
        whole = cell.model_copy(update={"dims": {**suite.dims, **cell.dims}})
        _check_cells(whole, own_dims=set(cell.dims), field=f"{label}: cells[{i}]")
        cells.append(whole)
    if not cells:
        raise UsageError(f"{label}: cells: a suite needs [[cells]] or includes")
    return Suite(name=label, description=suite.description, dims=suite.dims, cells=tuple(cells))


def _parse(path: Path, label: str) -> SuiteFile:
    try:
        data = parse_toml(_read_text(path, label))
    except ValueError as e:  # a number of thousands of digits is a plain ValueError
        raise UsageError(f"{label}: not TOML: {' '.join(str(e).split())}") from None
    version = data.get("schema_version")
    if isinstance(version, int) and version > SUITE_SCHEMA_VERSION:
        raise UsageError(
            f"{label}: schema_version: {version} is newer than this edgeprof can read "
            f"({SUITE_SCHEMA_VERSION}); upgrade edgeprof"
        )
    if version != SUITE_SCHEMA_VERSION:
        raise UsageError(f"{label}: schema_version: write schema_version = {SUITE_SCHEMA_VERSION}")
    try:
        suite = SuiteFile.model_validate(data)
    except ValidationError as e:
        raise UsageError(f"{label}: {_first_error(e)}") from None
    known = sorted({f.name for op in OPERATORS for f in dataclass_fields(OPERATORS.get(op))})
    for name in suite.dims:
        if name not in known:
            raise UsageError(f"{label}: dims.{name}: no operator has it; {did_you_mean(name, known)}")
    return suite


def _read_text(path: Path, label: str) -> str:
    """The file's text; anything but a small text file is refused before it is read."""
    if not path.is_file():
        raise UsageError(f"{label}: not a file; give a TOML file or a suite's name")
    try:
        size = path.stat().st_size
        if size > MAX_SUITE_BYTES:
            raise UsageError(
                f"{label}: {format_bytes(size)} is too large for a suite; the limit is {format_bytes(MAX_SUITE_BYTES)}"
            )
        return path.read_bytes().decode()
    except OSError as e:
        raise UsageError(f"{label}: cannot be read: {e.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{label}: is not text in UTF-8, so not a TOML file") from None


def _check_cells(cell: Cells, own_dims: set[str], field: str) -> None:
    """What the types alone cannot say: lengths suit the phase, and every dimension has an operator."""
    for phase in cell.phase:
        try:
            length_pairs(phase, cell.q_len, cell.kv_len)
        except UsageError as e:
            raise UsageError(f"{field}.{e}") from None
    known = sorted({f.name for op in cell.op for f in dataclass_fields(OPERATORS.get(op))})
    for name in sorted(own_dims):
        if name not in known:
            raise UsageError(f"{field}.dims.{name}: no operator of this cell has it; {did_you_mean(name, known)}")


def _first_error(error: ValidationError) -> str:
    """The first thing wrong, as ``cells[0].kv_len[1]: -4 is not a size; use 1 or more``."""
    # a list whose items are all wrong is also reported as too short: that is one mistake, not two
    details = sorted(error.errors(include_url=False), key=lambda d: d["type"] == "too_short")
    details = details[:1] + [d for d in details[1:] if d["type"] != "too_short"]
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{_path(details[0]['loc'])}: {_reason(details[0])}{more}"


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _reason(detail: ErrorDetails) -> str:
    """Pydantic's error in the program's words; kinds that a hand-written suite rarely meets keep pydantic's own."""
    value, ctx = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            model = Cells if "cells" in detail["loc"] else SuiteFile
            return f"no such field; {did_you_mean(str(detail['loc'][-1]), list(model.model_fields))}"
        case "missing":
            return "is missing"
        case "greater_than_equal":
            what = "length" if "len" in str(detail["loc"]) else "size"
            return f"{value} is not a {what}; use {ctx['ge']} or more"
        case "less_than_equal":
            return f"{value} is too large; use at most {ctx['le']}"
        case "int_type":
            return f"{value!r} is not a whole number"
        case "too_short":
            return "is empty; give at least one value"
        case "tuple_type":
            return f"{value!r} is not a list; write [{value!r}]"
        case "literal_error":
            expected = [e.strip("' ") for e in str(ctx["expected"]).replace(" or ", ",").split(",")]
            return f"unknown {value!r}: {did_you_mean(str(value), expected)}"
        case "value_error":
            return str(ctx["error"])
        case _:
            return detail["msg"][:1].lower() + detail["msg"][1:]
