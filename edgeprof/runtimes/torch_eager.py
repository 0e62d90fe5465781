"""Torch without a compiler: the operator's module, run as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprof.core.types import Artifact, ArtifactSpec, BenchCase, FreshRange
from edgeprof.operators.arrays import Array, Weights
from edgeprof.operators.attribute import attribute
from edgeprof.operators.base import OperatorSpec
from edgeprof.runtimes.base import Built, Call

if TYPE_CHECKING:
    from torch import Tensor

    from edgeprof.operators.module import OperatorModule, State

TORCH_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
WEIGHTS_FILE = "weights.safetensors"


class TorchEager:
    """Runs modules eagerly; bf16 only where the CPU multiplies in it."""

    name = "torch_eager"
    distribution = "torch"
    dtypes = (("fp32", "fp32"), ("bf16", "bf16"))

    def unsupported(self, case: BenchCase) -> str | None:
        """Dtypes that torch would only emulate here."""
        if (case.dtype, case.kv_dtype) not in self.dtypes:
            return f"{self.name} computes in fp32 or bf16 with a cache of the same dtype"
        if case.dtype == "bf16" and not cpu_has_bf16():
            return "this CPU has no bf16 multiply (avx512_bf16, amx_bf16 or Arm bf16); torch would convert to fp32"
        return None

    def capacity(self, case: BenchCase) -> int:
        """The weights serve every context: the cache is allocated when a cell is loaded for its case."""
        return 0

    def build(self, operator: OperatorSpec, spec: ArtifactSpec, weights: Weights, folder: Path) -> Built:
        """Saves the weights in the dtype they are computed in."""
        import torch
        from safetensors.torch import save_file

        dtype = getattr(torch, TORCH_DTYPES[spec.dtype])
        tensors = {name: torch.from_numpy(w).to(dtype).contiguous() for name, w in weights.items()}
        save_file(tensors, folder / WEIGHTS_FILE)
        effective = {name: t.float().numpy() for name, t in tensors.items()} if spec.dtype != "fp32" else None
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        itemsize = dtype.itemsize
        header = (folder / WEIGHTS_FILE).stat().st_size - size
        fresh = [FreshRange(file=WEIGHTS_FILE, offset=header, length=size, stride=itemsize)] if size else []
        return Built(files={"weights": WEIGHTS_FILE}, weight_bytes=size, effective=effective, fresh=fresh)

    def start(self, n_threads: int) -> int:
        """Sets torch's intra-op threads and reads them back."""
        import torch

        torch.set_num_threads(n_threads)
        torch.set_num_interop_threads(1)
        return torch.get_num_threads()

    def load(self, operator: OperatorSpec, artifact: Artifact, folder: Path, capacity: int) -> "TorchCell":
        """Reads the weights into memory of their own."""
        return TorchCell(load_module(operator, folder), artifact.spec, capacity)


class TorchCell:
    """A module with its state."""

    def __init__(self, module: "OperatorModule", spec: ArtifactSpec, capacity: int) -> None:
        from edgeprof.operators.module import state_tensors

        self.module = module
        self.state: State = module.init_state(spec.batch, capacity)
        self.state_tensors = tuple(state_tensors(self.state))
        self.forward: Callable[[Tensor, State, int], Tensor] = module
        self.result: Tensor | None = None

    def reset(self) -> None:
        """Zeroes the state."""
        for t in self.state_tensors:
            t.zero_()

    def fill(self, seed: int) -> None:
        """Fills the state with unit normal values."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        for t in self.state_tensors:
            t.normal_(generator=generator)

    def bind(self, x: Array, pos: int) -> Call:
        """A call on ``x`` at ``pos``."""
        import torch

        tensor = torch.from_numpy(x)
        if tensor.is_floating_point():
            tensor = tensor.to(self.module.weight_dtype())
        forward, state = self.forward, self.state

        def call() -> None:
            with torch.inference_mode():
                self.result = forward(tensor, state, pos)

        return call

    def output(self) -> Array:
        """The last call's output as fp32."""
        assert self.result is not None, "output() before any call"
        array: Array = self.result.float().numpy()
        return array


def load_module(operator: OperatorSpec, folder: Path) -> "OperatorModule":
    """The operator's module with the folder's weights, each in memory of its own (not a view of the mapped file)."""
    from safetensors.torch import load_file

    module: OperatorModule = attribute(operator.module)(operator)
    tensors = {name: t.clone() for name, t in load_file(folder / WEIGHTS_FILE).items()}
    module.load_state_dict(tensors, assign=True)
    module.requires_grad_(False)
    return module.eval()


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 itself, by the kernel's list of its features."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


RUNTIME = TorchEager()
