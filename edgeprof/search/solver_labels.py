"""Partial layouts, slot after slot, without those that cannot lead to a better layout than a known one.

A label is a partial layout's state: its last choice, what it is worth, what it weighs, what it has counted, and whether a
forbidden layout begins like it. Three rules drop labels, and none of them loses the best layout: the limits cannot be kept any
more; the bound says that no completion beats the known worth; another label with the same last choice and counts, that no
forbidden layout begins with, is worth as much and weighs no more.
Source: S. Irnich and G. Desaulniers, "Shortest Path Problems with Resource Constraints", in Column Generation, Springer 2005.
"""

from dataclasses import dataclass

import numpy as np

from edgeprof.search.solver_bound import Bound
from edgeprof.search.solver_problem import DIVERGED, Problem

RIVALS = 4
"""Labels that each one is compared with: more would drop few more. Equal ones are neighbours after sorting, so all go."""

SAME = 1e-10
"""Worths that differ by less, relative to the largest, are equal: sums of floats in another order do."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels as columns: ``priced`` is the worth by the bound's prices, ``parent`` the label before, ``last`` the last choice."""

    worth: np.ndarray
    priced: np.ndarray
    weights: np.ndarray
    counts: np.ndarray
    node: np.ndarray
    last: np.ndarray
    parent: np.ndarray

    def __len__(self) -> int:
        return len(self.worth)

    def pick(self, which: np.ndarray) -> "Labels":
        """The labels of these places, or where this is true."""
        return Labels(
            self.worth[which],
            self.priced[which],
            self.weights[which],
            self.counts[which],
            self.node[which],
            self.last[which],
            self.parent[which],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Complete layouts as places of their choices, best first, and their worths; ``is_complete``: no better one was lost."""

    chosen: np.ndarray
    worth: np.ndarray
    is_complete: bool


class LabelSearch:
    """The search of one problem under one bound."""

    def __init__(self, problem: Problem, bound: Bound) -> None:
        self.problem = problem
        self.bound = bound
        self._least_to_go = problem.least_to_go()
        self._idle = problem.most - problem.most_to_go()
        self._base = (problem.n_slots + 1) ** np.arange(problem.n_counters, dtype=float)
        self._has_keys = float(self._base.sum()) * (problem.n_slots + 1) * problem.worth.shape[1] < 2**53

    def run(self, known_worth: float, most_labels: int) -> Found:
        """All layouts worth more than ``known_worth`` that dominance leaves; the most promising ones beyond ``most_labels``."""
        labels = self._start()
        history = []
        is_complete = True
        for s in range(self.problem.n_slots):
            labels, promise = self._grow(labels, s, known_worth)
            if len(labels) > most_labels:
                is_complete = False
                keep = np.sort(np.argpartition(-promise, most_labels)[:most_labels])
                labels = labels.pick(keep)
            history.append((labels.last, labels.parent))
            if not len(labels):
                break
        if not len(labels):
            return Found(chosen=np.empty((0, self.problem.n_slots), int), worth=np.empty(0), is_complete=is_complete)
        order = np.argsort(-labels.worth, kind="stable")
        return Found(chosen=_trace(history, order), worth=labels.worth[order], is_complete=is_complete)

    def _start(self) -> Labels:
        problem = self.problem
        zeros = np.zeros(1)
        begin = np.full(1, DIVERGED if len(problem.next_node) == 2 else 1)
        counts = np.zeros((1, problem.n_counters), dtype=int)
        origin = np.zeros(1, dtype=int)
        return Labels(zeros, zeros, np.zeros((1, len(problem.most))), counts, begin, origin, origin)

    def _grow(self, labels: Labels, s: int, known_worth: float) -> tuple[Labels, np.ndarray]:
        """The labels after slot s that are worth keeping, and their bounds."""
        grown = self._children(labels, s)
        fits = np.all(grown.weights + self._least_to_go[s + 1] <= self.problem.most, axis=1)
        if s == self.problem.n_slots - 1:
            fits &= grown.node == DIVERGED
            worth = grown.worth + self._worth_of(self.problem.tables, grown.counts)
            fits &= worth > known_worth
            grown = Labels(worth, grown.priced, grown.weights, grown.counts, grown.node, grown.last, grown.parent)
            return grown.pick(fits), worth[fits]
        promise = grown.priced + self.bound.to_go[s, grown.last] + self.bound.constant
        promise = promise + self._worth_of(self.bound.count_to_go[s + 1], grown.counts)
        slack = SAME * max(1.0, abs(known_worth)) if np.isfinite(known_worth) else 0.0
        fits &= promise > known_worth - slack
        grown, promise = grown.pick(fits), promise[fits]
        kept = self._undominated(grown, s)
        return grown.pick(kept), promise[kept]

    def _children(self, labels: Labels, s: int) -> Labels:
        """Every label followed by every choice of slot s."""
        problem = self.problem
        own = np.flatnonzero(np.isfinite(problem.worth[s]))
        parent = np.repeat(np.arange(len(labels)), len(own))
        last = np.tile(own, len(labels))
        pairs = problem.pairs[s, labels.last[parent], last]
        counts = labels.counts[parent]
        if problem.n_counters:
            counter = problem.counter[s, last]
            counted = np.flatnonzero(counter < problem.n_counters)
            counts[counted, counter[counted]] += 1
        return Labels(
            labels.worth[parent] + pairs + problem.worth[s, last],
            labels.priced[parent] + pairs + self.bound.reduced[s, last],
            labels.weights[parent] + problem.weights[:, s, last].T,
            counts,
            problem.next_node[labels.node[parent], last],
            last,
            parent,
        )

    def _worth_of(self, tables: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The sum over counted choices of what a table (K, counts) says."""
        return np.asarray(tables[np.arange(self.problem.n_counters), counts].sum(axis=1))

    def _undominated(self, labels: Labels, s: int) -> np.ndarray:
        """True for the labels that no other one makes superfluous.

        Weight below what any completion may add is nothing to envy: it is levelled first, so that a limit that can no longer be
        broken tells no two labels apart.
        """
        kept = np.ones(len(labels), dtype=bool)
        if len(labels) < 2 or not self._has_keys:
            return kept
        weights = np.maximum(labels.weights, self._idle[s + 1])
        key = labels.counts @ self._base * self.problem.worth.shape[1] + labels.last
        order = np.lexsort((*weights.T, labels.node != DIVERGED, -labels.worth, key))
        key, worth, weights = key[order], labels.worth[order], weights[order]
        free = labels.node[order] == DIVERGED
        for k in range(1, min(RIVALS, len(order) - 1) + 1):
            beaten = free[:-k] & (key[:-k] == key[k:]) & (worth[:-k] >= worth[k:])
            beaten &= np.all(weights[:-k] <= weights[k:], axis=1)
            kept[order[k:][beaten]] = False
        return kept


def _trace(history: list[tuple[np.ndarray, np.ndarray]], ends: np.ndarray) -> np.ndarray:
    """The choices (ends, S) of the labels at these places after the last slot."""
    chosen = np.empty((len(ends), len(history)), dtype=int)
    at = ends
    for s in range(len(history) - 1, -1, -1):
        last, parent = history[s]
        chosen[:, s] = last[at]
        at = parent[at]
    return chosen
