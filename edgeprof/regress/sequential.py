"""How many blocks a case needs: looks that are fixed before the run, and an error rate that all of them share.

A *block* is base and head measured in four fresh processes in the order ABBA, or BAAB where a coin says so. Its one datum is the
logarithm of the head's time over the base's, each the geometric mean of its two processes: linear drift cancels in it. The
coin makes the sign of a block fair where the sides do not differ, whatever drifts and however uneven the noise: without it
nothing here holds.

The procedure is group-sequential. ``Plan.looks`` says after how many blocks each case is looked at, and the error is spent on
the looks by a function of the blocks there are then (Kim and DeMets' power family): little while there is little to see, most
at the end. The looks' levels add up to alpha, so by Bonferroni the chance that the interval of *any* look misses the true ratio
is at most alpha, whatever the dependence between looks, and so for the look at which a case stopped. Exact recursive boundaries
would be somewhat narrower, but rest on normal increments, which times on a shared host are not. E-values and confidence sequences
would allow a look after every block, which nothing here needs, and pay for it in width. Within a look, ranks decide:
edgeprof/stats/signed_rank.py says why.

Source: K. K. G. Lan and D. L. DeMets, Biometrika 70 (1983), 659; the power family: K. Kim and D. L. DeMets, Biometrika 74
(1987), 149; repeated intervals: C. Jennison and B. W. Turnbull, Journal of the Royal Statistical Society B 51 (1989), 305.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from edgeprof.core.errors import UsageError
from edgeprof.stats.ratios import noise_floor
from edgeprof.stats.signed_rank import signed_rank_centre

State = Literal["regression", "improvement", "equivalence", "go_on"]

MIN_BLOCKS = 6
"""Fewest blocks that say anything: with fewer, no order of signs is as rare as 1 in 20.

Source: the two-sided sign patterns of n pairs, 2 ** (1 - n); below 6 a side a rank test says nothing either.
"""

SPENDING_POWER = 1.5
"""How late the error is spent: alpha * (blocks / most blocks) ** this.

