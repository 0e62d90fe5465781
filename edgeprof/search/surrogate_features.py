"""Features of a layout in which its quality is taken to be linear: choices, how many of each, and who follows whom."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product

import numpy as np

from edgeprof.search.additive import Additive, Chain, find_chains
from edgeprof.search.linear import Layout, Parameters

N_TYPICAL = 256
"""Random layouts over which features are centred and groups brought to one scale."""


ParametersKey = tuple[tuple[str, tuple[str, ...]], ...]
"""Parameters with their choices, as what caches are looked up by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Features that share a prior variance: a name, and the columns from ``first`` to before ``end``."""

    name: str
    first: int
    end: int


@dataclass(slots=True)
class Features:
    """The features of the layouts of some parameters.

    One column for each (parameter, choice). For each chain of parameters that share choices: how often each choice occurs, as
    it is and by two functions that grow less and less (whether it occurs at all, and the logarithm of 1 + its count), and how
    often each choice is followed by each, wherever that is: a few trials then tell something of all places.
    Columns are centred over random layouts; a group's features together have variance 1 there.
    """

    parameters: Parameters
    chains: tuple[tuple[str, ...], ...] = field(init=False)
    groups: tuple[Group, ...] = field(init=False)
    _places: dict[str, dict[str, int]] = field(init=False)
    _rows: list["_Row"] = field(init=False)
    _centre: np.ndarray = field(init=False)
    _scale: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.chains = find_chains(self.parameters)
        self._places = {name: {choice: i for i, choice in enumerate(own)} for name, own in self.parameters.items()}
        self._rows = [_Row.of(chain, self.parameters) for chain in self.chains]
        rng = np.random.default_rng(0)
        blocks = self._blocks(
            np.stack([rng.integers(len(own), size=N_TYPICAL) for own in self.parameters.values()], axis=1)
        )
        ends = np.cumsum([block.shape[1] for _, block in blocks])
        self.groups = tuple(
            Group(name=name, first=int(end) - block.shape[1], end=int(end))
            for (name, block), end in zip(blocks, ends, strict=True)
        )
        self._centre = np.concatenate([block.mean(axis=0) for _, block in blocks])
        spreads = [np.sqrt(block.var(axis=0).sum()) or 1.0 for _, block in blocks]
        self._scale = np.repeat(spreads, [block.shape[1] for _, block in blocks])

    @property
    def key(self) -> ParametersKey:
        """What the features depend on."""
        return tuple((name, tuple(own)) for name, own in self.parameters.items())

    @property
    def n_columns(self) -> int:
        """Number of features."""
        return len(self._centre)

    def codes(self, layouts: Sequence[Layout]) -> np.ndarray:
        """The place of each choice among its parameter's, (layouts, parameters)."""
        codes = [[places[layout[name]] for name, places in self._places.items()] for layout in layouts]
        return np.array(codes, dtype=int).reshape(len(layouts), len(self._places))

    def layout(self, codes: Sequence[int]) -> dict[str, str]:
        """The layout of these places."""
        return {name: own[code] for (name, own), code in zip(self.parameters.items(), codes, strict=True)}

    def matrix(self, codes: np.ndarray) -> np.ndarray:
        """The features of layouts by their codes, (layouts, columns)."""
        columns = np.concatenate([block for _, block in self._blocks(codes)], axis=1)
        return np.asarray((columns - self._centre) / self._scale)

    def additive(self, coefficients: np.ndarray, intercept: float) -> Additive:
        """The worth of layouts that these coefficients say, as the solver takes it."""
        weights = coefficients / self._scale
        by_group = {g.name: weights[g.first : g.end] for g in self.groups}
        alone = iter(by_group["choices"])
        choices = {name: {choice: float(next(alone)) for choice in own} for name, own in self.parameters.items()}
        chains = tuple(
            _chain(parameters, own, [by_group[f"{kind} {i}"] for kind in (*CURVES, NEIGHBOURS)])
            for i, (parameters, own) in enumerate((row.parameters, row.choices) for row in self._rows)
        )
        return Additive(choices=choices, chains=chains, constant=float(intercept - weights @ self._centre))

    def _blocks(self, codes: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """The columns before centring, by group, from the places of the choices in their parameters (layouts, parameters)."""
        alone = [one_hot(codes[:, s], len(own)) for s, own in enumerate(self.parameters.values())]
        blocks = [("choices", np.concatenate(alone, axis=1))]
        for i, row in enumerate(self._rows):
            chosen = np.stack([row.codes[k][codes[:, column]] for k, column in enumerate(row.columns)], axis=1)
            counts = one_hot(chosen, len(row.choices)).sum(axis=1)
            blocks += [(f"{kind} {i}", curve(counts)) for kind, curve in CURVES.items()]
            pairs = chosen[:, :-1] * len(row.choices) + chosen[:, 1:]
            blocks.append((f"{NEIGHBOURS} {i}", one_hot(pairs, len(row.choices) ** 2).sum(axis=1)))
        return blocks


@lru_cache(maxsize=16)
def features_of(parameters: ParametersKey) -> Features:
    """The features of these parameters, made once."""
    return Features(dict(parameters))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A chain: all choices of its parameters, the parameters' columns, and for each the places of its choices among all."""

    parameters: tuple[str, ...]
    choices: tuple[str, ...]
    columns: tuple[int, ...]
    codes: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, chain: tuple[str, ...], parameters: Parameters) -> "_Row":
        choices = tuple(dict.fromkeys(choice for name in chain for choice in parameters[name]))
        order = list(parameters)
        return cls(
            parameters=chain,
            choices=choices,
            columns=tuple(order.index(name) for name in chain),
            codes=tuple(np.array([choices.index(choice) for choice in parameters[name]]) for name in chain),
        )


def one_hot(codes: np.ndarray, n: int) -> np.ndarray:
    """Each code as a row of zeros with a single 1, (..., n)."""
    return np.asarray(codes[..., None] == np.arange(n), dtype=float)


NEIGHBOURS = "neighbours"

CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "count": lambda n: np.asarray(n, dtype=float),
    "any": lambda n: np.asarray(np.minimum(n, 1), dtype=float),
    "log count": lambda n: np.asarray(np.log1p(n), dtype=float),
}
"""What a count is worth, by kind: each more of a choice the same, only the first something, or each one less than the last."""


def _chain(parameters: tuple[str, ...], own: Sequence[str], weights: Sequence[np.ndarray]) -> Chain:
    """A chain's worth from the weights of its curves and, last, of its neighbours."""
    numbers = np.arange(len(parameters) + 1)
    tables = np.sum(
        [np.outer(w, curve(numbers)) for w, curve in zip(weights[:-1], CURVES.values(), strict=True)], axis=0
    )
    counts: Mapping[str, Sequence[float]] = {c: row.tolist() for c, row in zip(own, tables, strict=True)}
    neighbours = {pair: float(w) for pair, w in zip(product(own, own), weights[-1], strict=True)}
    return Chain(parameters=parameters, neighbours=neighbours, counts=counts)
