"""The budget file's schema."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from edgeprof.models.schema import MAX_NAME, Strict
from edgeprof.operators.base import MAX_SIZE
from edgeprof.search.files import check_file, check_version, read_toml

BUDGET_SCHEMA_VERSION = 1

MAX_BUDGETS = 64
"""More budgets than this are a mistake: each of them is predicted for every candidate."""

Text = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]


class BudgetFields(Strict):
    """What a budget holds for."""

    metric: Text
    at: Size | None = None
    chunk: Size | None = None
    runtime: Text | None = None
    dtype: Text | None = None
    n_threads: Size | None = None
    device: Text = "local"


class BudgetRow(BudgetFields):
    """``[[budget]]``: its limit is a text with a unit."""

    limit: Text


class StoredBudget(BudgetFields):
    """A budget as a study keeps it: named, its limit in nanoseconds, bytes or parameters."""

    name: Text
    limit: Annotated[float, Field(gt=0)]


class BudgetFile(Strict):
    """The whole file."""

    schema_version: int
    budget: Annotated[list[BudgetRow], Field(min_length=1, max_length=MAX_BUDGETS)]


MESSAGES = {
    "string_type": '{input} is not a text in quotes; a limit has its unit, as in "12ms"',
    "list_type": "{input} is not a list; write [[budget]] tables",
    "model_type": "{input} is not a table; write [[budget]] with a metric and a limit",
    "too_short": "is empty; give at least one [[budget]] table",
    "too_long": "has more than {max_length} tables; use fewer",
}


def parse_budget_file(path: Path) -> BudgetFile:
    """A file of budgets, its fields checked one by one.

    Raises:
        UsageError: it cannot be read, or a field is wrong: names the field and the fix.
    """
    document = read_toml(path, "give a file of [[budget]] tables")
    check_version(document, BUDGET_SCHEMA_VERSION, path.name)
    known = {"": list(BudgetFile.model_fields), "budget": list(BudgetRow.model_fields)}
    return check_file(BudgetFile, document, label=path.name, known=known, messages=MESSAGES)


def parse_stored_budget(document: Mapping[str, Any]) -> StoredBudget:
    """A budget that a study keeps, its fields checked one by one.

    Raises:
        UsageError: a field is wrong: names it.
    """
    known = {"": list(StoredBudget.model_fields)}
    return check_file(StoredBudget, document, label="stored budget", known=known, messages=MESSAGES)
