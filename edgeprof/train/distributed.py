"""The processes of a run, as torchrun starts them, and the network spread over them."""

import datetime
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from edgeprof.core.errors import UsageError
from edgeprof.train.network import Network

PATIENCE = datetime.timedelta(hours=12)
"""How long processes wait for the first one: it may be packing large data. torchrun ends them where one of them dies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among those of the run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and talks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, value: float) -> float:
        """The first process's value."""
        if self.world_size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return float(shared)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one of them."""
        return bool(self.sum(torch.tensor([int(flag)], device=self.device)).item())

    @contextmanager
    def together(self) -> Iterator[None]:
        """Each process does its body; none goes on before all have done it, and none where one of them failed.

        Raises:
            UsageError: another process failed, which says why itself.
        """
        failed = True
        try:
            yield
            failed = False
        finally:
            failed_somewhere = self.any(failed)
        if failed_somewhere:
            raise UsageError("another process of the run failed; its own message says why")


def find_device(asked: str) -> torch.device:
    """The device of this process: ``auto`` takes CUDA where there is one.

    Raises:
        UsageError: there is no such device.
    """
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if asked not in ("auto", "cuda"):
        raise UsageError(f"--device: {asked!r:.40} is none; use auto, cpu or cuda")
    if not torch.cuda.is_available():
        raise UsageError("--device: cuda: this PyTorch finds no CUDA device; use cpu, or install PyTorch for CUDA")
    index = _environment("LOCAL_RANK", 0)
    if index >= torch.cuda.device_count():
        raise UsageError(f"--device: cuda: {torch.cuda.device_count()} devices for more processes; start fewer of them")
    return torch.device("cuda", index)


@contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """This process alone, or among those that torchrun started: RANK and WORLD_SIZE say so.

    Raises:
        UsageError: the environment names them wrongly.
    """
    world_size, rank = _environment("WORLD_SIZE", 1), _environment("RANK", 0)
    if not 0 <= rank < world_size:
        raise UsageError(f"RANK: {rank} is not below WORLD_SIZE = {world_size}; start the processes with torchrun")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Processes(rank=0, world_size=1, device=device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=PATIENCE)
    try:
        yield Processes(rank=rank, world_size=world_size, device=device)
    finally:
        dist.destroy_process_group()


def _environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(f"{name}: {text!r:.40} is no number; start the processes with torchrun")
    return int(text)


def spread(network: Network, processes: Processes, parallel: str) -> nn.Module:
    """The network as it is called in training: moved to the device, and shared by all processes.

    With ``fsdp`` each block's weights are gathered when it runs (fully_shard on every block, then on the whole).
    """
    network.to(processes.device)
    if processes.world_size == 1:
        return network
    if parallel == "fsdp":
        for block in network.blocks():
            fully_shard(block)
        return cast(nn.Module, fully_shard(network))
    devices = [processes.device] if processes.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, gradient_as_bucket_view=True)


def sharing_gradients(called: nn.Module, *, share: bool) -> AbstractContextManager[None]:
    """Whether the backward passes inside exchange gradients: those of a step's last micro-batch do."""
    if isinstance(called, FSDPModule):
        called.set_requires_gradient_sync(share)
        return nullcontext()
    if isinstance(called, DistributedDataParallel) and not share:
        return cast(AbstractContextManager[None], called.no_sync())
    return nullcontext()
