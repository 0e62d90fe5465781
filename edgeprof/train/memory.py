"""Memory that is gone, told in one line, and the most that a process has taken."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgeprof.core.errors import UsageError

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")
"""What torch's RuntimeError says when the CPU's memory is gone."""


@contextmanager
def told_as_usage() -> Iterator[None]:
    """Turns a failed allocation into one line.

    Raises:
        UsageError: says what to lower.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        gone = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(t in str(error) for t in OUT_OF_MEMORY)
        if not gone:
            raise
        raise UsageError(
            "out of memory: a step does not fit; use a smaller --micro-batch, a shorter --seq-len, or --checkpoint-activations"
        ) from None


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has taken so far: resident on the CPU, allocated on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
