"""What trials say of all layouts: Bayesian linear regression on a layout's features, its variances chosen by their evidence.

A value is an intercept, plus the features times their coefficients, plus what any choices do together that no feature tells (the
interplay), plus what this very layout has of its own (its deviation), plus the noise of the one evaluation. All are Gaussian.
Each group of features, the interplay, the deviations and the noise have a variance of their own, which maximises the marginal
likelihood times a wide prior: with no or few trials the prior decides.
Source: C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine Learning", MIT Press 2006, sections 2.1 and 5.4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from edgeprof.search.additive import Additive
from edgeprof.search.linear import Layout
from edgeprof.search.surrogate_features import Features, ParametersKey, features_of, one_hot

INTERCEPT_VARIANCE = 4.0
"""Of standardised values: the mean of all layouts may lie two deviations from that of the tried ones."""

REST_VARIANCE = 0.05
"""Where the prior of the deviations' variance, and of the noise's, is centred: features explain most of what differs."""

INTERPLAY_VARIANCE = 0.2
"""Where the prior of the interplay's variance is centred."""

INTERPLAY_ORDER = 3.0
"""Of two layouts that differ in d of n parameters the interplay correlates as exp(-3 d / n): as a sum over triples of parameters
does, of which 3 / n have any one parameter. A sum over pairs is smoother, one over larger groups less so.
"""

LOG_SPREAD = 1.5
"""Standard deviation of the prior of each variance's logarithm: a factor of 4.5 either way."""

LEAST_NOISE = 1e-6
"""Variance of the best-known value, standardised: keeps the equations solvable where a trial claims to be exact."""

MOST_ITERATIONS = 25
"""Steps of the optimiser; variances matter to a factor, not to a digit."""

ANEW_AFTER = 1.15
"""Variances are chosen again once there are so many times the values that they were chosen from: choosing takes as long as the
rest of a proposal. They depend on the values and their order alone, so that a resumed search goes on as it would have."""

ALWAYS_ANEW = 24
"""Up to so many values they are always chosen from all."""


