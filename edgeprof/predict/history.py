"""The error history of a device: how far predictions were off, one line a verified call, and what it says of the next one."""

import dataclasses
import functools
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from scipy import stats

from edgeprof.core.canonical import canonical_json
from edgeprof.core.errors import UsageError
from edgeprof.predict.types import HISTORY_SCHEMA_VERSION, TermError, VerifyRow

if TYPE_CHECKING:
    from pydantic import TypeAdapter

HISTORY_FILE = "predictions.jsonl"
LOCK_FILE = "predictions.lock"
LOCK_TIMEOUT_S = 60

PRIOR_SD = {
    ("decode", True): 0.03,
    ("prefill", True): 0.03,
    ("memory", True): 0.04,
    ("decode", False): 0.05,
    ("prefill", False): 0.04,
}
"""Standard deviation of ln(measured / predicted) before anything was verified, by phase and whether paired.

Source: the assembled-ring experiments (p90 of the error 4-5 % paired, up to 7.7 % otherwise); memory repeats exactly, but
cells do not add up exactly."""

PRIOR_MODELS = 4
"""How many verified models the prior counts for."""

P90_MODELS = 3
"""Verified models of a kind from which p90 is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorModel:
    """What to expect of a prediction's error: a shift of its logarithm and a half-width at 95 %.

    They rest on ``n_rows`` verified rows of ``n_models`` models. ``p90_ratio`` is p90 over p50 of verified models.
    """

    shift: float
    half: float
    n_rows: int
    n_models: int
    p90_ratio: float | None = None


def error_model(
    rows: Iterable[VerifyRow],
    *,
    runtime: str,
    dtype: str,
    phase: str,
    paired: bool,
    corrected: bool = True,
    without: str | None = None,
) -> ErrorModel:
    """The error to expect in a runtime, format and phase; ``without`` leaves a config's rows out (by its hash).

    The logarithms of measured / predicted are taken as normal around a shift that is shrunk towards zero, with a variance
    that begins at the prior's: a conjugate normal-inverse-gamma update whose predictive distribution is Student's t. A
    model's rows (contexts, repetitions) are off alike, so each model counts once: with the mean of its rows' errors and of
    their squares, which holds the variance between models and within one.

    Source: Gelman et al., Bayesian Data Analysis (3rd ed.), section 3.3.
    """
    same = [r for r in rows if (r.runtime, r.dtype, r.phase, r.paired) == (runtime, dtype, phase, paired)]
    kept = [r for r in same if r.config_hash != without]
    models: dict[str, list[float]] = defaultdict(list)
    for row in kept:
        models[row.config_hash].append(math.log(row.measured_ns / row.uncorrected_ns))
    prior, freedom = PRIOR_SD[phase, paired], PRIOR_MODELS + len(models)
    shift = math.fsum(map(statistics.fmean, models.values())) / freedom if corrected else 0.0
    squares = math.fsum(statistics.fmean((e - shift) ** 2 for e in errors) for errors in models.values())
    scale = math.sqrt((PRIOR_MODELS * (prior**2 + shift**2) + squares) / freedom * (1 + 1 / freedom))
    return ErrorModel(
        shift=shift,
        half=float(stats.t.ppf(0.975, freedom)) * scale,
        n_rows=len(kept),
        n_models=len(models),
        p90_ratio=_p90_ratio(kept),
    )


def _p90_ratio(rows: Sequence[VerifyRow]) -> float | None:
    """The median model's p90 over p50, where enough models have one."""
    models: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.p90_ratio is not None:
            models[row.config_hash].append(row.p90_ratio)
    return statistics.median(map(statistics.median, models.values())) if len(models) >= P90_MODELS else None


def read_history(folder: Path) -> list[VerifyRow]:
    """The device's verified rows, oldest first; none if it has no history.

    A row that was traced later is there twice in the file; the later line is the row.

    Raises:
        UsageError: a line cannot be read: names it.
    """
    path = folder / HISTORY_FILE
    if not path.is_file():
        return []
    rows: dict[object, VerifyRow] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = _parse(line)
        except ValueError as error:
            raise UsageError(f"{path}:{number}: not a verified row ({_told(error)}); delete the line") from None
        if row.schema_version > HISTORY_SCHEMA_VERSION:
            raise UsageError(
                f"{path}:{number}: schema_version {row.schema_version} is of a newer edgeprof; update this one"
            )
        rows[_identity(row)] = row
    return list(rows.values())


def _parse(line: bytes) -> VerifyRow:
    """The row of a line; one of schema version 1 says nothing of its version, and lacks nothing that has no default.

    Raises:
        ValueError: it is none.
    """
    row = _adapter().validate_json(line)
    if min(row.predicted_ns, row.uncorrected_ns, row.measured_ns) <= 0:
        raise ValueError("times and bytes are positive")
    if row.schema_version < 1:
        raise ValueError("schema_version: versions begin at 1")
    return row


def _told(error: ValueError) -> str:
    """The first thing that is wrong, as ``field: what``."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return ": ".join([".".join(map(str, first["loc"])), first["msg"].lower()]).removeprefix(": ")


@functools.cache
def _adapter() -> "TypeAdapter[VerifyRow]":
    """Pydantic's validator; imported here because start-up must stay fast."""
    from pydantic import ConfigDict, TypeAdapter, with_config

    for part in (TermError, VerifyRow):
        with_config(ConfigDict(extra="forbid", allow_inf_nan=False))(part)
    return TypeAdapter(VerifyRow)


def new_rows(rows: Sequence[VerifyRow], history: Iterable[VerifyRow]) -> list[VerifyRow]:
    """The rows that the history lacks: one measurement is told once, however often it is looked at, and once more if traced."""
    known = {_identity(row): row for row in history}
    return [row for row in rows if (old := known.get(_identity(row))) is None or (row.terms and not old.terms)]


def with_known_terms(rows: Sequence[VerifyRow], history: Iterable[VerifyRow]) -> list[VerifyRow]:
    """The rows with what the history knows of their terms: a measurement that was traced once is not traced again."""
    known = {_identity(row): row for row in history if row.terms}
    return [
        row
        if row.terms or (old := known.get(_identity(row))) is None
        else dataclasses.replace(row, terms=old.terms, blame=old.blame)
        for row in rows
    ]


def _identity(row: VerifyRow) -> tuple[object, ...]:
    """What was verified in which session."""
    what = (row.config_hash, row.runtime, row.dtype, row.kv_dtype, row.n_threads, row.phase, row.q_len, row.context)
    return (*what, row.paired, row.session_id)


def append_history(folder: Path, rows: Sequence[VerifyRow]) -> None:
    """Appends rows to the device's history, each as a line, under a lock; they are on the disk before this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(canonical_json(dataclasses.asdict(row)) + "\n" for row in rows)
    with FileLock(folder / LOCK_FILE, timeout=LOCK_TIMEOUT_S), (folder / HISTORY_FILE).open("a") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
