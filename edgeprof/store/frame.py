"""The store as a pandas table: one row for each instance, the case's fields beside what was measured."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd

from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.core.types import BenchCase, InstanceRecord, Memory
from edgeprof.stats.quantiles import quantiles
from edgeprof.store.store import Store, results_root

NESTED = ("case", "memory", "roof", "environment", "samples_ns")
"""Fields of a record that become several columns each."""


def load(results: Path | None = None, device: str | None = None) -> pd.DataFrame:
    """Every instance of the store below ``results``, of one device or of all, a row each.

    Columns are the fields of ``InstanceRecord``, ``BenchCase`` and ``Memory`` under their own names (the case's least
    ring is ``case.ring_bytes``), ``dims.<name>`` for each of the operators' dimensions, ``p10_ns``, ``p50_ns`` and
    ``n_samples`` of the instance, ``roof.<name>``, and ``env.<name>`` for each single value of its environment. An
    empty store gives an empty frame with the columns that do not depend on its content. Loads are not pooled here: a
    cell's p50 and interval come from ``edgeprof.stats.intervals.interval`` over its rows.

    Raises:
        UsageError: the folder cannot be read, a record is corrupt, or ``device`` is not among the stored ones.
    """
    store = Store(results_root(results))
    devices = store.devices()
    if device is not None and device not in devices and devices:
        raise UsageError(f"device: no results of {device!r} in {store.root}: {did_you_mean(device, devices)}")
    chosen = devices if device is None else [device]
    rows = [_row(record) for name in chosen for record in store.records(name)]
    return pd.DataFrame(rows, columns=[*_base_columns(), *_found_columns(rows)])


def _base_columns() -> list[str]:
    names = [f.name for f in dataclasses.fields(InstanceRecord) if f.name not in NESTED]
    case = [_case_column(f.name) for f in dataclasses.fields(BenchCase) if f.name != "dims"]
    return [*names, *case, "p10_ns", "p50_ns", "n_samples", *(f.name for f in dataclasses.fields(Memory))]


def _found_columns(rows: list[dict[str, Any]]) -> list[str]:
    found = {name for row in rows for name in row if name.startswith(("dims.", "roof.", "env."))}
    return sorted(found)


def _case_column(name: str) -> str:
    """A case's field under its own name, unless the record has one of that name, which is what was measured."""
    return f"case.{name}" if name in InstanceRecord.__slots__ else name


def _row(record: InstanceRecord) -> dict[str, Any]:
    row = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name not in NESTED}
    if record.case is not None:
        fields = {f.name: getattr(record.case, f.name) for f in dataclasses.fields(record.case) if f.name != "dims"}
        row |= {_case_column(name): value for name, value in fields.items()}
        row |= {f"dims.{name}": value for name, value in record.case.dims.items()}
    if record.memory is not None:
        row |= {f.name: getattr(record.memory, f.name) for f in dataclasses.fields(record.memory)}
    if record.roof is not None:
        roof = {"n_threads": record.roof.n_threads, "bytes_per_s": record.roof.bytes_per_s}
        roof |= {f"flops_per_s.{dtype}": rate for dtype, rate in record.roof.flops_per_s.items()}
        row |= {f"roof.{name}": value for name, value in roof.items()}
    if record.samples_ns:
        found = quantiles(record.samples_ns)
        row |= {"p10_ns": found.p10, "p50_ns": found.p50}
    row["n_samples"] = len(record.samples_ns)
    single = {k: v for k, v in record.environment.items() if v is None or isinstance(v, (str, int, float, bool))}
    return row | {f"env.{name}": value for name, value in single.items()}
