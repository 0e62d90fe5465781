"""The budgets of ``edgeprof-accepted.toml``: whole models measured by the code of ``edgeprof verify`` and held against limits."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from edgeprof.predict.types import Target, VerifyRow
    from edgeprof.regress.project_file import BudgetLine
    from edgeprof.regress.result import BudgetResult
    from edgeprof.search.budgets import Budget

PHASES = {"tpot": "decode", "ttft": "prefill", "peak_memory": "memory"}
"""The phase of verify's rows that holds a metric's measured value."""


def measure_budgets(lines: "Sequence[BudgetLine]", results: Path | None) -> "list[BudgetResult]":
    """Every limit that holds on this device, measured unless verify has done so under the same conditions.

    Raises:
        UsageError: a limit, a name or a config is wrong: names the table.
    """
    from edgeprof.cli.targets import find_place
    from edgeprof.store import Store, results_root

    store = Store(results_root(results))
    place = find_place("local", store)
    mine = [line for line in lines if line.device in (None, place.device_id)]
    parsed = [(line, limits_of(line), target_of(line)) for line in mine]
    return [result for line, limits, target in parsed for result in _measure(line, limits, target, store)]


def limits_of(line: "BudgetLine") -> "list[Budget]":
    """The limits of a table, checked.

    Raises:
        UsageError: one is none.
    """
    from edgeprof.search.budgets import parse_budget

    return [parse_budget(metric, text, field=f"{line.field}.max_{metric}") for metric, text in line.limits.items()]


def target_of(line: "BudgetLine") -> "Target":
    """The model in the place that a table names.

    Raises:
        UsageError: a name or the config is wrong.
    """
    from edgeprof.cli.targets import make_target
    from edgeprof.models.config import load_config

    try:
        return make_target(load_config(line.config), line.runtime, line.dtype, line.n_threads)
    except UsageError as error:
        raise UsageError(f"{line.field}: {error}") from None


def _measure(line: "BudgetLine", limits: "Sequence[Budget]", target: "Target", store: object) -> "list[BudgetResult]":
    from edgeprof.bench.protocol import protocol_for
    from edgeprof.cli.targets import find_place, why_not
    from edgeprof.cli.verify import verify_model
    from edgeprof.predict.verify import verify_calls
    from edgeprof.regress.result import judge_budget
    from edgeprof.store import Store

    assert isinstance(store, Store)
    contexts = sorted({b.at for b in limits if b.metric != "ttft" and b.at is not None}) or [DEFAULT_CONTEXT]
    prompts = sorted({b.at for b in limits if b.metric == "ttft" and b.at is not None})
    calls = verify_calls(contexts, prompts)
    reason = why_not(target, calls)
    if reason is not None:
        return [judge_budget(f"{line.config} {b.name}", b.limit, None, None, reason) for b in limits]
    rows = verify_model(target, calls, find_place("local", store), store, protocol_for("quick"))
    return [budget_result(line, budget, rows) for budget in limits]


DEFAULT_CONTEXT = 1024
"""The context of a limit on peak memory that names none, as verify's."""


def budget_result(line: "BudgetLine", budget: "Budget", rows: "Sequence[VerifyRow]") -> "BudgetResult":
    """A limit against the model's own measured value; of several rows, the least favourable one."""
    from edgeprof.regress.result import judge_budget

    name = f"{line.config} {budget.name}"
    mine = [
        row for row in rows if row.phase == PHASES[budget.metric] and (budget.at is None or row.context == budget.at)
    ]
    if not mine:
        return judge_budget(name, budget.limit, None, None, "verify has no measured value of it")
    worst = max(mine, key=lambda row: row.measured_ns)
    return judge_budget(name, budget.limit, worst.measured_ns, worst.measured_ci95_ns)
