"""Stored baselines: what one device took at an earlier time, a line for each case and session, in a file that lives well in git.

Lines are sorted and written alike, so that saving again changes only the lines that are new. A line keeps the conditions that it
was measured under; what does not share them is refused with what differs, never compared.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from edgeprof.core.canonical import canonical_json
from edgeprof.core.errors import BaselineError, UsageError
from edgeprof.core.types import PROTOCOL_VERSION, BenchCase
from edgeprof.models.schema import Strict, clipped

BASELINE_SCHEMA_VERSION = 1

MAX_BASELINE_BYTES = 64 * 2**20

MAX_NS = 7 * 24 * 3600 * 10**9
"""A week: no call takes longer."""

MAX_SESSIONS = 12
"""Sessions of a case that a file keeps: how sessions differ is known from three, and well enough from a dozen."""

FIXED = (
    "device_id",
    "os",
    "kernel",
    "glibc",
    "governor",
    "turbo",
    "transparent_hugepages",
    "microcode",
    "python_minor",
    "tunables",
    "runtime_version",
    "affinity",
    "protocol_version",
)
"""Conditions that must be equal; the case itself holds threads and formats."""

Nanoseconds = Annotated[int, Field(ge=1, le=MAX_NS)]
Loads = Annotated[list[Nanoseconds], Field(min_length=1, max_length=100)]


class BaselineRow(Strict):
    """One line of the file. ``processes`` hold the medians in ns of the loads of each fresh process, in the order measured."""

    schema_version: int
    case_key: Annotated[str, Field(pattern="^[0-9a-f]+$", min_length=16, max_length=16)]
    case: dict[str, Any]
    session: Annotated[str, Field(min_length=1, max_length=40)]
    at: Annotated[str, Field(min_length=1, max_length=40)]
    commit: str | None
    dirty: bool | None
    conditions: dict[str, str | int | bool | list[int] | None]
    processes: Annotated[list[Loads], Field(min_length=1, max_length=1000)]
    sentinel_ns: Annotated[list[Nanoseconds], Field(max_length=1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One case in one session; ``sentinel_ns`` are each process's median of the sentinel, which says how fast the host was."""

    case_key: str
    case: BenchCase
    session: str
    at: str
    commit: str | None
    dirty: bool | None
    conditions: dict[str, Any]
    processes: tuple[tuple[int, ...], ...]
    sentinel_ns: tuple[int, ...]

    def line(self) -> str:
        """The line of the file."""
        return canonical_json({"schema_version": BASELINE_SCHEMA_VERSION, **_fields(self)})

    @property
    def order(self) -> tuple[str, ...]:
        """Where the line stands: by device, then by case as people sort them, then by time."""
        case = self.case
        device = str(self.conditions.get("device_id"))
        return device, case.op, case.runtime, case.dtype, case.phase, self.case_key, self.at, self.session


def _fields(stored: Stored) -> dict[str, Any]:
    return {name: getattr(stored, name) for name in Stored.__slots__}


def conditions_of(
    case: BenchCase, environment: Mapping[str, Any], *, device_id: str, runtime_version: str, affinity: Sequence[int]
) -> dict[str, Any]:
    """The conditions that a case is measured under; facts that cannot be read are None and must be None on both sides."""
    known = {
        "device_id": device_id,
        "runtime_version": f"{case.runtime} {runtime_version}",
        "affinity": list(affinity),
        "protocol_version": PROTOCOL_VERSION,
    }
    return {name: known.get(name, environment.get(name)) for name in FIXED}


