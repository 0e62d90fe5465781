"""A whole search: trials, then finalists as measured, and again where predictions were wrong, until one keeps its budgets."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgeprof.core.canonical import canonical_json, short_hash
from edgeprof.core.errors import UsageError
from edgeprof.predict.predict import Knowledge
from edgeprof.search.costs import Costs
from edgeprof.search.finalists import (
    Finalist,
    VerifyModel,
    choose_winner,
    measured_budgets,
    second_stage,
    why_failed,
)
from edgeprof.search.linear import Layout, Parameters
from edgeprof.search.objective import ObjectiveError, Score, Stage
from edgeprof.search.study import layout_of, n_counted, scored, trained
from edgeprof.search.surrogate import Posterior
from edgeprof.search.surrogate_features import Features
from edgeprof.search.trials import NothingProposedError, Problem, run_trials

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)

FINALIST = "finalist"
"""Prefix of the study's attributes that say which layouts were measured as whole models."""

ROUNDS = 3
"""Rounds of finalists: after the first, predictions have been corrected by whole models measured on the device twice."""

MORE_TRIALS = 0.25
"""Trials that a further round adds, as a share of those asked for."""

Helpers = Callable[[int], AbstractContextManager[None]]
"""Other processes that do trials until there are so many, for the time of a block: nothing may be measured beside them."""


class Reporter(Protocol):
    """Where progress goes."""

    def stage(self, name: str, total: int) -> None:
        """A stage of ``total`` steps begins."""

    def step(self, label: str) -> None:
        """One step is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to do: trials, finalists, and the stage that finalists are scored in."""

    n_trials: int
    n_finalists: int
    final_stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Every finalist, best first, and the winner, if one keeps its budgets as measured."""

    finalists: tuple[Finalist, ...]
    winner: Finalist | None


def search(
    study: "Study",
    problem: Problem,
    plan: Plan,
    *,
    verify: VerifyModel | None,
    relearn: Callable[[], Mapping[str, Knowledge]],
    reporter: Reporter,
    helpers: Helpers = lambda _: nullcontext(),
) -> Outcome:
    """Runs the search to its end. Without ``verify`` nothing is measured: the best finalist wins by its predictions.

    Whole models that disagree with their predictions enter the device's error history; ``relearn`` reads it, and layouts
    that the corrected predictions rule out are finalists no more.

    Raises:
        ObjectiveError: the objective fails again and again, or on all finalists.
        NothingProposedError, NoFeasibleLayoutError: the sampler finds nothing that keeps the budgets.
    """
    from edgeprof.search.sampler_proposal import NoFeasibleLayoutError

    finalists: dict[str, Finalist] = {}
    before = measured_before(study)
    may_try_more = True
    for number in range(ROUNDS):
        n_trials = round(plan.n_trials * (1 + number * MORE_TRIALS))
        try:
            with helpers(n_trials):
                run_all(study, problem, n_trials, reporter)
        except (NothingProposedError, NoFeasibleLayoutError) as error:
            if not finalists and not before:
                raise
            logger.warning("nothing is left to try after predictions were corrected: %s", error)
            may_try_more = False
        best = best_layouts(study, problem.costs, plan.n_finalists)
        wanted = _distinct([*before, *best])[: max(len(before), plan.n_finalists)] if number == 0 else best
        fresh = [layout for layout in wanted if canonical_json(layout) not in finalists]
        if not fresh and not may_try_more:
            break
        if not fresh:
            logger.warning("none of the layouts tried so far is left to measure by what is predicted now")
            continue
        finalists |= _finalists(study, problem, plan, fresh, verify, reporter)
        problem.costs.learn(relearn())
        if verify is None or choose_winner(list(finalists.values()), maximise=problem.maximise) is not None:
            break
    ordered = sorted(finalists.values(), key=lambda f: f.score.value, reverse=problem.maximise)
    return Outcome(finalists=tuple(ordered), winner=choose_winner(ordered, maximise=problem.maximise))


def measured_before(study: "Study") -> list[Layout]:
    """The layouts that an earlier run of the search built and measured: these count, whatever is predicted of them by now."""
    known = {finalist_attr(layout_of(trial)): layout_of(trial) for trial in trained(study)}
    return [layout for name, layout in known.items() if name in study.user_attrs]


def finalist_attr(layout: Layout) -> str:
    """The study's attribute that says that a layout was measured as a whole model."""
    return f"{FINALIST}:{short_hash(canonical_json(layout))}"


