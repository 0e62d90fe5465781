"""What a device multiplies at best, which a training step is held against. Measured once a machine, and kept in the cache."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from edgeprof.core.canonical import short_hash
from edgeprof.train.precision import best_seconds

log = logging.getLogger(__name__)

CUDA_SIZE = 8192
"""Rows and columns of the matrices that a GPU multiplies for its roof."""


def find_roof(device: torch.device, precision: str) -> float | None:
    """FLOP/s of the best matrix product in this precision, by ``bench``'s probes on a CPU; None where it cannot be measured.

    A multiply-add counts as two.
    """
    if device.type == "cuda":
        return _cuda_roof(device, precision)
    n_threads = torch.get_num_threads()
    path = roof_path(n_threads)
    stored = _stored(path)
    if stored is None:
        stored = _measure(n_threads)
        if stored is None:
            return None
        _store(path, stored)
    return stored.get(precision)


def roof_path(n_threads: int) -> Path:
    """Where the roof of this machine with so many threads is kept, under these conditions."""
    from edgeprof.devices.base import fingerprint
    from edgeprof.devices.local import LOCAL
    from edgeprof.runtimes.artifact import cache_root

    name = short_hash([LOCAL.profile().id, fingerprint(LOCAL.environment()), torch.__version__, n_threads])
    return cache_root() / "roof" / f"{name}.json"


def _stored(path: Path) -> dict[str, float] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):  # there is none yet, or half of one
        return None
    if not isinstance(found, dict) or not all(isinstance(v, float) and v > 0 for v in found.values()):
        return None
    return found


def _store(path: Path, flops_per_s: Mapping[str, float]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(flops_per_s))
        temporary.replace(path)
    except OSError as error:
        log.warning("the roof cannot be kept in %s (%s): it will be measured again", path.parent, error.strerror)


def _measure(n_threads: int) -> dict[str, float] | None:
    """In a process of its own, so that what the probes take leaves this one's memory alone."""
    from edgeprof.bench.jobs import Item, Job, job_to_json
    from edgeprof.bench.prepare import ROOF_RUNTIME, SILENCE_S
    from edgeprof.bench.protocol import protocol_for
    from edgeprof.devices.worker_process import WorkerLostError, run_worker

    job = Job(
        runtime=ROOF_RUNTIME, n_threads=n_threads, cpus=[], items=[Item(kind="roof")], protocol=protocol_for("quick")
    )
    try:
        for event in run_worker(job_to_json(job), n_threads=n_threads, silence_s=SILENCE_S["roof"]):
            if event["event"] == "done":
                return {str(name): float(rate) for name, rate in event["roof"]["flops_per_s"].items()}
    except WorkerLostError as lost:
        log.warning("the roof could not be measured (%s): no MFU is shown", lost)
    return None


def _cuda_roof(device: torch.device, precision: str) -> float:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(CUDA_SIZE, CUDA_SIZE, device=device, dtype=dtype) for _ in range(2))
    (seconds,) = best_seconds([lambda: torch.mm(left, right)], device, tries=10)
    return 2 * CUDA_SIZE**3 / seconds
