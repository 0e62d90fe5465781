"""The sentinel: one fixed piece of work, repeated through a session, that shows how the host itself drifts."""

import time

REPEATS = 9
ROWS = COLUMNS = 3072
"""A 36 MiB matrix in fp32: like a decode step it is bound by memory, and it is larger than a core's own caches."""


def sentinel_ns() -> list[int]:
    """Times of a fixed matrix-vector product in numpy, in ns; the same work in every process whatever its runtime."""
    import numpy as np

    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    vector = rng.standard_normal(COLUMNS, dtype=np.float32)
    out = np.empty(ROWS, np.float32)
    times = []
    for repeat in range(REPEATS + 2):
        begin = time.perf_counter_ns()
        np.dot(matrix, vector, out=out)
        if repeat >= 2:
            times.append(time.perf_counter_ns() - begin)
    return times
