"""Finalists: the best few layouts get a more thorough score, are built as whole models, and must keep the budgets as measured."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgeprof.core.canonical import short_hash
from edgeprof.models.config import ArchConfig, config_to_json
from edgeprof.predict.types import ModelCall, Target, VerifyRow
from edgeprof.search.budgets import Budget
from edgeprof.search.costs import Costs, Figure
from edgeprof.search.linear import Layout
from edgeprof.search.objective import Objective, Score, Stage

if TYPE_CHECKING:
    from optuna import Study

STAGE2 = "stage2"
"""Prefix of the study's attributes that hold finalists' scores: what was trained once is not trained again."""

VerifyModel = Callable[[str, Target, Sequence[ModelCall]], list[VerifyRow] | None]
"""Builds a whole model and measures it beside its cells on the device that budgets call so; rows of an earlier time count
where they still hold. None where that device is not at hand."""

VerifyModels = Callable[[str, Sequence[Target], Sequence[ModelCall]], list[list[VerifyRow]] | None]
"""The same of several models, in turns in one session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A budget's figure of a finalist: predicted with its upper end, and measured where it is a matter of time or memory.

    ``measured`` is the exact value of parameters, state and file size; ``ci95`` its interval where it is a time (of several
    calls the sum of the bounds, which is wider than need be). ``disagrees`` says that the measured value lies outside the
    prediction's interval, ``only_predicted`` that nobody wanted it measured, or that its device is not at hand.
    """

    budget: Budget
    predicted: float | None
    upper: float | None
    measured: float | None
    ci95: tuple[float, float] | None = None
    disagrees: bool = False
    only_predicted: bool = False

    @property
    def kept(self) -> bool:
        """Whether the limit is kept as measured; a measurement that failed keeps nothing."""
        decisive = self.upper if self.only_predicted else self.measured
        return decisive is not None and decisive <= self.budget.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """A layout with its score and its budgets; ``failed`` says why it has no measurement.

    The score is that of the final stage. Where an objective has no such stage, it is what all trials together say of the
    layout: one more score would crown the luckiest.
    """

    layout: Layout
    config: ArchConfig
    score: Score
    budgets: tuple[Kept, ...]
    failed: str | None = None

    @property
    def keeps(self) -> bool:
        """Whether all budgets are kept as measured."""
        return all(kept.kept for kept in self.budgets)


def second_stage(study: "Study", objective: Objective, config: ArchConfig, stage: Stage, seed: int) -> Score:
    """The score of the final stage, from the study if it was computed before under the same conditions."""
    conditions = f"{config_to_json(config)} {stage} {seed}"
    key = f"{STAGE2}:{short_hash(conditions)}"
    stored = study.user_attrs.get(key)
    if stored is not None:
        return Score(**stored)
    score = objective.score(config, seed=seed, budget=stage, report=lambda _step, _value: None)
    study.set_user_attr(key, {**asdict(score), "parts": dict(score.parts)})
    return score


def measured_budgets(costs: Costs, layout: Layout, verify: VerifyModel | None) -> tuple[Kept, ...]:
    """Every budget of a layout, those of time and memory measured on the whole model; one build serves all of a target's."""
    figures = costs.figures(layout)
    rows = _verified(costs, layout, verify)
    found = []
    for budget in costs.budgets:
        figure = figures[budget.name]
        of_target = None if budget.is_static else rows[budget.target_key]
        measured, ci95 = (figure.value if budget.is_static else None), None
        if of_target is not None:
            measured, ci95 = _measured(budget, costs.calls_of(budget), of_target)
        found.append(
            Kept(
                budget=budget,
                predicted=figure.value,
                upper=figure.upper,
                measured=measured,
                ci95=ci95,
                disagrees=measured is not None and not _within(figure, measured),
                only_predicted=not budget.is_static and of_target is None,
            )
        )
    return tuple(found)


def why_failed(budgets: Sequence[Kept]) -> str | None:
    """Why a finalist has no measurement that was wanted; None where it has all."""
    lacking = [kept.budget.name for kept in budgets if kept.measured is None and not kept.only_predicted]
    return f"no measurement of {', '.join(lacking)}" if lacking else None


