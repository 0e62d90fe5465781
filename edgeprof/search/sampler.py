"""The sampler ``additive``: Thompson sampling on an additive surrogate, every proposal solved exactly within the limits."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from edgeprof.core.errors import UsageError
from edgeprof.search.additive import weighted_sum
from edgeprof.search.linear import LinearLimit, Parameters
from edgeprof.search.sampler_climb import Climber, mixed_moments
from edgeprof.search.sampler_history import FIXED_PARAMS, History, Observation, read_history
from edgeprof.search.sampler_levels import Axis, make_axes
from edgeprof.search.sampler_proposal import Check, NoFeasibleLayoutError, Proposer
from edgeprof.search.surrogate import Posterior
from edgeprof.search.surrogate_features import features_of

CLIMBS_A_SHARE = 4.0
"""How often a proposal is climbed to instead of drawn, for each share of what differs among layouts that is interplay: always,
from a quarter of it on. Measured with benchmarks/samplers.py."""

N_STARTS = 8
"""The best layouts tried, and as many random ones, which climbs begin at. With two random ones a proposal takes 40 % less, and
the regret of benchmarks/samplers.py's threefold task after 200 trials is 14 % instead of 8 % (six seeds)."""

N_STARTUP_TRIALS = 10
"""Trials before the surrogate is asked, as in Optuna's own samplers."""


