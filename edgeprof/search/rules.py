"""Rules of a space: how many layers may have which mixers, and how many of them in a row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeprof.core.errors import UsageError
from edgeprof.search.linear import LinearLimit
from edgeprof.search.slots import PLUS, Slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Bounds on the layers whose mixer is one of ``mixers``, which ``of`` names; None bounds nothing.

    ``in_a_row`` is the most of them that may follow one another.
    """

    of: str
    mixers: frozenset[str]
    at_least: int | None = None
    at_most: int | None = None
    in_a_row: int | None = None

    def limits(self, slots: Slots) -> Iterator[LinearLimit]:
        """The rule as linear limits, one for each bound, and one for each place where a row of layers could be too long."""
        if self.at_least is not None:
            weights, constant = slots.total(lambda choice: -self._counts(choice))
            yield LinearLimit(
                name=f"at least {self.at_least} {self.of}", weights=weights, constant=constant, limit=-self.at_least
            )
        if self.at_most is not None:
            weights, constant = slots.total(self._counts)
            yield LinearLimit(
                name=f"at most {self.at_most} {self.of}", weights=weights, constant=constant, limit=self.at_most
            )
        if self.in_a_row is not None:
            for first in range(slots.n_layers - self.in_a_row):
                weights, constant = slots.total(self._counts, range(first, first + self.in_a_row + 1))
                yield LinearLimit(
                    name=f"at most {self.in_a_row} {self.of} in a row, layers {first} to {first + self.in_a_row}",
                    weights=weights,
                    constant=constant,
                    limit=self.in_a_row,
                )

    def _counts(self, choice: str) -> float:
        """1 for a choice whose mixer the rule is about, 0 for another."""
        return float(choice.partition(PLUS)[0] in self.mixers)


def rule_limits(rules: Sequence[Rule], slots: Slots) -> tuple[LinearLimit, ...]:
    """All rules as linear limits.

    Raises:
        UsageError: a single one of them is more than any layout keeps.
    """
    limits = tuple(limit for rule in rules for limit in rule.limits(slots))
    for limit in limits:
        if not limit.allows(limit.least()):
            raise UsageError(f"rules: no layout has {limit.name}; relax the rule, or allow other mixers in [slots]")
    return limits
