"""The cells that a whole space needs, and the rings that measure them all at once."""

import math
from collections.abc import Container, Sequence

from edgeprof.core.types import BenchCase, RingPlan
from edgeprof.operators.traffic import case_bytes, working_set_bytes
from edgeprof.predict.evidence import ABOVE, BELOW
from edgeprof.predict.plan import cell_case, cells, make_ring, working_set
from edgeprof.predict.types import ModelCall, Target
from edgeprof.search.space import Space

MOST_PREFILL_BLOCKS = 4
"""Blocks of a prefill ring: more loaded sessions, each with an arena of its own, overcharge each other."""

RINGS_OF_A_SPACE = 3
"""Most numbers of turns in which a block is measured: the smallest model's, the largest one's, and one between."""


def space_rings(
    space: Space, target: Target, call: ModelCall, extremes: tuple[Target, Target], without: Container[str] = ()
) -> list[RingPlan]:
    """Rings in which every block that the space may use is a cell, around the working sets of all its models.

    ``without`` has the keys of cells that cannot be measured: one such cell would spoil its ring for all others. ``target``
    tells the runtime and the format; its own layers do not matter. ``extremes`` are the models with the smallest and the
    largest working set. A turn holds as many blocks as the smallest model's working set takes, so that no model lies below the
    rings.
    """
    found = cells(target, call)
    first, last = found[0].case, found[-1].case
    blocks = [case for block in space.blocks() if (case := cell_case(target, call, block)).key not in without]
    ends = working_set_bytes([first, last])
    low, high = (working_set(extreme, call) - ends for extreme in extremes)
    rings = []
    for turn in _turns(blocks, low / BELOW, most=MOST_PREFILL_BLOCKS if call.phase == "prefill" else len(blocks)):
        size = working_set_bytes(turn)
        counts = [1, 2] if call.phase == "prefill" else _numbers_of_turns(low / size, high / size)
        rings += [make_ring(first, turn, n, last, f"space-{space.name}") for n in counts]
    return rings


def _turns(blocks: Sequence[BenchCase], most_bytes: float, *, most: int) -> list[list[BenchCase]]:
    """The blocks in few turns that keep to ``most_bytes`` and ``most`` blocks each: the largest first, each where it fits.

    A block that is larger has a turn of its own: no model with it in it is smaller than that.
    """
    turns: list[list[BenchCase]] = []
    for block in sorted(blocks, key=case_bytes, reverse=True):
        fitting = (t for t in turns if len(t) < most and working_set_bytes([*t, block]) <= most_bytes)
        turn = next(fitting, None)
        if turn is None:
            turns.append([block])
        else:
            turn.append(block)
    return turns


def _numbers_of_turns(low: float, high: float) -> list[int]:
    """Turns whose rings lie around all working sets from ``low`` to ``high``, both in units of a turn."""
    begin, end = max(1, math.floor(low + 1e-9)), max(1, math.ceil(high / ABOVE - 1e-9))
    if end <= begin:
        end = begin + 1
    middle = round(math.sqrt(begin * end))
    return sorted({begin, middle, end})[:RINGS_OF_A_SPACE]
