"""Append-only measured records and the queries over them."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeprof.store.store import Store, results_root

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Store", "load", "results_root"]


def load(results: Path | None = None, device: str | None = None) -> "pd.DataFrame":
    """Every stored instance as a row of a DataFrame; see ``edgeprof.store.frame.load``, which is imported when called.

    Raises:
        UsageError: the folder cannot be read, a record is corrupt, or ``device`` is not among the stored ones.
    """
    from edgeprof.store import frame

    return frame.load(results, device)
