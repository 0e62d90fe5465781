"""The run of a check: block after block until every case is clear or the time is up, and fresh blocks for what looks slower.

A case is looked at after the numbers of blocks that its plan says, and once more when its time is up; what it says never decides
how long it may go on, except at those looks. A case that looks slower goes on with blocks of a second run at once, beside those
that are still open: it shares their processes, and its first run's blocks are closed.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgeprof.bench.prepare import Reporter
from edgeprof.regress.sequential import MIN_BLOCKS, Block, Plan, look
from edgeprof.regress.side_by_side import BlockSource
from edgeprof.regress.verdict import judge, rerun_plan, suspects

FIRST_RUN_SHARE = 0.8
"""Part of the time after which first runs end, each with its last look; it is fixed, so that nobody peeks.

A block of second runs alone holds few cases and is short: in five minutes the rest is enough for ten blocks of one case.
"""

Clock = Callable[[], float]


@dataclass(slots=True)
class Blocks:
    """The blocks of the first run and of the second, by case key, and how long they took in all and the last one alone."""

    first: dict[str, list[Block]]
    again: dict[str, list[Block]] = field(default_factory=dict)
    seconds: float = 0.0
    seconds_a_block: float = 0.0


class Check:
    """One run over a suite's cases."""

    def __init__(
        self,
        source: BlockSource,
        case_keys: Sequence[str],
        plan: Plan,
        *,
        budget_s: float,
        reporter: Reporter,
        clock: Clock = time.monotonic,
    ) -> None:
        self._source = source
        self._plan = plan
        self._again = rerun_plan(plan)
        self._budget_s = budget_s
        self._reporter = reporter
        self._clock = clock
        self._open = dict.fromkeys(case_keys, 1)
        self.blocks = Blocks(first={key: [] for key in case_keys})

    def run(self) -> Blocks:
        """Measures until nothing is open or the time is up."""
        begin = self._clock()
        first_is_over = False
        self._reporter.stage("measure", math.ceil(self._budget_s))
        while self._open:
            used = self._clock() - begin
            if not first_is_over and not self._fits(used, self._budget_s * FIRST_RUN_SHARE):
                first_is_over = True
                self._end_first_run()
                continue
            if first_is_over and not self._fits(used, self._budget_s):
                break
            self._one_block()
            self.blocks.seconds = self._clock() - begin
            self.blocks.seconds_a_block = self.blocks.seconds - used
            self._tell(int(self.blocks.seconds) - int(used))
        return self.blocks

    def _tell(self, seconds: int) -> None:
        """Progress is in seconds of the budget: how many blocks a case will need, nobody knows."""
        runs = list(self._open.values())
        n_blocks = max(map(len, self.blocks.first.values()), default=0)
        for _ in range(seconds):
            self._reporter.step(f"{n_blocks} blocks, {runs.count(1)} cases open, {runs.count(2)} run again")

    def _fits(self, used: float, limit: float) -> bool:
        """Whether one more block, as long as the last one, ends before the limit; the very first always does."""
        return not self.blocks.seconds_a_block or used + self.blocks.seconds_a_block <= limit

    def _one_block(self) -> None:
        found = self._source.measure(dict(self._open))
        for key, block in found.items():
            mine = self.blocks.first if self._open[key] == 1 else self.blocks.again
            mine.setdefault(key, []).append(block)
        for key in list(self._open):
            if key in self._source.failures:
                del self._open[key]
            elif key in found:
                self._look(key)

    def _look(self, key: str) -> None:
        """Looks at a case where its plan says so; what is decided is closed, what looks slower begins its second run."""
        run = self._open[key]
        blocks, plan = (self.blocks.first, self._plan) if run == 1 else (self.blocks.again, self._again)
        n = len(blocks[key])
        if n not in plan.looks:
            return
        if look(blocks[key], plan).state != "go_on" or n == plan.looks[-1]:
            self._close(key, run)

    def _close(self, key: str, run: int) -> None:
        """Closes a case's run; one that its first run makes suspect begins its second."""
        del self._open[key]
        if run == 1 and key in suspects(self.blocks.first, self._plan):
            self._open[key] = 2

    def _end_first_run(self) -> None:
        """The last look at the cases that are still in their first run: what is suspect runs again, the rest is closed."""
        suspect = set(suspects(self.blocks.first, self._plan))
        for key, run in list(self._open.items()):
            if run == 1:
                del self._open[key]
                if key in suspect:
                    self._open[key] = 2


def needed_seconds(blocks: Blocks, plan: Plan) -> float | None:
    """About how long a check would have to be to be clear about every case that this one leaves open; None if no time helps.

    The width of an interval falls with the root of the blocks; what stays wider than the floor after the plan's last look is
    noise that no longer check of this plan overcomes, and nothing is narrower than a floor of 0. A first look and a second run of
    it are always counted.
    """
    verdicts = judge(blocks.first, plan, blocks.again)
    most = 0.0
    for key, verdict in verdicts.items():
        if verdict.outcome != "inconclusive":
            continue
        if not plan.floor:
            return None
        n = max(len(blocks.first[key]), 1)
        if n < MIN_BLOCKS or verdict.ratio_ci95 is None:
            wanted = float(plan.looks[0])
        else:
            low, high = (math.log(bound) for bound in verdict.ratio_ci95)
            wanted = n * ((high - low) / 2 / math.log1p(plan.floor)) ** 2 if high > low else n
            wanted = max(wanted, n + 1, plan.looks[0])
        if wanted > plan.looks[-1]:
            return None
        most = max(most, next(at for at in plan.looks if at >= wanted))
    return most * blocks.seconds_a_block / FIRST_RUN_SHARE if most else 0.0
