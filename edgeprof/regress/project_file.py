"""``edgeprof-accepted.toml``: what a project lets pass and what it never does, a file that is reviewed like code.

``[[accepted]]`` tables are regressions that were made on purpose, each with a reason and a date on which it ends. ``[[budget]]``
tables are limits of whole models that hold whether anything changed or not.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from edgeprof.core.errors import UsageError
from edgeprof.core.toml import toml_string
from edgeprof.models.schema import Strict, first_error, read_document

PROJECT_FILE = "edgeprof-accepted.toml"

PROJECT_SCHEMA_VERSION = 1

MAX_RATIO = 1000.0

Quantity = Literal["time", "peak_memory", "file_size"]

Text = Annotated[str, Field(min_length=1, max_length=500)]


class AcceptedRow(Strict):
    """``[[accepted]]``."""

    case_key: Annotated[str, Field(pattern="^[0-9a-f]+$", min_length=16, max_length=16)]
    case: Text
    quantity: Quantity = "time"
    max_ratio: Annotated[float, Field(gt=1, le=MAX_RATIO)]
    reason: Text
    expires: datetime.date


class BudgetRow(Strict):
    """``[[budget]]``: limits are texts with a unit, as ``edgeprof search`` takes them."""

    config: Text
    runtime: Text = "onnxruntime"
    dtype: Text = "fp32"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    device: Text | None = None
    max_tpot: Text | None = None
    max_ttft: Text | None = None
    max_peak_memory: Text | None = None


class ProjectDocument(Strict):
    """The whole file."""

    schema_version: int
    accepted: Annotated[list[AcceptedRow], Field(max_length=1000, default_factory=list)]
    budget: Annotated[list[BudgetRow], Field(max_length=64, default_factory=list)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A regression that is let pass: up to a ratio, for a reason, until a date (that day included)."""

    case_key: str
    case: str
    quantity: Quantity
    max_ratio: float
    reason: str
    expires: datetime.date


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLine:
    """Limits of one model in one place, as written; ``device`` is a device's id, None for any. ``field`` names the table."""

    field: str
    config: str
    runtime: str
    dtype: str
    n_threads: int
    device: str | None
    limits: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectFile:
    """What the file says; empty where there is none."""

    accepted: tuple[Acceptance, ...] = ()
    budgets: tuple[BudgetLine, ...] = ()


def load_project_file(path: Path) -> ProjectFile:
    """The file's content, checked; of several acceptances of the same, the last one counts.

    Raises:
        UsageError: it cannot be read, or a field is wrong: names the field and the fix.
    """
    if not path.exists():
        return ProjectFile()
    data = read_document(path, "edgeprof check accept writes one")
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != PROJECT_SCHEMA_VERSION:
        raise UsageError(f"{path.name}: schema_version: write schema_version = {PROJECT_SCHEMA_VERSION}")
    try:
        document = ProjectDocument.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{path.name}: {first_error(error)}") from None
    return ProjectFile(
        accepted=tuple(Acceptance(**row.model_dump()) for row in document.accepted),
        budgets=tuple(_budget_line(row, f"{path.name}: budget[{i}]") for i, row in enumerate(document.budget)),
    )


def _budget_line(row: BudgetRow, field: str) -> BudgetLine:
    limits = {"tpot": row.max_tpot, "ttft": row.max_ttft, "peak_memory": row.max_peak_memory}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    if not given:
        raise UsageError(f"{field}: limits nothing; add max_tpot, max_ttft or max_peak_memory")
    return BudgetLine(
        field=field,
        config=row.config,
        runtime=row.runtime,
        dtype=row.dtype,
        n_threads=row.threads,
        device=row.device,
        limits=given,
    )


def with_acceptance(text: str, acceptance: Acceptance) -> str:
    """The file's text with one more table at its end; what is written by hand stays as it is."""
    start = text.rstrip() + "\n" if text.strip() else f"schema_version = {PROJECT_SCHEMA_VERSION}\n"
    lines = [
        "[[accepted]]",
        f"case_key = {toml_string(acceptance.case_key)}",
        f"case = {toml_string(acceptance.case)}",
        f"quantity = {toml_string(acceptance.quantity)}",
        f"max_ratio = {acceptance.max_ratio!r}",
        f"reason = {toml_string(acceptance.reason)}",
        f"expires = {acceptance.expires.isoformat()}",
    ]
    return start + "\n" + "\n".join(lines) + "\n"
