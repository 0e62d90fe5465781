"""Which slots decide the quality of a space's layouts, and which neighbours, as the trials of a study tell it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprof.search.linear import Layout

if TYPE_CHECKING:
    from optuna import Study

    from edgeprof.search.additive import Additive
    from edgeprof.search.surrogate import Posterior

SHARES_FROM = 50
"""Scores from which Optuna's shares are told: its best tenth then has the five trials that it asks for at least."""

N_DRAWS = 200
"""Draws from the posterior: they tell a standard deviation to 5 %."""

TELLING = 2.0
"""Standard deviations that an effect must differ from zero by to be told."""

MOST_NEIGHBOURS = 5
"""Pairs that are told, the strongest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """What one parameter decides.

    ``effects`` is by how much each of its choices would change the expected quality of the best layout, all else as it is;
    ``span`` lies between the best and the worst of them. ``optuna_share`` is PED-ANOVA's: how much the best tenth of the
    trials differs in this parameter from all, as a share of all parameters'. The two have nothing in common but the trials.
    """

    parameter: str
    chosen: str
    effects: Mapping[str, float]
    optuna_share: float | None = None

    @property
    def span(self) -> float:
        """The most that the choice decides."""
        return max(self.effects.values()) - min(self.effects.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourEffect:
    """What it adds to the expected quality that ``then`` follows ``first`` somewhere, beside what each is worth itself."""

    first: str
    then: str
    effect: float
    sd: float


def exchange_effects(posterior: "Posterior", around: Layout, shares: Mapping[str, float]) -> tuple[Importance, ...]:
    """Every parameter's importance around a layout by the surrogate's expected coefficients, most important first."""
    worth = posterior.expected()
    base = worth.value(around)
    found = [
        Importance(
            parameter=name,
            chosen=around[name],
            effects={choice: worth.value({**around, name: choice}) - base for choice in choices},
            optuna_share=shares.get(name),
        )
        for name, choices in posterior.features.parameters.items()
    ]
    return tuple(sorted(found, key=lambda one: -one.span))


def neighbour_effects(posterior: "Posterior") -> tuple[NeighbourEffect, ...]:
    """The pairs of neighbours whose effect is clearly not zero, the strongest first."""
    import numpy as np

    rng = np.random.default_rng(0)
    means = _neighbours(posterior.expected())
    if not means:
        return ()
    draws = [_neighbours(posterior.draw(rng)) for _ in range(N_DRAWS)]
    found = []
    for pair, mean in means.items():
        sd = float(np.std([draw[pair] for draw in draws], ddof=1))
        if abs(mean) > TELLING * sd:
            found.append(NeighbourEffect(first=pair[0], then=pair[1], effect=mean, sd=sd))
    return tuple(sorted(found, key=lambda one: -abs(one.effect))[:MOST_NEIGHBOURS])


def _neighbours(worth: "Additive") -> dict[tuple[str, str], float]:
    return {pair: effect for chain in worth.chains for pair, effect in chain.neighbours.items()}


def optuna_shares(study: "Study") -> dict[str, float]:
    """PED-ANOVA's share of each parameter in a study of quality alone; empty before there are enough scores.

    Source: Watanabe, Bansal, Hutter: PED-ANOVA, IJCAI 2023, arXiv 2304.10255.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    from edgeprof.search.study import scored

    if len(scored(study)) < SHARES_FROM:
        return {}
    return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))
