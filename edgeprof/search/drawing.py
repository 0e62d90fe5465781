"""A layout as a stack of blocks, a line for each run of equal layers, with what each takes of a token's predicted time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from edgeprof.predict.plan import cell_case, places
from edgeprof.predict.predict import predict_calls
from edgeprof.search.budgets import Budget
from edgeprof.search.costs import Costs
from edgeprof.search.linear import Layout
from edgeprof.search.slots import PLUS
from edgeprof.search.space import FFN, Space

BAR_WIDTH = 40
"""Characters of a bar that would take the whole token."""

BLOCK = "▇"

ENDS = ("embedding", "head")
"""The parts of a model that are no layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShares:
    """What each part of a model takes of a predicted token: by layer, and by name for embedding and head.

    ``budget`` is the one whose context and place are meant. What is left to 1 is the boundary of the call and averaging.
    """

    budget: Budget
    layers: Sequence[float]
    ends: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackLine:
    """One line of a drawing: ``count`` equal layers from ``first`` on, or a part that is no layer (``first`` is None).

    ``share`` is that of all ``count`` together.
    """

    first: int | None
    count: int
    mixer: str
    ffn: str
    share: float | None


def token_shares(costs: Costs, layout: Layout) -> TokenShares | None:
    """The shares under the first budget of a token's time; None where there is none, or a cell of it is not measured.

    Of two neighbours that are one cell each has half.
    """
    budget = next((b for b in costs.budgets if b.metric == "tpot" and b.device in costs.knowledge), None)
    if budget is None:
        return None
    known = costs.knowledge[budget.device]
    target = costs.make_target(budget, costs.space.config(layout))
    (call,) = costs.calls_of(budget)
    found = predict_calls(target, known, known.evidence(), (call,))
    if found.uncorrected_ns is None:
        return None
    of_cell = {term.case.key: term.ns / found.uncorrected_ns for term in found.terms}
    of_end = {term.case.op: term.ns / found.uncorrected_ns for term in found.terms if term.case.op in ENDS}
    layers = [
        of_cell[cell_case(target, call, place.spec).key] / len(place.paths)
        for place in places(target, call)[1:-1]
        for _ in place.paths
    ]
    return TokenShares(budget=budget, layers=layers, ends=of_end)


def layout_label(space: Space, layout: Layout) -> str:
    """A layout in one line: the pattern of its mixers where a letter can mean only one of the space's, else their labels."""
    shared_ffn = f" {layout[FFN]}" if FFN in layout else ""
    operators = {space.table[mixer, space.ffns[0]].mixer.name for mixer in space.mixers}
    if len(operators) == len(space.mixers) and not space.ffn_per_layer:
        return space.config(layout).pattern + shared_ffn
    runs = ((choice, len(list(same))) for choice, same in groupby(space.slots.chosen(layout)))
    return " ".join(f"{choice}x{n}" if n > 1 else choice for choice, n in runs) + shared_ffn


def stack(space: Space, layout: Layout, shares: TokenShares | None = None) -> list[StackLine]:
    """The layers of a layout by their labels in the space, equal neighbours on one line; with shares also embedding and head."""
    shared_ffn = layout.get(FFN, space.ffns[0])
    labels = []
    for choice in space.slots.chosen(layout):
        mixer, _, own_ffn = choice.partition(PLUS)
        labels.append((mixer, own_ffn or shared_ffn))
    lines = []
    for (mixer, ffn), same in groupby(range(len(labels)), key=labels.__getitem__):
        layers = list(same)
        share = None if shares is None else sum(shares.layers[i] for i in layers)
        lines.append(StackLine(first=layers[0], count=len(layers), mixer=mixer, ffn=ffn, share=share))
    if shares is None:
        return lines
    first, last = (StackLine(first=None, count=1, mixer=name, ffn="", share=shares.ends.get(name)) for name in ENDS)
    return [first, *lines, last]


def stack_text(lines: Sequence[StackLine]) -> list[str]:
    """The drawing, in plain characters: the first layer, what it is made of, how many follow alike, and the share as a bar."""
    mixers, ffns = (max(len(getattr(line, name)) for line in lines) for name in ("mixer", "ffn"))
    digits = max(len(str(line.first)) for line in lines if line.first is not None)
    counts = max((len(f"x{line.count}") for line in lines if line.count > 1), default=0)
    return [_line(line, digits, mixers, ffns, counts) for line in lines]


def _line(line: StackLine, digits: int, mixers: int, ffns: int, counts: int) -> str:
    first = "" if line.first is None else str(line.first)
    times = f"x{line.count}" if line.count > 1 else ""
    words = [f" {first:>{digits}}", f"{line.mixer:<{mixers}}", f"{line.ffn:<{ffns}}"]
    words += [f"{times:<{counts}}"] if counts else []
    if line.share is not None:
        words += [f"{line.share:6.1%}", BLOCK * max(1, round(line.share * BAR_WIDTH))]
    return "  ".join(words).rstrip()
