"""What is stored, as reports: of one device or of all, of a suite's cells or of every case, filtered."""

from collections.abc import Sequence
from dataclasses import replace

from edgeprof.bench.plan import check_dims_used, check_names, plan_cells
from edgeprof.bench.report import Measurement, Report, build_report
from edgeprof.bench.selection import Selection
from edgeprof.bench.suite import load_suite
from edgeprof.core.errors import EdgeprofError, UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.core.types import BenchCase
from edgeprof.devices.base import DEVICES
from edgeprof.operators.registry import OPERATORS
from edgeprof.store import Store


def stored_reports(store: Store, selection: Selection, *, suite: str | None, device: str | None) -> list[Report]:
    """One report for each device: every stored case, or the cells of ``suite``, as far as ``selection`` asks for them.

    Unlike in a plan, what is selected filters and replaces nothing. Ratios, drift and the noise floor are those before
    filtering: a filter does not change a figure. Cells of the suite that were never measured are ``missing`` rows.

    Raises:
        UsageError: a name is unknown, no operator has a dimension, the device has no results, or the store is corrupt.
    """
    check_names(selection)
    check_dims_used(selection, set(OPERATORS))
    cells = None if suite is None else suite_cases(suite)
    reports = []
    for device_id in device_ids(store, device):
        report = build_report(device_id, store.records(device_id), cells)
        rows = [_told_where(m, suite) for m in report.measurements if wanted(m.case, selection)]
        reports.append(replace(report, measurements=tuple(sorted(rows, key=lambda m: reading_order(m.case)))))
    return reports


def device_ids(store: Store, device: str | None, error: type[EdgeprofError] = UsageError) -> list[str]:
    """The stored devices, or the one asked for; ``local`` is this machine. An empty store has none, whatever is asked.

    Raises:
        EdgeprofError: of the given kind: the store has results, but none of ``device``.
    """
    stored = store.devices()
    if device is None or not stored:
        return stored
    wanted_id = DEVICES.get(device).profile().id if device in DEVICES else device
    if wanted_id not in stored:
        raise error(f"device: no results of {wanted_id!r} in {store.root}: {did_you_mean(wanted_id, stored)}")
    return [wanted_id]


def suite_cases(suite: str) -> list[BenchCase]:
    """The cells of a suite, whether or not they would fit this machine.

    Raises:
        UsageError: the suite cannot be read.
    """
    return plan_cells(load_suite(suite), Selection(suite=suite))


def wanted(case: BenchCase, selection: Selection) -> bool:
    """Whether a case is among those selected; a dimension narrows only the operators that have it."""
    chosen: tuple[tuple[object, Sequence[object] | None], ...] = (
        (case.op, selection.ops),
        (case.runtime, selection.runtimes),
        (case.kv_dtype, selection.kv_dtypes),
        (case.phase, selection.phases),
        (case.q_len, selection.q_lens),
        (case.kv_len, selection.kv_lens),
        (case.batch, selection.batches),
        (case.n_threads, selection.threads),
        (case.cache_state, selection.cache_states),
        (case.ring_bytes, selection.ring_bytes),
        *((case.dims[name], values) for name, values in selection.dims.items() if name in case.dims),
    )
    names = selection.dtypes
    dtype_wanted = names is None or case.dtype in names or f"{case.dtype}/{case.kv_dtype}" in names
    return dtype_wanted and all(values is None or value in values for value, values in chosen)


def reading_order(case: BenchCase) -> tuple[object, ...]:
    """Sorts cases as one reads them: decode before prefill, by shape, then by runtime, format and operator."""
    c = case
    return (
        c.phase, c.kv_len, c.q_len, c.batch, c.n_threads, c.cache_state, c.ring_bytes or 0,
        c.runtime, c.dtype, c.kv_dtype, list(OPERATORS).index(c.op), sorted(c.dims.items()),
    )  # fmt: skip


def single_operators(report: Report, selection: Selection) -> Report:
    """The report without the rows that stand for parts of models, unless operators are asked for by name.

    Each model brings dozens of them, every one in a ring of its own.
    """
    if selection.ops is not None:
        return report
    return replace(report, measurements=tuple(m for m in report.measurements if not m.of_model))


def _told_where(row: Measurement, suite: str | None) -> Measurement:
    """A missing row says which command measures it."""
    if row.status != "missing":
        return row
    suffix = "" if suite is None else f" --suite {suite}"
    command = "predict --measure" if row.of_model else f"bench{suffix}"
    return replace(row, reason=f"not measured; edgeprof {command} measures it")
