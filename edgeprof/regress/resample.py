"""Synthetic checks drawn from recorded processes: what the procedure says where the truth is known, because it was put there.

The unit that is drawn is the process, never the sample: samples of one process repeat each other. A block is drawn as four
processes of one case that ran in one session, a few turns apart, in the order they were measured; a coin says which two are the
base's. So both sides come from the same code (A/A), and a slowdown is what is added to the head's.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprof.core.types import BenchCase, InstanceRecord
from edgeprof.regress.sequential import Block
from edgeprof.stats.quantiles import log_median

WINDOW = 7
"""Turns of a session that the processes of one block are drawn from: near each other in time, as in a check.

A session of quick effort has seven rounds. A check's four processes follow one another, so drawn blocks hold rather too much
of the host's drift.
"""

MIN_PROCESSES = 4
"""Fewest processes that make a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCase:
    """One case in one session, a value for each process in the order of measuring.

    ``log_times``: logarithms of the process's time in ns (``process_time``); ``mean_ns``: the mean of the samples of its first
    load, which is what a benchmark without a notion of loads would keep; ``seconds``: what one process spent on this case.
    """

    case: BenchCase
    session_id: str
    log_times: tuple[float, ...]
    mean_ns: tuple[float, ...]
    seconds: float

    @property
    def block_seconds(self) -> float:
        """What one block of this case costs: four processes' share."""
        return 4 * self.seconds


def process_time(loads: Sequence[Sequence[int]]) -> float:
    """A process's time for a case: logarithm of the smallest of the medians of its loads.

    Where a load's memory happens to lie, and other tenants, can only slow it down, so the best load of a process repeats best:
    on the recordings in the repository, blocks of hot decode scatter by 3.5 % so, and by 7.9 % as means over two loads
    (medians over the cases). The least of more loads is smaller, so both sides need equally many.

    Raises:
        ValueError: there is no load, or one has no samples.
    """
    if not loads:
        raise ValueError("a process needs at least one load")
    return min(log_median(samples) for samples in loads)


def recorded_cases(records: Iterable[InstanceRecord]) -> list[RecordedCase]:
    """The cases that can be resampled: measured in at least MIN_PROCESSES processes of one session, with equally many loads each.

    Processes that lost a load are left out.
    """
    found: dict[tuple[str, str], dict[int, list[InstanceRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.kind == "latency" and record.status == "ok":
            found[record.session_id, record.case_key][record.round].append(record)
    cases = []
    for (session, _), rounds in found.items():
        n_loads = max(len(loads) for loads in rounds.values())
        whole = [loads for _, loads in sorted(rounds.items()) if len(loads) == n_loads]
        if len(whole) >= MIN_PROCESSES:
            cases.append(_recorded_case(session, whole))
    return cases


def _recorded_case(session: str, processes: list[list[InstanceRecord]]) -> RecordedCase:
    case = processes[0][0].case
    assert case is not None
    return RecordedCase(
        case=case,
        session_id=session,
        log_times=tuple(process_time([load.samples_ns for load in loads]) for loads in processes),
        mean_ns=tuple(float(np.mean(loads[0].samples_ns)) for loads in processes),
        seconds=float(np.mean([sum(_seconds(load) for load in loads) for loads in processes])),
    )


def _seconds(load: InstanceRecord) -> float:
    """Loading, warm-up and samples of one load; starting the process is shared by all cases in it and left out."""
    warm_up = (load.warmup_calls or 0) * float(np.median(load.samples_ns))
    return ((load.load_ns or 0) + (load.first_call_ns or 0) + warm_up + sum(load.samples_ns)) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Which processes of a case make the blocks of a synthetic check: indices by side, shape (blocks, 2), in time order."""

    base: np.ndarray
    head: np.ndarray

    def blocks(self, case: RecordedCase, slowdown: float = 0.0) -> list[Block]:
        """The blocks, with a head that takes 1 + ``slowdown`` times as long as it was measured."""
        times, added = np.array(case.log_times), math.log1p(slowdown)
        sides = zip(times[self.base].tolist(), (times[self.head] + added).tolist(), strict=True)
        return [Block(base=tuple(base), head=tuple(head)) for base, head in sides]


def draw(case: RecordedCase, n: int, rng: np.random.Generator) -> Drawn:
    """``n`` blocks: four different processes of WINDOW turns in a row, the outer two one side and the inner two the other."""
    window = min(WINDOW, len(case.log_times))
    starts = rng.integers(0, len(case.log_times) - window + 1, n)
    chosen = np.sort(rng.random((n, window)).argsort(axis=1)[:, :4], axis=1) + starts[:, None]
    outer, inner = chosen[:, [0, 3]], chosen[:, [1, 2]]
    base_outside = rng.random((n, 1)) < 0.5
    return Drawn(base=np.where(base_outside, outer, inner), head=np.where(base_outside, inner, outer))
