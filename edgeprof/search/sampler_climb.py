"""Climbs to the layout that may improve most on the best one, where choices work together in ways that no feature tells.

What the solver takes is a sum over choices, neighbours and counts; the interplay of the surrogate is none, and knows most of
layouts that differ little from those tried. Climbs from the best of these, one choice or one exchange of two at a time, find
what the solver cannot.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import norm

from edgeprof.search.linear import LinearLimit, Parameters
from edgeprof.search.surrogate import Posterior

MOST_EXCHANGES = 48
"""Exchanges of two parameters' choices that a step looks at: of more it takes this many at random."""

N_KEPT = 50
"""Layouts with the highest improvement that are kept, of which the exact check may refuse some."""

MOST_STEPS = 60
"""Of one climb; it ends by itself where nothing near is better, as a rule after some ten."""

Moments = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Expected value of layouts by their codes, and the standard deviation of that belief."""


def log_improvement(mean: np.ndarray, sd: np.ndarray, best: float) -> np.ndarray:
    """The logarithm of the expected improvement on ``best``.

    Far below it the difference that the formula consists of cancels: there its first asymptotic term stands in.
    Source: D. R. Jones et al., "Efficient Global Optimization of Expensive Black-Box Functions", J. Global Optimization 13, 1998,
    equation 15; S. Ament et al., arXiv 2310.20708, on why its logarithm is to be climbed.
    """
    sd = np.maximum(sd, 1e-12)
    z = np.maximum((mean - best) / sd, -1e6)
    far = z < -6.0
    near = np.where(far, 0.0, z)
    log_near = np.log(norm.pdf(near) + near * norm.cdf(near))
    log_far = norm.logpdf(np.where(far, z, -6.0)) - 2 * np.log(-np.where(far, z, -6.0))
    return np.asarray(np.log(sd) + np.where(far, log_far, log_near))


def mixed_moments(posteriors: Sequence[Posterior], weights: np.ndarray) -> Moments:
    """Moments of the weighted sum of several objectives, each in units of its own spread."""

    def moments(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = np.zeros(len(codes)), np.zeros(len(codes))
        for weight, posterior in zip(weights, posteriors, strict=True):
            one, sd = posterior.moments(codes)
            mean += weight / posterior.scale * one
            variance += (weight / posterior.scale * sd) ** 2
        return mean, np.sqrt(variance)

    return moments


@dataclass(frozen=True, slots=True, kw_only=True)
class Climber:
    """Climbs within linear limits, in codes: the places of choices among ``parameters``.

    ``allowed`` are the choices that a parameter may have, as some may be fixed.
    """

    parameters: Parameters
    allowed: Parameters
    limits: Sequence[LinearLimit]
    moments: Moments

    def climb(self, starts: np.ndarray, best: float, taken: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """New layouts by the improvement on ``best`` that they promise, the most promising first.

        ``starts`` are climbed from all at once, and keep the limits; ``taken`` are not among the results.
        """
        at, worth = starts, log_improvement(*self.moments(starts), best)
        seen = {codes.tobytes(): value for codes, value in zip(at, worth, strict=True)}
        for _ in range(MOST_STEPS):
            near, owner = self._neighbours(at, rng)
            if not len(near):
                break
            found = log_improvement(*self.moments(near), best)
            seen |= {codes.tobytes(): value for codes, value in zip(near, found, strict=True)}
            order = np.lexsort((-found, owner))
            first = order[np.unique(owner[order], return_index=True)[1]]  # each owner's best neighbour
            better = first[found[first] > worth[owner[first]]]
            if not len(better):
                break
            at, worth = near[better], found[better]
        for codes in taken:
            seen.pop(codes.tobytes(), None)
        ordered = sorted(seen, key=lambda key: -seen[key])[:N_KEPT]
        return np.array([np.frombuffer(key, dtype=starts.dtype) for key in ordered]).reshape(-1, starts.shape[1])

    def within(self, codes: np.ndarray) -> np.ndarray:
        """Which layouts keep the linear limits."""
        able = np.ones(len(codes), dtype=bool)
        for limit in self.limits:
            value = np.full(len(codes), limit.constant)
            for column, (name, own) in enumerate(self.parameters.items()):
                if name in limit.weights:
                    value += np.array([limit.weights[name][choice] for choice in own])[codes[:, column]]
            able &= value <= limit.highest
        return able

    def _neighbours(self, at: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Layouts near to each of some that keep the limits, and the place of the one that each is near to."""
        columns, codes = self._changes()
        ones, others = self._exchanges(rng)
        n_changes, n_exchanges = len(columns), len(ones)
        near = np.repeat(at[:, None, :], n_changes + n_exchanges, axis=1)
        near[:, np.arange(n_changes), columns] = codes
        exchanges = n_changes + np.arange(n_exchanges)
        near[:, exchanges, ones], near[:, exchanges, others] = at[:, others], at[:, ones]
        owner, moved = np.nonzero((near != at[:, None, :]).any(axis=2))
        near = near[owner, moved]
        able = self.within(near)
        return near[able], owner[able]

    def _changes(self) -> tuple[np.ndarray, np.ndarray]:
        """Each parameter's column with each code that it may have."""
        return _columns(
            (column, own.index(choice))
            for column, (name, own) in enumerate((n, list(o)) for n, o in self.parameters.items())
            for choice in self.allowed[name]
        )

    def _exchanges(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of parameters with the same choices, all of them allowed: the columns of the ones and of the others."""
        kinds = [(tuple(own), tuple(self.allowed[name])) for name, own in self.parameters.items()]
        alike = [
            (i, j)
            for i, j in combinations(range(len(kinds)), 2)
            if kinds[i] == kinds[j] and len(kinds[i][0]) == len(kinds[i][1])
        ]
        if len(alike) > MOST_EXCHANGES:
            alike = [alike[int(k)] for k in rng.choice(len(alike), MOST_EXCHANGES, replace=False)]
        return _columns(alike)


def _columns(pairs: Iterable[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The first of each pair, and the second."""
    both = np.array(list(pairs), dtype=int).reshape(-1, 2)
    return both[:, 0], both[:, 1]
