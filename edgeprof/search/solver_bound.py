"""An upper bound on what any completion of a partial layout is worth: limits and counts are priced instead of kept.

The Lagrangian relaxation. With a price on each limit's weight and a reward for each counted choice, slots only know their
neighbours, and the best path through them is found by dynamic programming (Viterbi). Any prices give a valid bound; good ones
(found by subgradient steps) a tight one. Bounds change how fast the solver is, never what it finds.
Source: M. L. Fisher, "The Lagrangian Relaxation Method for Solving Integer Programming Problems", Management Science 27(1), 1981.
"""

from dataclasses import dataclass

import numpy as np

from edgeprof.search.solver_problem import Problem

STEPS = 20
"""Subgradient steps of one bound, which begins with the prices of the one before."""

PATIENCE = 5
"""Steps without a better bound after which steps become half as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Prices and what follows from them.

    ``prices`` (J) of the limits' weights, ``rewards`` (K) for the counted choices.
    ``reduced`` (S, C): worth of each choice, priced. ``to_go`` (S, C): the most that the slots after s add, given the choice at
    s. ``constant``: what the limits' rest is worth at their prices. ``count_to_go`` (S + 1, K, S + 1): the most that a count
    adds in the end, given that so many have been counted before slot s.
    """

    prices: np.ndarray
    rewards: np.ndarray
    reduced: np.ndarray
    to_go: np.ndarray
    constant: float
    count_to_go: np.ndarray


def make_bound(problem: Problem, known_worth: float, start: Bound | None = None) -> Bound:
    """A tight bound. ``known_worth`` is that of some good layout; it guides the length of the steps from ``start``'s prices."""
    prices, rewards = _prices(problem, known_worth, start)
    reduced = _reduced(problem, prices, rewards)
    to_go, _ = _viterbi(problem, reduced)
    return Bound(
        prices=prices,
        rewards=rewards,
        reduced=reduced,
        to_go=to_go,
        constant=float(prices @ problem.most),
        count_to_go=_count_to_go(problem, problem.tables - rewards[:, None] * np.arange(problem.n_slots + 1)),
    )


def _prices(problem: Problem, known_worth: float, start: Bound | None) -> tuple[np.ndarray, np.ndarray]:
    """Prices of the limits (at least 0) and rewards of counted choices that make the bound low."""
    slots = np.arange(problem.n_slots)
    numbers = np.arange(problem.n_slots + 1)
    prices = np.zeros(len(problem.most)) if start is None else start.prices
    rewards = np.zeros(problem.n_counters) if start is None else start.rewards
    best = (np.inf, prices, rewards)
    length, waited = 1.0, 0
    for _ in range(STEPS):
        reduced = _reduced(problem, prices, rewards)
        to_go, chosen = _viterbi(problem, reduced)
        priced = problem.tables - rewards[:, None] * numbers
        value = float((reduced[0] + to_go[0]).max() + priced.max(axis=1).sum() + prices @ problem.most)
        if value < best[0] - 1e-9 * max(1.0, abs(value)):
            best, waited = (value, prices, rewards), 0
        else:
            waited += 1
            length = length / 2 if waited % PATIENCE == 0 else length
        slack = problem.most - problem.weights[:, slots, chosen].sum(axis=1)
        counted = np.bincount(problem.counter[slots, chosen], minlength=problem.n_counters + 1)[:-1]
        wanted = counted - priced.argmax(axis=1)
        square = float((slack[(prices > 0) | (slack < 0)] ** 2).sum() + (wanted**2).sum())
        gap = value - known_worth if np.isfinite(known_worth) else max(1.0, abs(value))
        if square < 1e-12 or gap <= 1e-9 or length < 1e-3:
            break
        step = length * gap / square
        prices, rewards = np.maximum(prices - step * slack, 0.0), rewards - step * wanted
    return best[1], best[2]


def _reduced(problem: Problem, prices: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """Worth of each choice less the price of its weights, plus its reward, (S, C)."""
    price = (prices @ problem.weights.reshape(len(prices), problem.worth.size)).reshape(problem.worth.shape)
    return np.asarray(problem.worth - price + np.append(rewards, 0.0)[problem.counter])


def _viterbi(problem: Problem, reduced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most that the slots after each one add, (S, C), and the choices of the best path, (S,)."""
    rest = np.zeros(reduced.shape[1])
    to_go, followers = [rest], []
    for s in range(len(reduced) - 1, 0, -1):
        after = problem.pairs[s] + (reduced[s] + rest)
        followers.append(after.argmax(axis=1).tolist())
        rest = after.max(axis=1)
        to_go.append(rest)
    chosen = [int((reduced[0] + rest).argmax())]
    for follower in reversed(followers):
        chosen.append(follower[chosen[-1]])
    return np.array(to_go[::-1]), np.array(chosen)


def _count_to_go(problem: Problem, priced: np.ndarray) -> np.ndarray:
    """``count_to_go`` of a bound: the best of the counts that can still be reached, backwards from the last slot."""
    result = np.empty((problem.n_slots + 1, *priced.shape))
    result[-1] = priced
    for s in range(problem.n_slots - 1, -1, -1):
        result[s] = result[s + 1]
        can = [k for k in np.unique(problem.counter[s]) if k < problem.n_counters]
        result[s, can, :-1] = np.maximum(result[s + 1, can, :-1], result[s + 1, can, 1:])
    return result