def _verified(costs: Costs, layout: Layout, verify: VerifyModel | None) -> dict[Any, list[VerifyRow] | None]:
    """The rows of the whole model, by target; None of targets whose device is not at hand."""
    rows: dict[Any, list[VerifyRow] | None] = {}
    for budget in costs.budgets:
        if budget.is_static or budget.target_key in rows:
            continue
        target = costs.make_target(budget, costs.space.config(layout))
        rows[budget.target_key] = (
            None if verify is None else verify(budget.device, target, _calls_of_target(costs, budget))
        )
    return rows


def _calls_of_target(costs: Costs, budget: Budget) -> list[ModelCall]:
    """The calls of all budgets of this one's target."""
    same = [b for b in costs.budgets if not b.is_static and b.target_key == budget.target_key]
    return list(dict.fromkeys(call for b in same for call in costs.calls_of(b)))


def measured_side_by_side(costs: Costs, layouts: Sequence[Layout], verify: VerifyModels) -> list[tuple[Kept, ...]]:
    """Every budget of each layout, all of them measured in turns in one session, whose drift they share; equal ones once."""
    rows: dict[tuple[str, Target], list[VerifyRow] | None] = {}
    for budget in {b.target_key: b for b in costs.budgets if not b.is_static}.values():
        targets = list(dict.fromkeys(costs.make_target(budget, costs.space.config(layout)) for layout in layouts))
        found = verify(budget.device, targets, _calls_of_target(costs, budget))
        rows |= {(budget.device, target): found[i] if found else None for i, target in enumerate(targets)}
    return [measured_budgets(costs, layout, lambda device, target, _: rows[device, target]) for layout in layouts]


def _within(figure: Figure, measured: float) -> bool:
    """Whether a measured value lies in the interval that was predicted; an unknown one says nothing."""
    return figure.lower is None or figure.upper is None or figure.lower <= measured <= figure.upper


def _measured(
    budget: Budget, calls: Sequence[ModelCall], rows: Sequence[VerifyRow]
) -> tuple[float | None, tuple[float, float] | None]:
    """What the whole model took in a budget's calls: the sum of times with its interval, the largest peak.

    None where a call has no row.
    """
    matching = list(_rows_of(budget, calls, rows))
    known = [row for row in matching if row is not None]
    if not known or len(known) < len(matching):
        return None, None
    values = [row.measured_ns for row in known]
    if budget.metric == "peak_memory":
        return max(values), None
    bounds = [row.measured_ci95_ns for row in known if row.measured_ci95_ns is not None]
    ci95 = (sum(low for low, _ in bounds), sum(high for _, high in bounds)) if len(bounds) == len(known) else None
    return sum(values), ci95


def _rows_of(budget: Budget, calls: Sequence[ModelCall], rows: Sequence[VerifyRow]) -> Iterator[VerifyRow | None]:
    """For each call its paired row; of peak memory those calls that a probe could tell something of."""
    for call in calls:
        same = [r for r in rows if r.paired and (r.q_len, r.context) == (call.q_len, call.kv_len)]
        if budget.metric == "peak_memory":
            yield from [row for row in same if row.phase == "memory"]
        else:
            yield next((row for row in same if row.phase == call.phase), None)


def choose_winner(finalists: Sequence[Finalist], *, maximise: bool) -> Finalist | None:
    """The best finalist, by the final stage's score, of those that keep their budgets as measured."""
    keeping = [finalist for finalist in finalists if finalist.keeps]
    sign = 1 if maximise else -1
    return max(keeping, key=lambda finalist: sign * finalist.score.value, default=None)


def disagreements(finalists: Sequence[Finalist]) -> Mapping[str, list[str]]:
    """By budget the finalists whose measurement lies outside the prediction's interval."""
    found: dict[str, list[str]] = {}
    for finalist in finalists:
        for kept in finalist.budgets:
            if kept.disagrees:
                found.setdefault(kept.budget.name, []).append(finalist.config.pattern)
    return found
