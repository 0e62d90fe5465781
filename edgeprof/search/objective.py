"""What a search calls quality: the built-in proxy, a short training on the user's text, or a function or a command of the user's.

An objective scores one architecture. A score carries its own noise, so that a search can tell luck from quality.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from edgeprof.core.errors import EdgeprofError, UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.models.config import ArchConfig
from edgeprof.search.twin import TwinReference

Direction = Literal["maximize", "minimize"]

Report = Callable[[int, float], None]
"""Takes a step and its value while a score is computed; what it raises ends the scoring (Optuna's TrialPruned)."""

COMMAND_TIMEOUT_S = 3600.0
"""Seconds that a user's command may take; a search asks for hundreds of scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """An architecture's quality: the value, its standard error (None: unknown), and the seconds that it took.

    ``parts`` are the figures that the value is made of, by name, in units of their own.
    """

    value: float
    se: float | None
    seconds: float
    parts: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How thorough a score is: how many times as long as the standard training, and over how many seeds."""

    name: str
    length: float = 1.0
    seeds: int = 1


class ObjectiveError(EdgeprofError):
    """An objective could not score an architecture: says which and why, in one line (exit 2)."""


class Objective(Protocol):
    """Scores architectures; scores of one objective, stage and seed may be compared, others not."""

    @property
    def name(self) -> str:
        """What it measures and on what: equal names mean comparable scores."""

    @property
    def direction(self) -> Direction:
        """Whether a larger or a smaller value is better."""

    @property
    def final_stage(self) -> Stage:
        """The stage for the best few."""

    def stage(self, name: str) -> Stage:
        """The stage called ``name``; "" is the one for every candidate.

        Raises:
            UsageError: there is none; the message offers those that there are.
        """

    def score(self, config: ArchConfig, *, seed: int, budget: Stage, report: Report) -> Score:
        """The quality of an architecture. ``report`` gets values on the same grid of steps for every architecture.

        Raises:
            ObjectiveError: it cannot be scored.
        """


def find_stage(objective: str, name: str, stages: tuple[Stage, ...]) -> Stage:
    """The stage called ``name`` of those that an objective has; the first one for "".

    Raises:
        UsageError: there is none.
    """
    known = {stage.name: stage for stage in stages}
    if name and name not in known:
        raise UsageError(
            f"stage: {name!r:.80} is none of the objective {objective:.80}; {did_you_mean(name, [*known])}"
        )
    return known[name] if name else stages[0]


def load_objective(
    source: str,
    *,
    reference: TwinReference | None = None,
    direction: Direction | None = None,
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> Objective:
    """The objective that a text names: ``proxy``, ``perplexity:FILE``, ``module:function`` or ``cmd:COMMAND ...``.

    ``proxy:text=1,recall=2`` weighs the proxy's parts.

    ``reference`` is the space's (``twin.reference_of(space.blocks())``), for the two that train twins. ``direction`` is that of
    the user's own function or command: up unless it says otherwise. ``timeout_s`` is for a command.

    Raises:
        UsageError: there is no such objective, or its file, function or command cannot be used.
    """
    kind, colon, rest = source.partition(":")
    if kind in ("proxy", "perplexity") and direction is not None:
        raise UsageError(f"direction: the objective {kind} has its own; leave it out")
    if kind == "proxy":
        from edgeprof.search.proxy import load_proxy

        return load_proxy(rest, reference or TwinReference())
    if kind == "perplexity":
        from edgeprof.search.perplexity import load_perplexity

        return load_perplexity(rest, reference or TwinReference())
    from edgeprof.search.user_objective import load_command, load_function

    if kind == "cmd":
        return load_command(rest, direction or "maximize", timeout_s)
    if not colon:
        meant = did_you_mean(source[:80], ["proxy", "perplexity:FILE", "MODULE:FUNCTION", "cmd:COMMAND"])
        raise UsageError(f"objective: {source!r:.80} is none; {meant}")
    return load_function(kind, rest, direction)