INTERPLAY, DEVIATION = -3, -2
"""Where their variances are; that of the noise is the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """What is believed after some trials. ``fit`` makes one.

    ``variances`` are those of the groups of features, of the interplay, the deviations and the noise; values are standardised by
    ``shift`` and ``scale`` inside and only there. ``_solved`` is the inverse covariance times the standardised values.
    """

    features: Features
    variances: np.ndarray
    shift: float
    scale: float
    _codes: np.ndarray
    _x: np.ndarray
    _prior: np.ndarray
    _factor: tuple[np.ndarray, bool]
    _values: np.ndarray
    _noise: np.ndarray
    _solved: np.ndarray

    @classmethod
    def fit(
        cls,
        features: Features,
        layouts: Sequence[Layout],
        values: Sequence[float],
        ses: Sequence[float | None] | None = None,
    ) -> "Posterior":
        """The posterior after these values of these layouts; a layout may come several times.

        A value with a standard error in ``ses`` is as noisy as it says; the others share a noise that is estimated. Where no
        layout comes twice and no value has a standard error, noise and deviations cannot be told apart and share evenly.
        """
        raw = np.array(values, dtype=float)
        known = tuple(ses or [None] * len(raw))
        codes = features.codes(layouts)
        n = n_choosing(len(raw))
        shift, scale = _standard(raw[:n])
        chosen = _chosen_variances(features.key, tuple(map(tuple, codes[:n].tolist())), tuple(values[:n]), known[:n])
        variances = np.array(chosen)
        model = _Model(features, codes, _errors(known) / scale)
        y = (raw - shift) / scale
        noise = model.noise(variances)
        factor = cho_factor(model.covariance(variances), lower=True) if len(y) else (np.empty((0, 0)), True)
        return cls(
            features=features,
            variances=variances,
            shift=shift,
            scale=scale,
            _codes=codes,
            _x=_with_one(model.x),
            _prior=model.prior(variances),
            _factor=factor,
            _values=y,
            _noise=noise,
            _solved=_solve(factor, y),
        )

    @property
    def interplay_share(self) -> float:
        """How much of what differs among layouts is interplay."""
        return float(self.variances[INTERPLAY] / self.variances[:DEVIATION].sum())

    def mean(self, layout: Layout) -> float:
        """The expected value of a layout, one that was tried or another."""
        return float(self.moments(self.features.codes([layout]))[0][0])

    def sd(self, layout: Layout) -> float:
        """The standard deviation of what is believed of a layout's value; an evaluation adds its noise to it."""
        return float(self.moments(self.features.codes([layout]))[1][0])

    def moments(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected values of layouts by their codes, and the standard deviations of what is believed of them."""
        x = _with_one(self.features.matrix(codes))
        differences = _differences(codes, self._codes)
        shared = (x * self._prior) @ self._x.T + self.variances[INTERPLAY] * _interplay(differences, codes.shape[1])
        shared += self.variances[DEVIATION] * (differences == 0)
        own = (x**2) @ self._prior + self.variances[INTERPLAY] + self.variances[DEVIATION]
        told = (
            solve_triangular(self._factor[0], shared.T, lower=True, check_finite=False)
            if len(self._values)
            else shared.T
        )
        mean, variance = shared @ self._solved, own - (told**2).sum(axis=0)
        return self.shift + self.scale * mean, self.scale * np.sqrt(np.maximum(variance, 0.0))

    def draw(self, rng: np.random.Generator) -> Additive:
        """Coefficients drawn from the posterior, as the worth of layouts; interplay and deviations are left out.

        A draw from the prior, corrected by what it gets wrong about the trials.
        Source: J. T. Wilson et al., "Pathwise Conditioning of Gaussian Processes", JMLR 22(105), 2021.
        """
        prior = rng.standard_normal(len(self._prior)) * np.sqrt(self._prior)
        noise = rng.standard_normal(len(self._values)) * np.sqrt(self._noise)
        wrong = self._values - (self._x @ prior + self._drawn_rest(rng) + noise)
        return self._additive(prior + self._prior * (self._x.T @ _solve(self._factor, wrong)))

    def _drawn_rest(self, rng: np.random.Generator) -> np.ndarray:
        """Interplay and deviation of each trial's layout, drawn from the prior."""
        distinct, place = np.unique(self._codes, axis=0, return_inverse=True)
        rest = self.variances[INTERPLAY] * _interplay(_differences(distinct, distinct), self._codes.shape[1])
        rest += self.variances[DEVIATION] * np.eye(len(distinct))
        drawn = np.linalg.cholesky(rest) @ rng.standard_normal(len(distinct))
        return np.asarray(drawn[place.reshape(-1)])

    def expected(self) -> Additive:
        """The expected coefficients, as the worth of layouts; interplay and deviations are left out."""
        return self._additive(self._prior * (self._x.T @ self._solved))

    def _additive(self, coefficients: np.ndarray) -> Additive:
        scaled = self.scale * coefficients
        return self.features.additive(scaled[1:], self.shift + float(scaled[0]))


def n_choosing(n_values: int) -> int:
    """How many of the first values variances are chosen from."""
    if n_values <= ALWAYS_ANEW:
        return n_values
    times = math.floor(math.log(n_values / ALWAYS_ANEW) / math.log(ANEW_AFTER) + 1e-9)
    return math.floor(ALWAYS_ANEW * ANEW_AFTER**times)


def _standard(raw: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the values; a deviation of 1 where they do not differ."""
    shift = float(raw.mean()) if len(raw) else 0.0
    scale = float(raw.std()) if len(raw) > 1 else 0.0
    return shift, scale if scale > 1e-12 * max(1.0, abs(shift)) else 1.0


@lru_cache(maxsize=16)
def _chosen_variances(
    parameters: ParametersKey,
    codes: tuple[tuple[int, ...], ...],
    values: tuple[float, ...],
    ses: tuple[float | None, ...],
) -> tuple[float, ...]:
    """The variances that these values speak for; they are asked for again at every proposal."""
    features = features_of(parameters)
    raw = np.array(values, dtype=float)
    shift, scale = _standard(raw)
    model = _Model(features, np.array(codes, dtype=int).reshape(len(raw), len(parameters)), _errors(ses) / scale)
    return tuple(model.best_variances((raw - shift) / scale))


def _errors(ses: Sequence[float | None]) -> np.ndarray:
    """Standard errors, NaN where they are not known."""
    return np.array([math.nan if se is None else se for se in ses], dtype=float)


class _Model:
    """The covariance of trials' values under given variances, and the evidence for them."""

    def __init__(self, features: Features, codes: np.ndarray, errors: np.ndarray) -> None:
        self.features = features
        self.x = features.matrix(codes)
        self.n = len(codes)
        self.is_unknown = np.isnan(errors)
        self.known_noise = np.where(self.is_unknown, 0.0, np.maximum(np.nan_to_num(errors) ** 2, LEAST_NOISE))
        differences = _differences(codes, codes)
        parts = [self.x[:, g.first : g.end] for g in features.groups]
        self.parts = [part @ part.T for part in parts] + [
            _interplay(differences, codes.shape[1]),
            (differences == 0).astype(float),
            np.diag(self.is_unknown.astype(float)),
        ]
        self.fixed = INTERCEPT_VARIANCE + np.diag(self.known_noise)
        expected = [(1 - INTERPLAY_VARIANCE - 2 * REST_VARIANCE) / len(features.groups)] * len(features.groups)
        self.log_centre = np.log([*expected, INTERPLAY_VARIANCE, REST_VARIANCE, REST_VARIANCE])

    def covariance(self, variances: np.ndarray) -> np.ndarray:
        """The covariance of the values, (n, n)."""
        return np.asarray(self.fixed + sum(v * part for v, part in zip(variances, self.parts, strict=True)))

    def noise(self, variances: np.ndarray) -> np.ndarray:
        """The variance of each value's noise."""
        return np.asarray(self.known_noise + variances[-1] * self.is_unknown)

    def prior(self, variances: np.ndarray) -> np.ndarray:
        """The prior variance of the intercept and of each feature's coefficient."""
        sizes = [group.end - group.first for group in self.features.groups]
        return np.concatenate([[INTERCEPT_VARIANCE], np.repeat(variances[: len(sizes)], sizes)])

    def best_variances(self, y: np.ndarray) -> np.ndarray:
        """The variances with the highest evidence times prior."""
        if self.n < 2:
            return np.asarray(np.exp(self.log_centre))
        bounds = [(c - 6 * LOG_SPREAD, c + 6 * LOG_SPREAD) for c in self.log_centre]
        bounds[-1] = (math.log(LEAST_NOISE), bounds[-1][1])
        found = minimize(
            self._loss, self.log_centre, (y,), jac=True, bounds=bounds, options={"maxiter": MOST_ITERATIONS}
        )
        return np.asarray(np.exp(found.x))

    def _loss(self, log_variances: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """The negative logarithm of evidence times prior, and its gradient."""
        variances = np.exp(log_variances)
        factor = cho_factor(self.covariance(variances), lower=True)
        solved = cho_solve(factor, y)
        inverse = cho_solve(factor, np.eye(self.n))
        off = (log_variances - self.log_centre) / LOG_SPREAD
        loss = 0.5 * float(y @ solved) + float(np.log(np.diag(factor[0])).sum()) + 0.5 * float(off @ off)
        slope = inverse - np.outer(solved, solved)
        gradient = [0.5 * v * float(np.vdot(slope, part)) for v, part in zip(variances, self.parts, strict=True)]
        return loss, np.array(gradient) + off / LOG_SPREAD


def _differences(codes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """In how many parameters each of the layouts differs from each of the others: all but those where both have one choice."""
    n_choices = 1 + max(int(codes.max(initial=0)), int(others.max(initial=0)))
    one, other = (one_hot(some, n_choices).reshape(len(some), n_choices * some.shape[1]) for some in (codes, others))
    return np.asarray(codes.shape[1] - one @ other.T)


def _interplay(differences: np.ndarray, n_parameters: int) -> np.ndarray:
    """The correlation of the interplay of layouts that differ in so many parameters."""
    return np.asarray(np.exp(-INTERPLAY_ORDER / n_parameters * differences))


def _with_one(x: np.ndarray) -> np.ndarray:
    """The features after a column of ones."""
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def _solve(factor: tuple[np.ndarray, bool], y: np.ndarray) -> np.ndarray:
    return np.asarray(cho_solve(factor, y)) if len(y) else np.zeros_like(y)
