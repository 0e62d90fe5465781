"""Processes that took turns: what each of them adds to a time, whatever the host did meanwhile."""

from collections.abc import Sequence

import numpy as np

LOAD_QUANTILE = 0.25
"""Which of a load's samples it counts with: the host and its other tenants make calls slower, never faster.

Blocks of unchanged code (suite ``ci``, five loads a process) scatter by 1.4 % with it and by 1.8 % with the median. A change that
touches fewer than three quarters of the calls moves no quartile, one that touches fewer than half no median either.
"""


def log_times_in_turns(processes: Sequence[Sequence[Sequence[int]]]) -> list[float]:
    """One logarithm of a time in ns for each process, of which only the differences are sharp.

    ``processes[i][k]`` are the samples of the k-th load of a process. The k-th loads of all of them were measured in turns, so
    two processes differ by the median over k of how their k-th loads differ: what slowed down both is left out, and a load
    that was disturbed alone has no say. A process stands where its differences to all of them put it, on average. If all
    loads of a process get slower by one factor, its time does so exactly.

    Raises:
        ValueError: there is no load, or the processes have different numbers of them.
    """
    if len({len(loads) for loads in processes}) != 1 or not processes[0]:
        raise ValueError("processes that took turns have equally many loads, at least one")
    logs = np.array([[np.log(np.quantile(samples, LOAD_QUANTILE)) for samples in loads] for loads in processes])
    differences = np.median(logs[:, None, :] - logs[None, :, :], axis=2)
    times: list[float] = (logs.mean() + differences.mean(axis=1)).tolist()
    return times