At 1 (near Pocock's) a last look pays most for early ones; at 3 (near O'Brien and Fleming's) a look after ten blocks, whose rarest
pattern of signs has a probability of 0.002, could never tell. 1.5 is about the latest that lets it: it spends 0.0022 there.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Two processes of either side: logarithms of the times (in ns) of the base and of the head, in the order measured."""

    base: tuple[float, float]
    head: tuple[float, float]

    @property
    def log_ratio(self) -> float:
        """Logarithm of the head's time over the base's."""
        return (sum(self.head) - sum(self.base)) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is fixed before the run. ``n_cases`` is the size of the suite, ``floor`` the least change of the ratio worth telling.

    ``device_noise`` is the device's own A/A noise from earlier runs, where it is known: no alarm lies below it.
    """

    alpha: float = 0.05
    floor: float = 0.025
    looks: tuple[int, ...] = (10, 13, 17, 24, 40)
    n_cases: int = 1
    device_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha: {self.alpha} is not an error rate; use a number between 0 and 1, such as 0.05")
        for name, value in (("floor", self.floor), ("device_noise", self.device_noise)):
            if not 0 <= value < 1:
                raise UsageError(f"{name}: {value} is not a share of the time; use 0.03 for 3 %")
        if not self.looks or self.looks[0] < MIN_BLOCKS or any(a >= b for a, b in pairwise(self.looks)):
            raise UsageError(f"looks: {self.looks} are not rising numbers of blocks from {MIN_BLOCKS} on")
        if self.n_cases < 1:
            raise UsageError(f"n_cases: {self.n_cases} is not the size of a suite; use 1 or more")

    def spent(self, n_blocks: int) -> float:
        """The part of alpha that may have been spent by then."""
        return float(self.alpha * min(1.0, n_blocks / self.looks[-1]) ** SPENDING_POWER)

    def level(self, n_blocks: int, *, last: bool) -> float:
        """What a look after ``n_blocks`` may spend; the last one spends all that is left."""
        before = [look for look in self.looks if look < n_blocks]
        until_then = self.spent(before[-1]) if before else 0.0
        return (self.alpha if last else self.spent(n_blocks)) - until_then


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a look saw. ``ratio_ci95`` (at 1 - alpha) and ``p`` hold over all looks of the plan.

    The interval is None where the blocks are too few to bound the ratio: below MIN_BLOCKS, and at small levels above it.

    ``floor`` is what the interval was held against: the plan's for an equivalence; for the rest the A/A noise of this case or
    of the device where that is larger, which is looked at where it matters (beyond the plan's floor, and at the last look).
    """

    state: State
    n_blocks: int
    ratio: float | None
    ratio_ci95: tuple[float, float] | None
    p: float
    floor: float


def look(blocks: Sequence[Block], plan: Plan, *, last: bool = False) -> Decision:
    """Decides on a case after a planned number of blocks, or after any number if these are all there will be (``last``).

    It must be time, a count or an interruption that made them the last, not what they say.

    * ``regression``, ``improvement``: the interval lies wholly beyond the floor, which A/A noise raises, and p is small enough
      to stand whatever the other cases of the suite say; at the last look p is left to the correction over the suite.
    * ``equivalence``: the interval lies inside the plan's own floor. Noise does not widen it: a noisy case is open, not
      unchanged.
    * ``go_on``: neither.

    Raises:
        ValueError: the number of blocks is not a planned one and more are to come: peeking spends an error that nobody counts.
    """
    n = len(blocks)
    if not last and n not in plan.looks:
        raise ValueError(f"a look after {n} blocks was not planned (planned: {plan.looks})")
    ratios = np.array([block.log_ratio for block in blocks])
    if n < MIN_BLOCKS:
        estimate = math.exp(float(np.median(ratios))) if n else None
        return Decision(state="go_on", n_blocks=n, ratio=estimate, ratio_ci95=None, p=1.0, floor=plan.floor)
    level = plan.level(n, last=last)
    centre = signed_rank_centre(ratios, level)
    p = min(1.0, centre.p_value * plan.alpha / level)
    low, high = centre.bounds
    least = math.log1p(plan.floor)
    floor = plan.floor
    if last or low > least or high < -least:
        floor = max(floor, plan.device_noise, aa_noise(blocks))
    state: State = "go_on"
    if max(-low, high) < least:
        state, floor = "equivalence", plan.floor
    elif last or p <= plan.alpha / plan.n_cases:
        state = "regression" if low > math.log1p(floor) else "improvement" if high < -math.log1p(floor) else "go_on"
    return Decision(
        state=state,
        n_blocks=n,
        ratio=math.exp(centre.estimate),
        ratio_ci95=(math.exp(low), math.exp(high)) if low > -math.inf else None,
        p=p,
        floor=floor,
    )


def conclude(blocks: Sequence[Block], plan: Plan) -> Decision:
    """The decision that these blocks lead to: that of the first planned look with one, else that of a last look at all of them.

    Blocks after the look that decided (other cases still needed theirs) are left out, so the answer does not depend on them.
    """
    for n in plan.looks:
        if n <= len(blocks):
            decision = look(blocks[:n], plan)
            if decision.state != "go_on":
                return decision
    return look(blocks[: plan.looks[-1]], plan, last=True)


def aa_noise(blocks: Sequence[Block]) -> float:
    """How far from 1 the ratio of as many blocks comes where nothing changed: its 95th percentile, measured in these very blocks.

    The two processes of a side differ by noise alone, base against base and head against head. Such a difference has twice the
    variance of a block and there are twice as many, so their mean scatters just as the ratio does. Drift, which cancels in a
    block, stays in and raises it; a true change does not.
    """
    pairs = {(i, name): getattr(block, name) for i, block in enumerate(blocks) for name in ("base", "head")}
    floor = noise_floor({"case": pairs})
    assert floor is not None
    return floor.pooled
