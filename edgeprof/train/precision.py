"""The format that matrices are multiplied in: bf16 by autocast where that is faster on this machine, which is measured."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from edgeprof.train.settings import Precision

FASTER = 1.1
"""bf16 must be this much faster to be chosen: it rounds, and timings vary."""

TRIES = 3
"""Timed calls of each kind."""


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Runs a forward pass in this format; weights, sums and the residual stream stay in fp32."""
    with warnings.catch_warnings(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        # a norm's fp32 scales beside bf16 heads, as autocast leaves them
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        yield


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(calls: Sequence[Callable[[], object]], device: torch.device, tries: int = TRIES) -> list[float]:
    """The shortest time of each call, after one that warms up; they take turns, so that all meet the same machine."""
    best = [float("inf")] * len(calls)
    for number in range(tries + 1):
        for index, call in enumerate(calls):
            synchronise(device)
            begin = time.perf_counter()
            call()
            synchronise(device)
            if number:
                best[index] = min(best[index], time.perf_counter() - begin)
    return best
