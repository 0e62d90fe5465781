"""A layout problem as arrays, slot after slot: what the solver's bound and its search work on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgeprof.search.additive import Additive
from edgeprof.search.linear import TOLERANCE, Layout, LinearLimit, Parameters

DIVERGED = 0
"""The node of a partial layout that no forbidden layout begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Letters: S slots (parameters, chains first), C choices of the slot with most, J limits, K counted choices.

    ``worth`` (S, C): -inf where a slot has fewer choices. ``pairs`` (S, C, C): worth of a slot's choice after its
    predecessor's, ``pairs[s, before, after]``. ``weights`` (J, S, C) and ``most`` (J): the limits, without their constants,
    each divided by its own scale. ``counter`` (S, C): which counted choice this is, K for none. ``tables`` (K, S + 1): worth of
    each count, -inf beyond what can be. ``next_node`` (nodes, C): the tree of forbidden layouts, a node for each beginning.
    """

    names: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]
    worth: np.ndarray
    pairs: np.ndarray
    weights: np.ndarray
    most: np.ndarray
    counter: np.ndarray
    tables: np.ndarray
    next_node: np.ndarray

    @property
    def n_slots(self) -> int:
        """Number of parameters."""
        return len(self.names)

    @property
    def n_counters(self) -> int:
        """Number of counted choices."""
        return len(self.tables)

    def layout(self, chosen: Sequence[int]) -> dict[str, str]:
        """The layout of these choices' places."""
        return {name: own[i] for name, own, i in zip(self.names, self.choices, chosen, strict=True)}

    def least_to_go(self) -> np.ndarray:
        """The least weight that the slots from s on add to each limit, (S + 1, J)."""
        lightest = np.where(np.isneginf(self.worth), np.inf, self.weights).min(axis=2)
        return _sums_to_go(lightest)

    def most_to_go(self) -> np.ndarray:
        """The largest weight that the slots from s on add to each limit, (S + 1, J)."""
        heaviest = np.where(np.isneginf(self.worth), -np.inf, self.weights).max(axis=2)
        return _sums_to_go(heaviest)


def _sums_to_go(per_slot: np.ndarray) -> np.ndarray:
    """Sums (S + 1, J) over the slots from each one on, of an array (J, S)."""
    sums = np.cumsum(per_slot[:, ::-1], axis=1)[:, ::-1]
    return np.concatenate([sums, np.zeros((len(per_slot), 1))], axis=1).T


def make_problem(
    objective: Additive, parameters: Parameters, limits: Sequence[LinearLimit], forbidden: Iterable[Layout]
) -> Problem:
    """The problem's arrays. Every parameter has at least one choice."""
    names = _order(objective, parameters)
    choices = tuple(tuple(parameters[name]) for name in names)
    width = max(len(own) for own in choices)
    weights, most = _limits(limits, names, choices, width)
    counter, tables = _counters(objective, names, choices, width)
    return Problem(
        names=names,
        choices=choices,
        worth=_worth(objective, names, choices, width),
        pairs=_pairs(objective, names, choices, width),
        weights=weights,
        most=most,
        counter=counter,
        tables=tables,
        next_node=_forbidden_tree(forbidden, names, choices, width),
    )


def _order(objective: Additive, parameters: Parameters) -> tuple[str, ...]:
    """Parameters so that those of a chain follow one another."""
    chained = [name for chain in objective.chains for name in chain.parameters if name in parameters]
    assert len(set(chained)) == len(chained), "a parameter belongs to one chain at most"
    return (*chained, *(name for name in parameters if name not in set(chained)))


def _worth(objective: Additive, names: Sequence[str], choices: Sequence[Sequence[str]], width: int) -> np.ndarray:
    worth = np.full((len(names), width), -np.inf)
    for s, (name, own) in enumerate(zip(names, choices, strict=True)):
        known = objective.choices.get(name, {})
        worth[s, : len(own)] = [known.get(choice, 0.0) for choice in own]
    return worth


def _pairs(objective: Additive, names: Sequence[str], choices: Sequence[Sequence[str]], width: int) -> np.ndarray:
    pairs = np.zeros((len(names), width, width))
    place = {name: s for s, name in enumerate(names)}
    for chain in objective.chains:
        for before, after in pairwise(chain.parameters):
            s = place[after]
            for i, first in enumerate(choices[place[before]]):
                for j, second in enumerate(choices[s]):
                    pairs[s, i, j] = chain.neighbours.get((first, second), 0.0)
    return pairs


def _limits(
    limits: Sequence[LinearLimit], names: Sequence[str], choices: Sequence[Sequence[str]], width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and limits, each limit divided by its own spread so that all are of one scale."""
    weights = np.zeros((len(limits), len(names), width))
    most = np.zeros(len(limits))
    for j, limit in enumerate(limits):
        for s, (name, own) in enumerate(zip(names, choices, strict=True)):
            if name in limit.weights:
                weights[j, s, : len(own)] = [limit.weights[name][choice] for choice in own]
        scale = float(np.ptp(weights[j], axis=1).max(initial=0)) or 1.0
        weights[j] /= scale
        most[j] = (limit.limit + TOLERANCE * abs(limit.limit) - limit.constant) / scale
        most[j] += TOLERANCE * max(1.0, abs(most[j]))
    return weights, most


def _counters(
    objective: Additive, names: Sequence[str], choices: Sequence[Sequence[str]], width: int
) -> tuple[np.ndarray, np.ndarray]:
    tables: list[list[float]] = []
    found: dict[tuple[str, str], int] = {}
    for chain in objective.chains:
        for choice, table in chain.counts.items():
            found |= {(name, choice): len(tables) for name in chain.parameters}
            tables.append([*table, *[-np.inf] * (len(names) + 1 - len(table))])
    counter = np.full((len(names), width), len(tables))
    for s, (name, own) in enumerate(zip(names, choices, strict=True)):
        counter[s, : len(own)] = [found.get((name, choice), len(tables)) for choice in own]
    return counter, np.array(tables, dtype=float).reshape(len(tables), len(names) + 1)


def _forbidden_tree(
    forbidden: Iterable[Layout], names: Sequence[str], choices: Sequence[Sequence[str]], width: int
) -> np.ndarray:
    """The tree of forbidden layouts: node 1 is the root, node 0 where none goes on.

    A forbidden layout with other parameters or choices than the problem's cannot come up, and is left out.
    """
    place = [{choice: i for i, choice in enumerate(own)} for own in choices]
    tree: list[list[int]] = [[DIVERGED] * width, [DIVERGED] * width]
    for layout in forbidden:
        steps = [place[s].get(layout.get(name, "")) for s, name in enumerate(names)]
        node = 1
        for step in steps if None not in steps else []:
            assert step is not None
            if tree[node][step] == DIVERGED:
                tree[node][step] = len(tree)
                tree.append([DIVERGED] * width)
            node = tree[node][step]
    return np.array(tree)
