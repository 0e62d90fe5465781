"""A space of architectures of one width: which mixers and feed-forwards each layer may have, and the rules for all of them."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.core.toml import parse_toml
from edgeprof.models.block import BlockSpec, describe_part
from edgeprof.models.config import ArchConfig, to_document
from edgeprof.search.linear import Layout, LinearLimit, lightest
from edgeprof.search.rules import Rule, rule_limits
from edgeprof.search.slots import PLUS, Slots

FFN = "ffn"
"""The parameter of a feed-forward that all layers share."""

RANDOM_TRIES = 200
"""Layouts to draw before one that keeps the rules is constructed: enough where one in a hundred does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A space; ``make_space`` makes one.

    ``parameters`` are fixed categoricals: ``slot_00`` and on, whose choices are mixers' labels (``conv3``), or a mixer's and a
    feed-forward's (``gqa8+ff1792``) where the feed-forward is chosen for each layer; and ``ffn``, where one is chosen for all
    layers. What has a single choice is no parameter. ``model`` is all that the models share, without layers; ``table`` has the
    block of each mixer with each feed-forward, by their labels. ``limits`` are the rules.
    """

    name: str
    description: str
    model: ArchConfig
    table: Mapping[tuple[str, str], BlockSpec]
    ffn_per_layer: bool
    slots: Slots
    rules: tuple[Rule, ...]
    parameters: dict[str, tuple[str, ...]]
    limits: tuple[LinearLimit, ...]

    @property
    def mixers(self) -> tuple[str, ...]:
        """Labels of the mixers."""
        return tuple(dict.fromkeys(mixer for mixer, _ in self.table))

    @property
    def ffns(self) -> tuple[str, ...]:
        """Labels of the feed-forwards."""
        return tuple(dict.fromkeys(ffn for _, ffn in self.table))

    @property
    def n_layers(self) -> int:
        """Layers of every model."""
        return self.slots.n_layers

    @property
    def size(self) -> int:
        """Number of layouts, those that break rules among them."""
        return prod(len(choices) for choices in self.parameters.values())

    def config(self, layout: Layout, *, name: str | None = None) -> ArchConfig:
        """The architecture of a layout, called ``name`` or as the space is.

        Raises:
            UsageError: a parameter is missing, unknown, or has another choice than the space allows.
        """
        self.check(layout)
        ffn = self._shared_ffn(layout)
        layers = tuple(self._block(choice, ffn) for choice in self.slots.chosen(layout))
        return replace(self.model, name=name or self.name, layers=layers)

    def check(self, layout: Layout) -> None:
        """Checks that a layout has one of the allowed choices for each parameter; rules are another matter.

        Raises:
            UsageError: it has not.
        """
        for name in layout:
            if name not in self.parameters:
                meant = did_you_mean(name[:80], list(self.parameters))
                raise UsageError(f"space {self.name}: {name[:80]!r} is no parameter; {meant}")
        for name, choices in self.parameters.items():
            if name not in layout:
                raise UsageError(f"space {self.name}: {name}: is missing in the layout; choose {', '.join(choices)}")
            if layout[name] not in choices:
                meant = did_you_mean(f"{layout[name]!s:.80}", list(choices))
                raise UsageError(f"space {self.name}: {name}: {layout[name]!r:.80} is no choice; {meant}")

    def layout_of(self, config: ArchConfig) -> dict[str, str]:
        """The layout whose architecture ``config`` is; name, tokens and longest context may be others. Rules are not asked.

        Raises:
            UsageError: the space has no such architecture: says in what it differs.
        """
        for field in ("d_model", "vocab", "tied", "norm_eps", "embedding_scale", "sandwich_norm"):
            if getattr(config, field) != getattr(self.model, field):
                expected, found = getattr(self.model, field), getattr(config, field)
                raise self._foreign(config, f"has {field} = {found}, the space {expected}")
        if len(config.layers) != self.n_layers:
            raise self._foreign(config, f"has {len(config.layers)} layers, the space {self.n_layers}")
        choices = {ffn: self._choices(config, ffn) for ffn in (self.ffns[:1] if self.ffn_per_layer else self.ffns)}
        ffn, chosen = min(choices.items(), key=lambda item: item[1].count(None))
        if None in chosen:
            why = "" if len(choices) == 1 else ", or not with the feed-forward of the others"
            raise self._foreign(config, f"its layer {chosen.index(None)} is no choice there{why}")
        period = {self.slots.parameter(i): str(chosen[i]) for i in range(len(self.slots.choices))}
        layout = {name: {**period, FFN: ffn}[name] for name in self.parameters}
        if self.config(layout).layers != config.layers:
            raise self._foreign(config, f"does not repeat its first {len(self.slots.choices)} layers")
        return layout

    def block(self, slot: int, mixer: str, ffn: str) -> BlockSpec:
        """The block that a layer has with these choices.

        Raises:
            UsageError: there is no such layer, or it does not have the choice.
        """
        if not 0 <= slot < self.n_layers:
            raise UsageError(f"space {self.name}: has no layer {slot}; use 0 to {self.n_layers - 1}")
        choice = f"{mixer}{PLUS}{ffn}" if self.ffn_per_layer else mixer
        choices = self._choices_at(slot)
        if choice not in choices or ffn not in self.ffns:
            raise UsageError(f"space {self.name}: layer {slot} has no {choice} with {ffn}; it has {', '.join(choices)}")
        return self.table[mixer, ffn]

    def blocks(self) -> tuple[BlockSpec, ...]:
        """The distinct blocks that occur in any layout."""
        ffns = self.ffns[:1] if self.ffn_per_layer else self.ffns
        return tuple(
            dict.fromkeys(self._block(c, ffn) for choices in self.slots.choices for c in choices for ffn in ffns)
        )

    def broken_rules(self, layout: Layout) -> list[str]:
        """The rules that a layout breaks, in words."""
        return [limit.name for limit in self.limits if not limit.keeps(layout)]

    def random(self, rng: random.Random) -> dict[str, str]:
        """A layout that keeps the rules, drawn uniformly.

        Where hardly any layout keeps them, it is the lightest one for random weights of all choices: random, but not uniform.
        """
        for _ in range(RANDOM_TRIES):
            layout = {name: rng.choice(choices) for name, choices in self.parameters.items()}
            if all(limit.keeps(layout) for limit in self.limits):
                return layout
        weights = {name: {c: rng.random() for c in choices} for name, choices in self.parameters.items()}
        found = lightest(self.parameters, weights, self.limits)
        if found is None:
            raise UsageError("rules: no layout keeps all of them at once; relax one")
        return found

    def fixed_ffn(self, ffn: str) -> "Space":
        """The space in which the feed-forward that all layers share is this one.

        What a block costs in time is no sum of a mixer's and a feed-forward's part. With the shared feed-forward fixed, each
        slot's choice alone decides its block, so that a model's cost is a sum over parameters: solve for each of ``ffns``.
        A layout of the result with ``ffn`` added to it is one of this space.

        Raises:
            UsageError: there is no such feed-forward, or each layer has its own, so that there is nothing to fix.
        """
        if self.ffn_per_layer or ffn not in self.ffns:
            known = "each layer chooses its own" if self.ffn_per_layer else did_you_mean(ffn[:80], list(self.ffns))
            raise UsageError(f"space {self.name}: no feed-forward {ffn[:80]!r} to fix for all layers; {known}")
        table = {labels: block for labels, block in self.table.items() if labels[1] == ffn}
        return replace(self, table=table, parameters={n: c for n, c in self.parameters.items() if n != FFN})

    def block_sum(self, cost: Callable[[BlockSpec], float]) -> tuple[dict[str, dict[str, float]], float]:
        """The sum of a cost over all blocks: weights of the choices, and the constant that fixed slots add.

        Where a shared feed-forward is still a parameter, this holds for costs that are a sum of a mixer's and a feed-forward's
        part, such as parameters and bytes; for others fix it first.
        """
        ffn = self.ffns[0]
        weights, constant = self.slots.total(lambda choice: cost(self._block(choice, ffn)))
        if FFN in self.parameters:
            mixer = self.mixers[0]
            base = cost(self.table[mixer, ffn])
            weights[FFN] = {f: self.n_layers * (cost(self.table[mixer, f]) - base) for f in self.ffns}
        return weights, constant

    def describe(self) -> dict[str, Any]:
        """What the space is, as a document: everything that decides which architectures are in it."""
        shared = {n: v for n, v in to_document(self.model).items() if n not in ("schema_version", "name", "layers")}
        return {
            "name": self.name,
            "description": self.description,
            **shared,
            "layers": self.n_layers,
            "period": len(self.slots.choices),
            "mixers": {m: describe_part(self.table[m, self.ffns[0]].mixer) for m in self.mixers},
            "ffns": {f: describe_part(self.table[self.mixers[0], f].ffn) for f in self.ffns},
            "ffn_per_layer": self.ffn_per_layer,
            "slots": [list(choices) for choices in self.slots.choices],
            "parameters": {name: list(choices) for name, choices in self.parameters.items()},
            "rules": [
                {"of": r.of, "mixers": sorted(r.mixers)}
                | {n: getattr(r, n) for n in ("at_least", "at_most", "in_a_row") if getattr(r, n) is not None}
                for r in self.rules
            ],
            "size": self.size,
        }

    def _shared_ffn(self, layout: Layout) -> str:
        """The feed-forward of all layers (the first one where each layer has its own: nothing is made of it)."""
        return layout.get(FFN, self.ffns[0])

    def _block(self, choice: str, shared_ffn: str) -> BlockSpec:
        mixer, _, own_ffn = choice.partition(PLUS)
        return self.table[mixer, own_ffn or shared_ffn]

    def _choices(self, config: ArchConfig, shared_ffn: str) -> list[str | None]:
        """The choice with which each layer is as in ``config``, or None where none is."""
        return [
            next((choice for choice in self._choices_at(i) if self._block(choice, shared_ffn) == block), None)
            for i, block in enumerate(config.layers)
        ]

    def _choices_at(self, layer: int) -> tuple[str, ...]:
        return self.slots.choices[self.slots.slot_of(layer)]

    def _foreign(self, config: ArchConfig, why: str) -> UsageError:
        return UsageError(f"config {config.name!r:.80} is not in the space {self.name}: {why}")


def make_space(
    *,
    name: str,
    description: str,
    model: ArchConfig,
    table: Mapping[tuple[str, str], BlockSpec],
    ffn_per_layer: bool,
    slots: Slots,
    rules: tuple[Rule, ...],
) -> Space:
    """The space with its parameters and limits.

    Raises:
        UsageError: no layout keeps the rules.
    """
    parameters = slots.parameters()
    ffns = tuple(dict.fromkeys(ffn for _, ffn in table))
    if not ffn_per_layer and len(ffns) > 1:
        parameters[FFN] = ffns
    space = Space(
        name=name,
        description=description,
        model=model,
        table=table,
        ffn_per_layer=ffn_per_layer,
        slots=slots,
        rules=rules,
        parameters=parameters,
        limits=rule_limits(rules, slots),
    )
    space.random(random.Random(0))  # noqa: S311 - no secret: raises where there is no layout at all
    return space


SHIPPED_FOLDER = Path(__file__).parent / "spaces"


def space_names() -> list[str]:
    """Names of the spaces that come with the program."""
    return sorted(path.stem for path in SHIPPED_FOLDER.glob("*.toml"))


def space_path(name_or_path: str) -> Path:
    """The file of a shipped space by its name, or the path if it ends in .toml.

    Raises:
        UsageError: it is neither.
    """
    if name_or_path in space_names():
        return SHIPPED_FOLDER / f"{name_or_path}.toml"
    path = Path(name_or_path)
    if path.suffix != ".toml":
        meant = did_you_mean(name_or_path[:80], space_names())
        raise UsageError(f"space {name_or_path[:80]!r}: no .toml file, and no shipped space; {meant}")
    return path


def load_space(name_or_path: str) -> Space:
    """A shipped space by its name, or the one in a file whose name ends in .toml.

    Raises:
        UsageError: there is none, or it is wrong: names the file, the field and the fix.
    """
    from edgeprof.search.files import read_toml
    from edgeprof.search.space_file import space_of_document

    path = space_path(name_or_path)
    document = read_toml(path, "give a space's name or its .toml file")
    return space_of_document(document, path.name, default_name=path.stem)


def parse_space(text: str, name: str) -> Space:
    """The space that the text of a space file describes; ``name`` is its own unless the text has one, and names it in errors.

    Raises:
        UsageError: it is no TOML, or a field is wrong: names the field and the fix.
    """
    from edgeprof.search.space_file import space_of_document

    try:
        document = parse_toml(text)
    except ValueError as error:
        raise UsageError(f"{name}: is no TOML: {' '.join(str(error).split()):.200}") from None
    return space_of_document(document, name, default_name=name)
