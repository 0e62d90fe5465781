"""Measurements and instances as pandas tables, and these as CSV, JSON or Parquet."""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from edgeprof.bench.report import Report

SUFFIXES = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".md": "markdown"}
"""The format that a file's name asks for."""


def measurements_frame(reports: "list[Report]") -> "pd.DataFrame":
    """One row a measurement: the fields of the scripting contract, flat.

    ``dims`` become ``dims.<name>``, an interval two columns (``ci95_low_ns``, ``ci95_high_ns``), ``instance_ids`` one text.
    ``device_id``, ``noise_floor`` and ``drift_sd`` are the device's, repeated.
    """
    import pandas as pd

    from edgeprof.bench.report import measurement_json

    rows = []
    for report in reports:
        floor = report.noise_floor
        device = {
            "device_id": report.device_id,
            "noise_floor": None if floor is None else floor.pooled,
            "drift_sd": report.drift.sd,
        }
        rows += [device | _flat(measurement_json(m, floor)) for m in report.measurements]
    return pd.DataFrame(rows).convert_dtypes()


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "dims":
            row |= {f"dims.{dim}": size for dim, size in value.items()}
        elif name in ("ci95_ns", "ratio_ci95"):
            low, high = value or (None, None)
            stem, unit = ("ci95", "_ns") if name == "ci95_ns" else (name, "")
            row |= {f"{stem}_low{unit}": low, f"{stem}_high{unit}": high}
        elif name == "instance_ids":
            row[name] = " ".join(value)
        else:
            row[name] = value
    return row


def frame_bytes(frame: "pd.DataFrame", file_format: str) -> bytes:
    """The table in one of csv, parquet; lists are JSON text in CSV, and empty cells are unknown values.

    Raises:
        UsageError: a column mixes kinds that Parquet cannot hold together.
    """
    if file_format == "csv":
        return str(frame.to_csv(index=False)).encode()
    import pyarrow

    buffer = io.BytesIO()
    try:
        frame.to_parquet(buffer, index=False)
    except pyarrow.ArrowException as error:
        raise UsageError(f"--format: parquet cannot hold these rows ({error}); use csv or json") from None
    return buffer.getvalue()


def frame_rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """The table as plain data for JSON; what is unknown is None."""
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return rows


def format_of(out: Path | None, asked: str | None, as_json: bool) -> str:
    """The format to print or write: the one asked for, else what the file's name says, else a table.

    Raises:
        UsageError: it is unknown, contradicts --json, or is parquet without a file.
    """
    from edgeprof.core.registry import did_you_mean

    known = ["table", *SUFFIXES.values()]
    if asked is not None and asked not in known:
        raise UsageError(f"--format: unknown format {asked!r}: {did_you_mean(asked, known)}")
    if as_json and asked not in (None, "json"):
        raise UsageError(f"--json: contradicts --format {asked}; give one of them")
    if as_json or asked is not None:
        chosen = "json" if as_json else str(asked)
    elif out is None:
        chosen = "table"
    elif out.suffix in SUFFIXES:
        chosen = SUFFIXES[out.suffix]
    else:
        raise UsageError(f"--out: {out} does not tell its format; end it in {', '.join(SUFFIXES)}, or give --format")
    if chosen == "parquet" and out is None:
        raise UsageError("--format: parquet is no text; give --out FILE.parquet")
    if chosen == "table" and out is not None:
        raise UsageError("--format: a table is for the terminal; use csv, json, parquet or markdown with --out")
    return chosen
