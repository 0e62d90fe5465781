"""Torch through its compiler (Inductor): the operator's module, compiled when it is first called."""

import shutil
from pathlib import Path

from edgeprof.core.types import Artifact, BenchCase
from edgeprof.operators.base import OperatorSpec
from edgeprof.runtimes.torch_eager import TorchCell, TorchEager, load_module


class TorchCompile(TorchEager):
    """As ``torch_eager``, with fused kernels that a C++ compiler on the host builds."""

    name = "torch_compile"

    def unsupported(self, case: BenchCase) -> str | None:
        """What torch_eager refuses, and hosts without a C++ compiler."""
        if shutil.which("g++") is None and shutil.which("clang++") is None:
            return "no C++ compiler (g++ or clang++) on this host; on Debian: apt-get install g++"
        return super().unsupported(case)

    def load(self, operator: OperatorSpec, artifact: Artifact, folder: Path, capacity: int) -> TorchCell:
        """Reads the weights; the first call compiles (Inductor keeps its own cache on disk)."""
        import torch

        cell = TorchCell(load_module(operator, folder), artifact.spec, capacity)
        cell.forward = torch.compile(cell.module, dynamic=False)
        return cell


RUNTIME = TorchCompile()