def read_baseline(path: Path) -> list[Stored]:
    """Every line of a baseline file.

    Raises:
        BaselineError: there is no such file, or it is empty.
        UsageError: it cannot be read, or a line is corrupt or of another schema: names it.
    """
    try:
        if path.is_file() and path.stat().st_size > MAX_BASELINE_BYTES:
            raise UsageError(f"{path}: is too large for a baseline")
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise BaselineError(f"{path}: no such baseline; edgeprof baseline save --to {path} measures one") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not text in UTF-8; give a file of edgeprof baseline save") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a file of edgeprof baseline save") from None
    found = [_parsed(path, number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not found:
        raise BaselineError(f"{path}: is empty; edgeprof baseline save --to {path} measures one")
    return found


def _parsed(path: Path, number: int, line: str) -> Stored:
    where = f"{path}:{number}"
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error}); take the file from git again") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != BASELINE_SCHEMA_VERSION:
        newer = type(version) is int and version > BASELINE_SCHEMA_VERSION
        fix = "upgrade edgeprof" if newer else "save the baseline anew"
        raise UsageError(f"{where}: schema_version: {clipped(version)} is not {BASELINE_SCHEMA_VERSION}; {fix}")
    try:
        row = TypeAdapter(BaselineRow).validate_python(data)
        case = BenchCase(**row.case)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{where}: {place}: {first['msg'].lower()}; take the file from git again") from None
    except TypeError as error:
        raise UsageError(f"{where}: case: {error}; save the baseline anew") from None
    if case.key != row.case_key:
        raise UsageError(f"{where}: case_key: is not that of the case beside it; take the file from git again")
    fields = row.model_dump(exclude={"schema_version", "case", "processes", "sentinel_ns"})
    return Stored(
        **fields,
        case=case,
        processes=tuple(map(tuple, row.processes)),
        sentinel_ns=tuple(row.sentinel_ns),
    )


def baseline_text(stored: Iterable[Stored]) -> str:
    """The file's text: sorted lines, each case's latest MAX_SESSIONS under the same conditions."""
    kept = prune(stored, MAX_SESSIONS)
    return "".join(one.line() + "\n" for one in sorted(kept, key=lambda one: one.order))


def prune(stored: Iterable[Stored], keep: int) -> list[Stored]:
    """The latest ``keep`` sessions of each case under each set of conditions."""
    groups: dict[str, list[Stored]] = {}
    for one in stored:
        groups.setdefault(canonical_json([one.case_key, one.conditions]), []).append(one)
    return [one for group in groups.values() for one in sorted(group, key=lambda one: (one.at, one.session))[-keep:]]


def comparable(
    stored: Sequence[Stored], wanted: Mapping[str, Mapping[str, Any]], path: Path
) -> dict[str, list[Stored]]:
    """The sessions of each wanted case whose conditions are those of now; ``wanted`` holds these by case key.

    A case that the file does not have is left out. A case that it only has under other conditions is refused.

    Raises:
        BaselineError: nothing of the suite is stored, or it was measured under other conditions: says what differs.
    """
    by_case: dict[str, list[Stored]] = {}
    for one in stored:
        if one.case_key in wanted:
            by_case.setdefault(one.case_key, []).append(one)
    if not by_case:
        raise BaselineError(f"{path}: holds no case of this suite; edgeprof baseline save --to {path} adds them")
    found: dict[str, list[Stored]] = {}
    refused: dict[str, None] = {}
    for key, sessions in by_case.items():
        same = [one for one in sessions if not differences(one.conditions, wanted[key])]
        if same:
            found[key] = same
        else:
            latest = max(sessions, key=lambda one: one.at)
            refused |= dict.fromkeys(differences(latest.conditions, wanted[key]))
    if refused:
        raise BaselineError(
            f"{path}: measured under other conditions, so not compared: {'; '.join(refused)}; save it anew with edgeprof "
            f"baseline save --to {path}, or compare side by side with --base"
        )
    return found


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of conditions, a phrase each."""
    return [
        f"{name} {_told(there.get(name))} there, {_told(here.get(name))} here"
        for name in FIXED
        if there.get(name) != here.get(name)
    ]


def _told(value: Any) -> str:
    return "unknown" if value is None else clipped(value, 80)
