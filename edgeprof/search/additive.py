"""What a layout is worth as a sum over its choices, its neighbours and how often each choice occurs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgeprof.search.linear import Layout, Parameters, Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Parameters in a row that share choices, so that it matters who is whose neighbour and how many there are of a choice.

    ``neighbours`` holds the worth of a choice followed by another, wherever in the row; a pair that is left out is worth 0.
    ``counts`` holds the worth of 0, 1, 2, ... ``len(parameters)`` parameters with a choice; a choice left out is worth 0.
    """

    parameters: tuple[str, ...]
    neighbours: Mapping[tuple[str, str], float]
    counts: Mapping[str, Sequence[float]]

    def value(self, layout: Layout) -> float:
        """The worth of a layout's neighbours and counts in this row."""
        chosen = [layout[name] for name in self.parameters]
        pairs = sum(self.neighbours.get(pair, 0.0) for pair in pairwise(chosen))
        return pairs + sum(table[chosen.count(choice)] for choice, table in self.counts.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Additive:
    """A worth of layouts: ``constant``, plus the weight of each choice, plus the worth of each chain.

    A parameter or choice that is left out of ``choices`` weighs 0. A parameter belongs to one chain at most.
    """

    choices: Weights
    chains: tuple[Chain, ...] = ()
    constant: float = 0.0

    def value(self, layout: Layout) -> float:
        """The worth of a layout."""
        alone = sum(weights.get(layout[name], 0.0) for name, weights in self.choices.items())
        return self.constant + alone + sum(chain.value(layout) for chain in self.chains)

    def scaled(self, factor: float) -> "Additive":
        """This worth, multiplied: by -1 where less is better."""
        return weighted_sum([(factor, self)])


def weighted_sum(terms: Sequence[tuple[float, Additive]]) -> Additive:
    """The weighted sum of worths that have the same chains, in the same order."""
    choices: dict[str, dict[str, float]] = {}
    for factor, term in terms:
        for name, weights in term.choices.items():
            _add(choices.setdefault(name, {}), weights, factor)
    return Additive(
        choices=choices,
        chains=tuple(
            _sum_of_chains([(f, c) for (f, _), c in zip(terms, chains, strict=True)])
            for chains in zip(*(term.chains for _, term in terms), strict=True)
        ),
        constant=sum(factor * term.constant for factor, term in terms),
    )


def _sum_of_chains(terms: Sequence[tuple[float, Chain]]) -> Chain:
    (_, first) = terms[0]
    neighbours: dict[tuple[str, str], float] = {}
    counts: dict[str, list[float]] = {}
    for factor, chain in terms:
        assert chain.parameters == first.parameters, "worths of different chains do not add up"
        for pair, weight in chain.neighbours.items():
            neighbours[pair] = neighbours.get(pair, 0.0) + factor * weight
        for choice, table in chain.counts.items():
            known = counts.get(choice, [0.0] * len(table))
            counts[choice] = [old + factor * new for old, new in zip(known, table, strict=True)]
    return Chain(parameters=first.parameters, neighbours=neighbours, counts=counts)


def _add(to: dict[str, float], weights: Mapping[str, float], factor: float) -> None:
    for choice, weight in weights.items():
        to[choice] = to.get(choice, 0.0) + factor * weight


def find_chains(parameters: Parameters) -> tuple[tuple[str, ...], ...]:
    """The rows of parameters that share choices, two or more each, in the order of their names (``l2`` before ``l10``).

    Two parameters belong to one row where they have a choice in common, or each has one in common with a third.
    """
    rows: list[tuple[set[str], list[str]]] = []
    for name in sorted(parameters, key=_natural):
        choices = set(parameters[name])
        names = [name]
        apart = []
        for others, members in rows:
            if others & choices:
                choices |= others
                names = [*members, *names]
            else:
                apart.append((others, members))
        rows = [*apart, (choices, names)]
    return tuple(tuple(sorted(names, key=_natural)) for _, names in rows if len(names) > 1)


def _natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sorts numbers inside names by their value."""
    return tuple((part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name))
