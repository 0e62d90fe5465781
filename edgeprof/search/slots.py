"""The slots of a space: which choices each layer has, and which layers share one choice because the pattern repeats."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgeprof.search.linear import Layout

PLUS = "+"
"""Joins the labels of a mixer and a feed-forward where both are chosen for each layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """The choices of one period of layers, repeated until there are ``n_layers`` of them; the last repeat may be cut short.

    A slot with a single choice is fixed, and no parameter.
    """

    choices: tuple[tuple[str, ...], ...]
    n_layers: int

    def parameter(self, slot: int) -> str:
        """The name of a slot's parameter: ``slot_00`` and on."""
        return f"slot_{slot:0{max(2, len(str(len(self.choices) - 1)))}d}"

    def parameters(self) -> dict[str, tuple[str, ...]]:
        """The choices of the slots that are not fixed, by parameter."""
        return {self.parameter(i): choices for i, choices in enumerate(self.choices) if len(choices) > 1}

    def slot_of(self, layer: int) -> int:
        """The slot whose choice a layer takes."""
        return layer % len(self.choices)

    def chosen(self, layout: Layout) -> tuple[str, ...]:
        """Every layer's choice."""
        period = [c[0] if len(c) == 1 else layout[self.parameter(i)] for i, c in enumerate(self.choices)]
        return tuple(period[self.slot_of(layer)] for layer in range(self.n_layers))

    def total(
        self, weight: Callable[[str], float], layers: Iterable[int] | None = None
    ) -> tuple[dict[str, dict[str, float]], float]:
        """The sum over ``layers`` (all) of their choice's weight, as weights of the parameters and what fixed slots add."""
        times = Counter(self.slot_of(layer) for layer in (range(self.n_layers) if layers is None else layers))
        weights: dict[str, dict[str, float]] = {}
        constant = 0.0
        for slot, n in sorted(times.items()):
            choices = self.choices[slot]
            if len(choices) > 1:
                weights[self.parameter(slot)] = {choice: n * weight(choice) for choice in choices}
            else:
                constant += n * weight(choices[0])
        return weights, constant
