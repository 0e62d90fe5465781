"""What a stored study shows: its trials by kind, its best layouts, quality against each budget's figure, and the baselines.

Everything is read from what the trials store, so that a study can be reported where its devices' records are not at hand.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgeprof.core.canonical import canonical_json
from edgeprof.models.config import ArchConfig
from edgeprof.search.baselines import BASELINE, baseline_layouts
from edgeprof.search.budgets import Budget
from edgeprof.search.costs import Costs
from edgeprof.search.importance import (
    Importance,
    NeighbourEffect,
    exchange_effects,
    neighbour_effects,
    optuna_shares,
)
from edgeprof.search.linear import Layout
from edgeprof.search.run import quality_posterior
from edgeprof.search.space import Space
from edgeprof.search.study import PREDICTED, REJECTED, SCORE_SE, layout_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from edgeprof.search.surrogate import Posterior

Kind = Literal["scored", "pruned", "ruled_out", "failed", "running", "waiting", "untried"]

KINDS: tuple[Kind, ...] = ("scored", "pruned", "ruled_out", "failed", "running", "waiting")
"""What a trial can be. ``pruned`` was trained and given up early; ``ruled_out`` broke a budget or a rule and was never trained;
``failed`` ended without a score: by an error, an interruption, or because its worker was lost."""

TRAINED: tuple[Kind, ...] = ("scored", "pruned")
"""Those that something is known of, and that may be finalists: a pruned one counts with the value that it was on its way to."""

Predicted = tuple[float | None, float | None]
"""A budget's figure: expected, and the upper end that must keep the limit; None where a cell had no measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A layout with what is known of it; ``untried`` is a baseline without a trial, which has no ``number``.

    ``score`` is the one that its trial got, ``expected`` what the surrogate expects after all trials, with the standard
    deviation of that belief. ``breaks`` names the budgets whose upper end is beyond the limit, and the rules that are broken;
    ``unknown`` the budgets without a figure.
    """

    kind: Kind
    number: int | None
    layout: Layout
    config: ArchConfig
    score: float | None = None
    score_se: float | None = None
    expected: float | None = None
    expected_sd: float | None = None
    figures: Mapping[str, Predicted]
    breaks: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    baseline: str | None = None

    @property
    def keeps(self) -> bool:
        """Whether every budget and rule is known to be kept."""
        return not self.breaks and not self.unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A study. ``best`` has the best expected quality, ``luckiest`` the best single score; None before the first score.

    ``fronts`` holds, by budget, the trained layouts that no other one beats in both expected quality and that budget's expected
    figure, cheapest first. ``ruled_out_by`` counts by budget or rule what ruled proposals out; one may be ruled out by several.
    ``tried`` are the distinct layouts that were trained or ruled out. ``pareto`` are the numbers of the trials that no other
    trial beats in all objectives, of a study with several.
    """

    study: str
    space: Space
    budgets: tuple[Budget, ...]
    maximise: bool
    counts: Mapping[Kind, int]
    ruled_out_by: Mapping[str, int]
    tried: tuple[Tried, ...]
    best: Tried | None
    luckiest: Tried | None
    fronts: Mapping[str, tuple[Tried, ...]]
    pareto: tuple[int, ...]
    importances: tuple[Importance, ...]
    neighbours: tuple[NeighbourEffect, ...]
    baselines: tuple[Tried, ...]

    def find(self, layout: Layout) -> Tried | None:
        """The layout among the tried ones."""
        return next((one for one in self.tried if dict(one.layout) == dict(layout)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """How many layouts were held against the budgets, and how many of these kept them all."""

    proposed: int
    feasible: int


def proposals(study: "Study") -> Proposals:
    """The layouts that the sampler proposed so far, those of other workers among them."""
    judged = [t for t in study.get_trials(deepcopy=False) if PREDICTED in t.user_attrs]
    return Proposals(proposed=len(judged), feasible=sum(REJECTED not in t.user_attrs for t in judged))


def build_report(study: "Study", costs: Costs, budgets: Sequence[Budget]) -> Report:
    """Everything to tell of a study about the space of ``costs`` and these budgets.

    ``costs`` tells the figures of baselines without a trial. It may know fewer budgets, such as the static ones where nothing
    is known of a device: the figures of the others are unknown then.
    """
    trials = study.get_trials(deepcopy=False)
    maximise = study.directions[0].name == "MAXIMIZE"
    kinds = [kind_of(trial) for trial in trials]
    posterior = quality_posterior(study, costs.space.parameters) if "scored" in kinds else None
    reader = _Reader(space=costs.space, budgets=tuple(budgets), posterior=posterior)
    told: tuple[Kind, ...] = (*TRAINED, "ruled_out") if posterior else ("ruled_out",)
    tried = _distinct(reader.of_trial(t) for t, k in zip(trials, kinds, strict=True) if k in told)
    scored = [one for one in tried if one.kind == "scored"]
    trained = [one for one in tried if one.kind in TRAINED]
    best = max(trained, key=lambda one: gain(one.expected, maximise), default=None)
    shares = optuna_shares(study) if len(study.directions) == 1 else {}
    return Report(
        study=study.study_name,
        space=costs.space,
        budgets=tuple(budgets),
        maximise=maximise,
        counts={kind: kinds.count(kind) for kind in KINDS},
        ruled_out_by=_reasons(reader.of_trial(t) for t, k in zip(trials, kinds, strict=True) if k == "ruled_out"),
        tried=tuple(tried),
        best=best,
        luckiest=max(scored, key=lambda one: gain(one.score, maximise), default=None),
        fronts={b.name: tuple(front(trained, b.name, maximise=maximise)) for b in budgets},
        pareto=tuple(t.number for t in study.best_trials) if len(study.directions) > 1 and scored else (),
        importances=exchange_effects(posterior, best.layout, shares) if posterior and best else (),
        neighbours=neighbour_effects(posterior) if posterior else (),
        baselines=tuple(_baselines(trials, costs, reader)),
    )


def kind_of(trial: "FrozenTrial") -> Kind:
    """What has become of a trial."""
    names: dict[str, Kind] = {"COMPLETE": "scored", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
    if trial.state.name == "PRUNED":
        return "ruled_out" if REJECTED in trial.user_attrs else "pruned"
    return names[trial.state.name]


def gain(quality: float | None, maximise: bool) -> float:
    """A quality as a number of which more is better."""
    assert quality is not None, "a scored layout has its quality"
    return quality if maximise else -quality


def ahead(one: Tried, other: Tried, *, maximise: bool) -> tuple[float, float] | None:
    """By how much a layout is expected to be better than another, and the standard deviation of that; None if one is unknown.

    The two beliefs are taken as independent. They share the intercept and every choice that both have made, so that the real
    deviation is smaller as a rule.
    """
    if one.expected is None or other.expected is None or one.expected_sd is None or other.expected_sd is None:
        return None
    difference = gain(one.expected, maximise) - gain(other.expected, maximise)
    return difference, math.hypot(one.expected_sd, other.expected_sd)


def front(trained: Sequence[Tried], budget: str, *, maximise: bool) -> list[Tried]:
    """The layouts that no other one beats in both expected quality and a budget's expected figure, cheapest first.

    Single scores would put the luckiest layouts on the front; so it is made of expectations.
    """
    known = [(value, one) for one in trained if (value := _expected_figure(one, budget)) is not None]
    found: list[Tried] = []
    for _, one in sorted(known, key=lambda pair: (pair[0], -gain(pair[1].expected, maximise))):
        if not found or gain(one.expected, maximise) > gain(found[-1].expected, maximise):
            found.append(one)
    return found


def _expected_figure(one: Tried, budget: str) -> float | None:
    return one.figures.get(budget, (None, None))[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Makes ``Tried`` of trials and of bare layouts."""

    space: Space
    budgets: tuple[Budget, ...]
    posterior: "Posterior | None"

    def of_trial(self, trial: "FrozenTrial") -> Tried:
        """A trial, as it was judged when it was proposed."""
        stored = trial.user_attrs.get(PREDICTED, {})
        figures: dict[str, Predicted] = {name: (pair[0], pair[1]) for name, pair in stored.items()}
        kind = kind_of(trial)
        found = self.of_layout(layout_of(trial), figures, kind)
        scored = kind == "scored"
        return replace(
            found,
            number=trial.number,
            score=trial.values[0] if scored else None,
            score_se=trial.user_attrs.get(SCORE_SE) if scored else None,
            baseline=trial.user_attrs.get(BASELINE),
        )

    def of_layout(self, layout: Layout, figures: Mapping[str, Predicted], kind: Kind = "untried") -> Tried:
        """A layout with these figures, held against the limits."""
        uppers = {b.name: figures.get(b.name, (None, None))[1] for b in self.budgets}
        beyond = [b.name for b in self.budgets if (upper := uppers[b.name]) is not None and upper > b.limit]
        posterior = self.posterior
        return Tried(
            kind=kind,
            number=None,
            layout=layout,
            config=self.space.config(layout),
            expected=None if posterior is None else posterior.mean(layout),
            expected_sd=None if posterior is None else posterior.sd(layout),
            figures=figures,
            breaks=(*beyond, *self.space.broken_rules(layout)),
            unknown=tuple(name for name, upper in uppers.items() if upper is None),
        )


def _distinct(tried: Iterable[Tried]) -> list[Tried]:
    """Each layout once, as its last trial has it; what was scored once counts as scored."""
    found: dict[str, Tried] = {}
    for one in tried:
        key = canonical_json(one.layout)
        if one.kind == "scored" or key not in found or found[key].kind != "scored":
            found[key] = one
    return list(found.values())


def _reasons(ruled_out: Iterable[Tried]) -> dict[str, int]:
    """What ruled layouts out, most frequent first."""
    counts = Counter(reason for one in ruled_out for reason in (*one.breaks, *(f"no {n} known" for n in one.unknown)))
    return dict(counts.most_common())


def _baselines(trials: Sequence["FrozenTrial"], costs: Costs, reader: _Reader) -> Iterable[Tried]:
    """Each baseline as it was tried, under its name or as the same layout, or else with the figures that ``costs`` tells."""
    ended = [t for t in trials if kind_of(t) not in ("running", "waiting")]
    ended.sort(key=lambda t: kind_of(t) == "scored")  # of several trials of a layout one with a score tells most
    by_layout = {canonical_json(layout_of(t)): t for t in ended}
    by_name = {t.user_attrs[BASELINE]: t for t in ended if BASELINE in t.user_attrs}
    for name, layout in baseline_layouts(costs).items():
        trial = by_name.get(name) or by_layout.get(canonical_json(layout))
        if trial is not None:
            yield replace(reader.of_trial(trial), baseline=name)
        else:
            figures = {n: (f.value, f.upper) for n, f in costs.figures(layout).items()}
            yield replace(reader.of_layout(layout, figures), baseline=name)