class AdditiveSampler(BaseSampler):
    """Draws what layouts may be worth from the trials' posterior, and proposes the layout that is worth most in that draw.

    Meant for spaces of categoricals: slots that share choices, with limits that are linear in them. Numbers work as well, cut
    into at most 12 bins each, but their order is lost; a sampler for numbers is the better one there. With several objectives
    each has a posterior, and each proposal weights them at random, so that the trials spread along the Pareto front (its
    convex part; the draws' own spread fills in between).

    A layout that was tried, or is being tried, is proposed again only where no other is left: then the best one by its
    posterior mean, so that its noise is averaged out. Draws depend on the seed, the trial's number and the study's trials, and
    on nothing else: a study that goes on in another process goes on as it would have here, and workers draw differently.

    Source: W. R. Thompson, Biometrika 25, 1933; R. Baptista and M. Poloczek, "Bayesian Optimization of Combinatorial
    Structures" (ICML 2018), the same with pairwise terms and a semidefinite solver.

    Args:
        seed: of all that is random.
        parameters: the choices of each parameter. Optuna otherwise learns the space from the first completed trial, so that
            nothing holds a limit before; with limits or a check they must therefore be given. Other parameters that come up
            are then sampled at random, on their own.
        limits: what every proposal keeps. A parameter that is not sampled here counts at its heaviest choice.
        check: an exact check of a proposal, which may refuse it.
        n_startup_trials: trials with random layouts, spread over those that keep the limits, before the surrogate is asked.

    Pruned trials count as bad ones (see ``sampler_history``), failed ones not at all. Optuna's soft constraints
    (``trial.set_constraint``) are not modelled: what must hold belongs into ``limits`` and ``check``.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        parameters: Parameters | None = None,
        limits: Sequence[LinearLimit] = (),
        check: Check | None = None,
        n_startup_trials: int = N_STARTUP_TRIALS,
    ) -> None:
        if parameters is None and (limits or check is not None):
            raise UsageError(
                "sampler additive: limits and check need parameters: without them the first trial is unchecked"
            )
        _check_weights(parameters or {}, limits)
        self._seed = _fresh_seed() if seed is None else seed
        self._parameters = {name: CategoricalDistribution(tuple(own)) for name, own in (parameters or {}).items()}
        self._limits = tuple(limits)
        self._check = check
        self._n_startup_trials = n_startup_trials

    def reseed_rng(self) -> None:
        """Forgets the seed."""
        self._seed = _fresh_seed()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The given parameters; otherwise those that all completed trials have, with one and the same distribution."""
        return _search_space(study, self._parameters)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A proposal for all parameters of the search space.

        Raises:
            NoFeasibleLayoutError: no layout keeps the limits, given the parameters that an enqueued trial fixes.
        """
        axes = make_axes(search_space)
        fixed = _fixed(trial, axes)
        if len(fixed) == len(axes):
            return {}
        rng = np.random.default_rng([self._seed, trial.number])
        proposer = self._proposer(axes).with_fixed(fixed)
        layout = self._layout(proposer, axes, read_history(study, axes, but=trial.number), rng)
        return {name: axis.value_of(layout[name], rng) for name, axis in axes.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value: of a parameter that not all completed trials have, or before the first one is completed."""
        rng = np.random.default_rng([self._seed, trial.number, zlib.crc32(param_name.encode())])
        once = RandomSampler(seed=int(rng.integers(2**32)))
        return once.sample_independent(study, trial, param_name, param_distribution)

    def _proposer(self, axes: dict[str, Axis]) -> Proposer:
        parameters = {name: axis.choices for name, axis in axes.items()}
        return Proposer(parameters=parameters, limits=self._limits, check=self._checked(axes))

    def _checked(self, axes: dict[str, Axis]) -> Check | None:
        """The check, if it can be shown whole layouts: a ``PartialFixedSampler`` keeps what it fixes to itself."""
        lacking = [name for name in self._parameters if name not in axes]
        if self._check is not None and lacking:
            raise UsageError(f"sampler additive: check needs all parameters; enqueue {lacking[0]} instead of fixing it")
        return self._check

    def _layout(
        self, proposer: Proposer, axes: dict[str, Axis], history: History, rng: np.random.Generator
    ) -> dict[str, str]:
        # A bin has many values: one that was tried says nothing against another.
        taken = history.taken if all(axis.is_listed for axis in axes.values()) else ()
        if len(history.observations) < self._n_startup_trials:
            layout = proposer.spread(rng, taken)
            return layout if layout is not None else self._again(proposer, axes, history, None, rng)
        posteriors = _posteriors(axes, history.observations, history.n_objectives)
        weights = rng.dirichlet(np.ones(len(posteriors))) if len(posteriors) > 1 else np.ones(1)
        interplay = float(weights @ [p.interplay_share for p in posteriors])
        if rng.random() < CLIMBS_A_SHARE * interplay:
            layout = _climbed(proposer, posteriors, weights, history, rng)
            if layout is not None:
                return layout
        terms = [(float(w / p.scale), p.draw(rng)) for w, p in zip(weights, posteriors, strict=True)]
        layout = proposer.best(weighted_sum(terms), taken)
        if layout is not None:
            return layout
        worth = {o.number: _weighted_mean(posteriors, weights, o) for o in history.completed}
        return self._again(proposer, axes, history, worth, rng)

    def _again(
        self,
        proposer: Proposer,
        axes: dict[str, Axis],
        history: History,
        worth: dict[int, float] | None,
        rng: np.random.Generator,
    ) -> dict[str, str]:
        """The best layout that was tried before; where none is known, any that may be tried."""
        tried = [o for o in history.completed if proposer.allows(o.layout)]
        if worth is not None and tried:
            return max(tried, key=lambda o: worth[o.number]).layout
        layout = proposer.spread(rng, ())
        if layout is None:
            raise self._infeasible(proposer, axes)
        return layout

    def _infeasible(self, proposer: Proposer, axes: dict[str, Axis]) -> NoFeasibleLayoutError:
        names = ", ".join(limit.name for limit in self._limits) or "the exact check"
        fixed = [
            f"{name} = {own[0]}" for name, own in proposer.parameters.items() if len(own) < len(axes[name].choices)
        ]
        given = f" with {', '.join(fixed)} as enqueued" if fixed else ""
        return NoFeasibleLayoutError(f"search: no layout{given} keeps all limits: {names}; relax one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """The layout with the best posterior mean among those tried: its trials, and what is believed of its value.

    ``trial`` is the one of them with the best value; ``sd`` is the standard deviation of the belief in ``mean``.
    """

    trial: FrozenTrial
    layout: dict[str, str]
    mean: float
    sd: float
    trials: tuple[int, ...]


def best_by_posterior_mean(study: Study, parameters: Parameters | None = None) -> Winner:
    """The winner of a study with one objective: not the luckiest score, but the one that all trials together speak for.

    Trials that break an Optuna constraint do not take part.

    Raises:
        ValueError: the study has several objectives, or no completed trial.
    """
    if len(study.directions) > 1:
        raise ValueError("a study with several objectives has a Pareto front and no winner")
    given = {name: CategoricalDistribution(tuple(own)) for name, own in (parameters or {}).items()}
    axes = make_axes(_search_space(study, given))
    history = read_history(study, axes)
    candidates = [o for o in history.completed if o.keeps_constraints]
    if not axes or not candidates:
        raise ValueError("the study has no completed trial that keeps its constraints")
    (posterior,) = _posteriors(axes, history.observations, 1)
    best = max(candidates, key=lambda o: (posterior.mean(o.layout), o.values))
    sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
    return Winner(
        trial=study.trials[best.number],
        layout=best.layout,
        mean=sign * posterior.mean(best.layout),
        sd=posterior.sd(best.layout),
        trials=tuple(o.number for o in history.completed if o.layout == best.layout),
    )


def _search_space(study: Study, given: dict[str, CategoricalDistribution]) -> dict[str, BaseDistribution]:
    if given:
        return dict(given)
    return intersection_search_space(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _posteriors(axes: dict[str, Axis], observations: Sequence[Observation], n_objectives: int) -> list[Posterior]:
    """A posterior for each objective."""
    features = features_of(tuple((name, tuple(axis.choices)) for name, axis in axes.items()))
    layouts = [o.layout for o in observations]
    return [
        Posterior.fit(features, layouts, [o.values[k] for o in observations], [o.ses[k] for o in observations])
        for k in range(n_objectives)
    ]


def _climbed(
    proposer: Proposer,
    posteriors: Sequence[Posterior],
    weights: np.ndarray,
    history: History,
    rng: np.random.Generator,
) -> dict[str, str] | None:
    """The layout near the best ones, or where a random one leads to, that may improve most on them; None where none was found."""
    features, moments = posteriors[0].features, mixed_moments(posteriors, weights)
    climber = Climber(
        parameters=features.parameters, allowed=proposer.parameters, limits=proposer.grounded(), moments=moments
    )
    tried = features.codes([o.layout for o in history.completed if o.keeps_constraints and proposer.has(o.layout)])
    if not len(tried):
        return None
    mean = moments(tried)[0]
    at_random = features.codes(list(islice(proposer.random_layouts(rng), N_STARTS)))
    starts = np.concatenate([tried[np.argsort(-mean)[:N_STARTS]], at_random])
    near = climber.climb(starts, float(mean.max()), features.codes(history.taken), rng)
    return next((layout for layout in map(features.layout, near.tolist()) if proposer.allows(layout)), None)


def _weighted_mean(posteriors: Sequence[Posterior], weights: np.ndarray, observation: Observation) -> float:
    return sum(float(w) * p.mean(observation.layout) / p.scale for w, p in zip(weights, posteriors, strict=True))


def _fixed(trial: FrozenTrial, axes: dict[str, Axis]) -> dict[str, str]:
    """The choices that an enqueued trial brings along; Optuna ignores a value that the distribution does not have."""
    given = trial.system_attrs.get(FIXED_PARAMS, {})
    choices = {name: axes[name].choice_of(value) for name, value in given.items() if name in axes}
    return {name: choice for name, choice in choices.items() if choice is not None}


def _check_weights(parameters: Parameters, limits: Sequence[LinearLimit]) -> None:
    for limit in limits:
        for name, choices in limit.weights.items():
            if name not in parameters:
                raise UsageError(f"sampler additive: limit {limit.name!r} weighs {name!r}, which is no parameter")
            lacking = [choice for choice in parameters[name] if choice not in choices]
            if lacking:
                raise UsageError(f"sampler additive: limit {limit.name!r} has no weight for {name} = {lacking[0]!r}")


def _fresh_seed() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])
