"""Trials of a search: a layout is proposed, held against the budgets, and only then trained and scored."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeprof.core.errors import UsageError
from edgeprof.search.costs import Costs, Figure
from edgeprof.search.linear import Layout
from edgeprof.search.liveness import at_work, release_lost, running
from edgeprof.search.objective import Direction, Objective, ObjectiveError, Score, Stage
from edgeprof.search.study import CELLS, FAILED, PARTS, PREDICTED, REJECTED, SCORE_SE, SECONDS, n_counted, scored

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial, TrialState

logger = logging.getLogger(__name__)

REJECTIONS_IN_A_ROW = 200
"""A sampler that proposes so many layouts beyond the budgets one after another does not learn them."""

FAILURES_AT_FIRST = 3
"""An objective that fails so often before the first score is broken, not its layouts."""

FAILURES_IN_A_ROW = 20
"""So is one that stops working; what it fails on among layouts that it scores is no reason to stop."""

POLL_S = 0.5
"""Seconds between looks at other workers' trials."""


class NothingProposedError(UsageError):
    """The sampler proposes nothing that keeps the budgets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a worker needs to do trials: what layouts cost, how good they are, and what else is minimised."""

    costs: Costs
    objective: Objective
    stage: Stage
    seed: int
    also: tuple[str, ...] = ()

    @property
    def maximise(self) -> bool:
        """Whether more quality is a larger number."""
        return self.objective.direction == "maximize"

    @property
    def directions(self) -> list[Direction]:
        """The study's directions: the quality's own, and down for everything else."""
        others: list[Direction] = ["minimize"] * len(self.also)
        return [self.objective.direction, *others]


@dataclass(slots=True)
class _InARow:
    """How many trials came to nothing one after another."""

    rejected: int = 0
    failed: list[str] = field(default_factory=list)

    def add(self, trial: "FrozenTrial") -> None:
        """Counts a trial, or begins anew where it came to something."""
        self.rejected = self.rejected + 1 if REJECTED in trial.user_attrs else 0
        if FAILED in trial.user_attrs:
            self.failed.append(str(trial.user_attrs[FAILED]))
        elif REJECTED not in trial.user_attrs:
            self.failed.clear()

    def check(self, study: "Study") -> None:
        """Checks that going on is not in vain.

        Raises:
            NothingProposedError: the sampler does not find what keeps the budgets.
            ObjectiveError: the objective is broken.
        """
        if self.rejected >= REJECTIONS_IN_A_ROW:
            raise NothingProposedError(
                f"--sampler: proposed {self.rejected} layouts beyond the budgets one after another; use additive, or relax a "
                "budget"
            )
        most = FAILURES_IN_A_ROW if scored(study) else FAILURES_AT_FIRST
        if len(self.failed) >= most:
            raise ObjectiveError(
                f"{self.failed[-1]} ({len(self.failed)} trials in a row failed; mend it, and the same command goes on)"
            )


def run_trials(
    study: "Study", problem: Problem, n_trials: int, on_trial: "Callable[[FrozenTrial], None]" = lambda _: None
) -> None:
    """Does trials until the study has ``n_trials``, whoever did them, and nobody is at one. An interruption costs its trial.

    Raises:
        NothingProposedError: the sampler proposes nothing that keeps the budgets.
        ObjectiveError: the objective fails again and again; a single layout that it fails on is stored as failed.
    """
    from optuna.exceptions import UpdateFinishedTrialError

    in_a_row = _InARow()
    while True:
        release_lost(study)
        if n_counted(study) < n_trials:
            try:
                done = one_trial(study, problem, n_trials)
            except UpdateFinishedTrialError:
                logger.warning(
                    "another process took this worker for dead, and has ended its trial; going on with the next"
                )
                continue
            if done is None:
                continue
            in_a_row.add(done)
            on_trial(done)
            in_a_row.check(study)
        elif running(study):
            time.sleep(POLL_S)  # should its worker die, or its layout break a budget, there is one more to do
        else:
            return


def one_trial(study: "Study", problem: Problem, n_trials: int | None = None) -> "FrozenTrial | None":
    """Asks for a layout and tells what it is worth; one beyond a budget is not trained.

    None where other workers' trials already make ``n_trials``.
    """
    from optuna.trial import TrialState

    trial = study.ask()
    try:
        with at_work(trial):
            if n_trials is not None and n_counted(study, before=trial.number) >= n_trials:
                study.tell(trial, state=TrialState.FAIL)
                return None
            parameters = problem.costs.space.parameters
            layout = {name: str(trial.suggest_categorical(name, choices)) for name, choices in parameters.items()}
            state, values = _judged(study, trial, problem, layout)
        return study.tell(trial, values, state)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise


def _judged(
    study: "Study", trial: "Trial", problem: Problem, layout: Layout
) -> "tuple[TrialState, list[float] | None]":
    """What to tell of a layout. A failure of the objective is stored with its reason."""
    from optuna.exceptions import TrialPruned
    from optuna.trial import TrialState

    if not _within_budgets(trial, problem.costs, layout):
        return TrialState.PRUNED, None
    try:
        score = _score(trial, problem, layout, single=len(study.directions) == 1)
    except TrialPruned:
        return TrialState.PRUNED, None
    except ObjectiveError as error:
        trial.set_user_attr(FAILED, str(error))
        logger.warning("trial %d has no score: %s", trial.number, error)
        return TrialState.FAIL, None
    figures = problem.costs.figures(layout)
    return TrialState.COMPLETE, [score.value, *(_expected(figures[name]) for name in problem.also)]


def _within_budgets(trial: "Trial", costs: Costs, layout: Layout) -> bool:
    """Writes the figures that a layout is predicted to have into its trial, and says whether it is worth training."""
    figures = costs.figures(layout)
    broken = costs.space.broken_rules(layout)
    trial.set_constraint("rules", float(len(broken)))
    for name, figure in figures.items():
        trial.set_constraint(name, min(figure.excess, 1e9))
    trial.set_user_attr(PREDICTED, {name: [f.value, f.upper] for name, f in figures.items()})
    trial.set_user_attr(CELLS, sorted({key for f in figures.values() for key in f.cells}))
    if broken or any(figure.excess > 0 for figure in figures.values()):
        trial.set_user_attr(REJECTED, True)
        return False
    return True


def _score(trial: "Trial", problem: Problem, layout: Layout, *, single: bool) -> Score:
    """Trains and scores; in a study of quality alone a trial that is clearly worse than the best one ends early.

    Raises:
        ObjectiveError: the objective fails, or its score is no number.
    """
    from optuna.exceptions import TrialPruned

    def report(step: int, value: float) -> None:
        if single:
            trial.report(value, step)
            if trial.should_prune():
                raise TrialPruned

    config = problem.costs.space.config(layout)
    score = problem.objective.score(config, seed=problem.seed, budget=problem.stage, report=report)
    if not math.isfinite(score.value):
        raise ObjectiveError(
            f"objective {problem.objective.name:.200}: {config.pattern:.80}: its score is {score.value}"
        )
    for name, value in ((SCORE_SE, score.se), (SECONDS, score.seconds), (PARTS, dict(score.parts))):
        trial.set_user_attr(name, value)
    return score


def _expected(figure: Figure) -> float:
    assert figure.value is not None, "a layout within its budgets has all figures"
    return figure.value
