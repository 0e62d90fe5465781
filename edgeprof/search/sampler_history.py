"""What a study's trials say, read afresh for every proposal: nothing that a sampler knows lies anywhere else."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from edgeprof.search.sampler_levels import Axis
from edgeprof.search.study import FAILED, SCORE_SE

FIXED_PARAMS = "fixed_params"
"""Where Optuna keeps the parameters of an enqueued trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A finished trial as a layout, its values so that more is better, and their standard errors where they are known."""

    number: int
    layout: dict[str, str]
    values: tuple[float, ...]
    ses: tuple[float | None, ...]
    keeps_constraints: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """``completed`` trials, ``pruned`` ones with a value that stands in for theirs, and the layouts that are ``taken``.

    Taken are layouts of completed, pruned, running and enqueued trials, and those that an objective failed to score: none is
    proposed again while there are others. Other failed trials are left out, as in every Optuna sampler; so are values that are
    not finite. A trial that was pruned because it
    breaks a constraint says nothing of its value, and is taken only.
    """

    n_objectives: int
    completed: tuple[Observation, ...]
    pruned: tuple[Observation, ...]
    taken: tuple[dict[str, str], ...]

    @property
    def observations(self) -> tuple[Observation, ...]:
        """All that a surrogate learns from."""
        return self.completed + self.pruned


def read_history(study: Study, axes: Mapping[str, Axis], *, but: int | None = None) -> History:
    """The history of a study over these parameters; trials that lack one of them are left out, as is the trial ``but``."""
    completed, pruned, curves, taken = [], [], [], []
    signs = [1.0 if d == StudyDirection.MAXIMIZE else -1.0 for d in study.directions]
    for trial in study.get_trials(deepcopy=False):
        if trial.number == but or (trial.state == TrialState.FAIL and FAILED not in trial.user_attrs):
            continue
        layout = layout_of(trial, axes)
        if layout is None:
            continue
        taken.append(layout)
        if trial.state == TrialState.COMPLETE and all(math.isfinite(value) for value in trial.values):
            completed.append(_observation(trial, layout, signs))
            curves.append(_curve(trial, signs[0]))
        elif trial.state == TrialState.PRUNED and _keeps_constraints(trial):
            pruned.append((trial.number, layout, _curve(trial, signs[0])))
    stand_ins = _stand_ins(pruned, completed, curves) if len(signs) == 1 else ()
    return History(n_objectives=len(signs), completed=tuple(completed), pruned=stand_ins, taken=tuple(taken))


def layout_of(trial: FrozenTrial, axes: Mapping[str, Axis]) -> dict[str, str] | None:
    """A trial's layout; None where it lacks a parameter or has a value that its distribution does not allow."""
    params = {**trial.system_attrs.get(FIXED_PARAMS, {}), **trial.params}
    layout = {name: axis.choice_of(params[name]) for name, axis in axes.items() if name in params}
    known = {name: choice for name, choice in layout.items() if choice is not None}
    return known if len(known) == len(axes) else None


def _observation(trial: FrozenTrial, layout: dict[str, str], signs: Sequence[float]) -> Observation:
    return Observation(
        number=trial.number,
        layout=layout,
        values=tuple(sign * value for sign, value in zip(signs, trial.values, strict=True)),
        ses=_ses(trial.user_attrs.get(SCORE_SE), len(signs)),
        keeps_constraints=_keeps_constraints(trial),
    )


def _keeps_constraints(trial: FrozenTrial) -> bool:
    return all(value <= 0 for value in trial.constraints.values())


def _ses(given: Any, n_objectives: int) -> tuple[float | None, ...]:
    """The standard errors that a trial's attribute gives, a number or one for each objective.

    A single number is the first objective's; what is no such number is not known.
    """
    listed = list(given) if isinstance(given, list | tuple) else [given]
    listed = (listed + [None] * n_objectives)[:n_objectives]
    return tuple(
        float(se) if isinstance(se, int | float) and not isinstance(se, bool) and 0 <= se < math.inf else None
        for se in listed
    )


Curve = Mapping[int, float]
"""What a trial reported on its way, by step, so that more is better."""


def _curve(trial: FrozenTrial, sign: float) -> Curve:
    return {step: sign * value for step, value in trial.intermediate_values.items() if math.isfinite(value)}


def _stand_ins(
    pruned: Sequence[tuple[int, dict[str, str], Curve]], completed: Sequence[Observation], curves: Sequence[Curve]
) -> tuple[Observation, ...]:
    """Pruned trials with the values that they were on their way to.

    Of each completed trial that reported at the same steps: its value, and by how much the pruned one was ahead of it there on
    average; the median of these. One that reported nothing to compare gets the value that a quarter of the completed ones falls
    below: what a pruner stopped was no better than most. Left out, pruned layouts would teach nothing and their neighbours be
    proposed again and again: where all layouts with one choice are pruned, some 25 of 40 trials went there instead of 7.
    """
    if not completed:
        return ()
    low = float(np.quantile([o.values[0] for o in completed], 0.25))
    found = []
    for number, layout, curve in pruned:
        expected = [
            o.values[0] + statistics.fmean(curve[step] - other[step] for step in curve)
            for o, other in zip(completed, curves, strict=True)
            if curve and curve.keys() <= other.keys()
        ]
        value = statistics.median(expected) if expected else low
        found.append(Observation(number=number, layout=layout, values=(value,), ses=(None,)))
    return tuple(found)