def _distinct(layouts: Sequence[Layout]) -> list[Layout]:
    return list({canonical_json(layout): layout for layout in layouts}.values())


def run_all(study: "Study", problem: Problem, n_trials: int, reporter: Reporter) -> None:
    """Trials until the study has so many, with progress; what other workers do counts as well."""
    import torch

    torch.set_num_threads(1)  # a twin is too small to share: two threads take as long, and the CPU time of two
    seen = n_counted(study)
    if seen < n_trials:
        reporter.stage("search", n_trials - seen)

    def on_trial(_trial: "FrozenTrial") -> None:
        nonlocal seen
        now = min(n_counted(study), n_trials)
        for _ in range(now - seen):
            reporter.step(trial_label(study, problem))
        seen = max(seen, now)

    run_trials(study, problem, n_trials, on_trial)


def trial_label(study: "Study", problem: Problem) -> str:
    """The best trial so far, in a few words."""
    done = scored(study)
    if not done:
        return "no score yet"
    sign = 1 if problem.maximise else -1
    best = max(done, key=lambda t: sign * t.values[0])
    pattern = problem.costs.space.config(layout_of(best)).pattern
    return f"best {best.values[0]:.3f} {pattern}, {len(done)} scored"


def best_layouts(study: "Study", costs: Costs, n: int) -> list[Layout]:
    """The best ``n`` layouts tried that keep all budgets, by the surrogate's posterior mean: not by the luckiest score.

    Those that were pruned take part, as a pruner compares with the best trial alone: what was a little behind it may be the
    second best.
    """
    trials = [t for t in trained(study) if costs.keeps(layout_of(t))] if scored(study) else []
    layouts = _distinct([layout_of(t) for t in trials])
    posterior = quality_posterior(study, costs.space.parameters)
    sign = -1 if study.directions[0].name == "MAXIMIZE" else 1
    return sorted(layouts, key=lambda layout: sign * posterior.mean(layout))[:n]


def quality_posterior(study: "Study", parameters: Parameters) -> Posterior:
    """What is believed of every layout's quality after the study's trials, those that were pruned on their way included."""
    from optuna.distributions import CategoricalDistribution

    from edgeprof.search.sampler_history import read_history
    from edgeprof.search.sampler_levels import make_axes

    axes = make_axes({name: CategoricalDistribution(tuple(own)) for name, own in parameters.items()})
    observations = read_history(study, axes).observations
    sign = 1 if study.directions[0].name == "MAXIMIZE" else -1
    return Posterior.fit(
        Features(parameters),
        [o.layout for o in observations],
        [sign * o.values[0] for o in observations],
        [o.ses[0] for o in observations],
    )


def _finalists(
    study: "Study",
    problem: Problem,
    plan: Plan,
    layouts: Sequence[Layout],
    verify: VerifyModel | None,
    reporter: Reporter,
) -> dict[str, Finalist]:
    """The layouts as finalists, by their JSON; one that the final stage fails on is told, and none.

    Raises:
        ObjectiveError: it fails on all of them.
    """
    reporter.stage("finalists", len(layouts))
    found: dict[str, Finalist] = {}
    for layout in layouts:
        try:
            found[canonical_json(layout)] = one = _finalist(study, problem, plan, layout, verify)
        except ObjectiveError as error:
            if layout is layouts[-1] and not found:
                raise
            logger.warning("a finalist has no score: %s", error)
            reporter.step("failed")
        else:
            reporter.step(one.config.pattern)
    return found


def _finalist(study: "Study", problem: Problem, plan: Plan, layout: Layout, verify: VerifyModel | None) -> Finalist:
    config = problem.costs.space.config(layout)
    if plan.final_stage == problem.stage:
        posterior = quality_posterior(study, problem.costs.space.parameters)
        score = Score(value=posterior.mean(layout), se=posterior.sd(layout), seconds=0.0, parts={})
    else:
        score = second_stage(study, problem.objective, config, plan.final_stage, problem.seed)
    failed = None
    try:
        budgets = measured_budgets(problem.costs, layout, verify)
    except UsageError as error:  # a model that does not fit the device, or that its runtime refuses
        failed = str(error)
        budgets = measured_budgets(problem.costs, layout, lambda *_: [])
    else:
        if verify is not None:
            study.set_user_attr(finalist_attr(layout), True)
    return Finalist(layout=layout, config=config, score=score, budgets=budgets, failed=failed or why_failed(budgets))
