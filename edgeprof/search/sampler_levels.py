"""A parameter's Optuna distribution as named choices, which is what the surrogate and the solver know."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

MOST_LEVELS = 12
"""Numbers with more values than these are cut into as many bins; the order of the bins is not made use of."""


class Axis:
    """One parameter: its choices' names, and the way from values to choices and back.

    A categorical's choices are called what they are (other objects than text by their repr). A number's choices are its
    values, or equal bins of its range (of its logarithm where the distribution is logarithmic), from which values are drawn.
    Their names begin with the parameter's, so that numbers never share choices with other parameters.
    """

    def __init__(self, name: str, distribution: BaseDistribution) -> None:
        self.distribution = distribution
        self._values = _listed(distribution)
        self._of_text: dict[str, str] = {}
        if isinstance(distribution, CategoricalDistribution):
            self.choices = _distinct([v if isinstance(v, str) else repr(v) for v in distribution.choices])
            both = zip(distribution.choices, self.choices, strict=True)
            self._of_text = {v: c for v, c in reversed(list(both)) if isinstance(v, str)}
        elif self._values is not None:
            self.choices = tuple(f"{name}={value}" for value in self._values)
        else:
            self.choices = tuple(f"{name} bin {i}" for i in range(MOST_LEVELS))

    @property
    def is_listed(self) -> bool:
        """Whether a choice is one value."""
        return self._values is not None

    def choice_of(self, value: Any) -> str | None:
        """The choice that a value belongs to; None where the distribution does not have it."""
        if isinstance(value, str) and value in self._of_text:
            return self._of_text[value]  # Optuna's own look-up is slow for a whole study
        try:
            internal = self.distribution.to_internal_repr(value)
        except ValueError:
            return None
        if not self.distribution._contains(internal):
            return None
        if isinstance(self.distribution, CategoricalDistribution):
            return self.choices[int(internal)]
        if self._values is not None:
            return self.choices[int(np.abs(np.array(self._values) - internal).argmin())]
        low, high = self._range()
        return self.choices[min(int((self._bent(internal) - low) / (high - low) * MOST_LEVELS), MOST_LEVELS - 1)]

    def value_of(self, choice: str, rng: np.random.Generator) -> Any:
        """The value of a choice; one drawn uniformly from its bin where it is a bin."""
        i = self.choices.index(choice)
        if self._values is not None:
            return self._values[i]
        low, high = self._range()
        bent = low + (i + float(rng.random())) / MOST_LEVELS * (high - low)
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        value = math.exp(bent) if self.distribution.log else bent
        if self.distribution.step is not None:
            steps = round((value - self.distribution.low) / self.distribution.step)
            value = self.distribution.low + steps * self.distribution.step
        value = min(max(value, self.distribution.low), self.distribution.high)
        return int(value) if isinstance(self.distribution, IntDistribution) else float(value)

    def _range(self) -> tuple[float, float]:
        """The ends of the bins' range; half a step beyond the outermost values where there are steps."""
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        margin = (self.distribution.step or 0) / 2
        return self._bent(self.distribution.low - margin), self._bent(self.distribution.high + margin)

    def _bent(self, value: float) -> float:
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        return math.log(value) if self.distribution.log else float(value)


def make_axes(search_space: Mapping[str, BaseDistribution]) -> dict[str, Axis]:
    """The axes of a search space, by parameter."""
    return {name: Axis(name, distribution) for name, distribution in search_space.items()}


def _listed(distribution: BaseDistribution) -> tuple[Any, ...] | None:
    """The values of a distribution that has few; None where it has many."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.single():
        return (distribution.low,)
    if distribution.step is None:
        return None
    n_values = round((distribution.high - distribution.low) / distribution.step) + 1
    if n_values > MOST_LEVELS:
        return None
    values = [distribution.low + i * distribution.step for i in range(n_values)]
    return tuple(min(value, distribution.high) for value in values)


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Names with their place added to those that come twice, as ``1`` and ``"1"`` would."""
    return tuple(f"{name}#{i}" if names.count(name) > 1 else name for i, name in enumerate(names))
