"""ExecuTorch with the XNNPACK backend: a .pte for each operator, run by the wheel's Python bindings."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprof.core.dtypes import QUANT_GROUP
from edgeprof.core.types import Artifact, ArtifactSpec, BenchCase
from edgeprof.operators.arrays import Array, Weights
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.base import Built, Call

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_CAPACITY = 4096
"""Least context that a decode artifact of attention is built for; above it capacities are powers of two."""


class Executorch:
    """Builds each operator's form, lowered to XNNPACK, and loads it anew for each cell."""

    name = "executorch"
    distribution = "executorch"
    dtypes = (("fp32", "fp32"), ("8da4w", "fp32"))

    def unsupported(self, case: BenchCase) -> str | None:
        """Formats that are not offered, and operators that a format does not change.

        8da4w quantises linear layers only. An embedding's table stays in fp32; it is offered because a model in 8da4w has it.
        """
        if (case.dtype, case.kv_dtype) not in self.dtypes:
            return f"{self.name} computes in fp32 or 8da4w with an fp32 cache"
        if case.dtype != "8da4w":
            return None
        operator = make_spec(case.op, case.dims)
        if all(w.kind == "vector" for w in operator.weights().values()):
            return "has no matrix weights: measure it in fp32"
        return next(filter(None, map(_unquantisable, operator.leaves())), None)

    def capacity(self, case: BenchCase) -> int:
        """Decode reads only the rows in use, so few capacities serve all contexts; a prefill is built for its own context."""
        operator = make_spec(case.op, case.dims)
        if all(
            leaf.state_rows(1) == leaf.state_rows(2) for leaf in operator.leaves()
        ):  # no state grows with the context
            return case.q_len
        if case.phase == "prefill":
            return case.kv_len
        return max(SMALLEST_CAPACITY, 1 << (case.kv_len - 1).bit_length())

    def build(self, operator: OperatorSpec, spec: ArtifactSpec, weights: Weights, folder: Path) -> Built:
        """Exports, quantises where asked, lowers, and writes the .pte."""
        from edgeprof.runtimes.executorch_build import build_operator

        return build_operator(operator, spec, weights, folder)

    def start(self, n_threads: int) -> int:
        """Sets the thread pool that XNNPACK and the attention kernel share, and reads it back."""
        from edgeprof.runtimes.executorch_libraries import import_runtime

        bindings: Any = import_runtime()
        bindings._unsafe_reset_threadpool(n_threads)
        return int(bindings._threadpool_get_thread_count())

    def load(self, operator: OperatorSpec, artifact: Artifact, folder: Path, capacity: int) -> "ExecutorchCell":
        """Loads the .pte with its own packed weights and state."""
        return ExecutorchCell(operator, artifact, folder)


def _unquantisable(leaf: OperatorSpec) -> str | None:
    """Why a linear layer of the operator cannot be quantised to 8da4w, or None."""
    for name, weight in leaf.weights().items():
        if weight.kind == "linear" and weight.shape[1] % QUANT_GROUP:
            return f"8da4w needs rows of a multiple of {QUANT_GROUP} values; {leaf.name}.{name} has {weight.shape[1]}"
    return None


class ExecutorchCell:
    """A loaded method and views of its state; ``traced`` ones keep the events of every call."""

    def __init__(self, operator: OperatorSpec, artifact: Artifact, folder: Path, *, traced: bool = False) -> None:
        from edgeprof.operators.executorch_form import call_shape
        from edgeprof.runtimes.executorch_libraries import import_runtime

        bindings: Any = import_runtime()
        self.operator = operator
        self.shape = call_shape(artifact.spec)
        signature = json.loads((folder / artifact.files["signature"]).read_text())
        self.program = bindings._load_program(str(folder / artifact.files["model"]), enable_etdump=traced)
        self.method = self.program.load_method("forward")
        self.state: list[Tensor] = [self.method.get_attribute(s["name"]) for s in signature["state"]]
        self.bound: tuple[Tensor, ...] | None = None
        self.reset()  # the file gives state no initial value, and pages never written would be read from one shared page

    def reset(self) -> None:
        """Zeroes the state, in place."""
        for t in self.state:
            t.zero_()

    def fill(self, seed: int) -> None:
        """Fills the state with unit normal values, in place."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        for t in self.state:
            t.normal_(generator=generator)

    def bind(self, x: Array, pos: int) -> Call:
        """A call that reads ``x`` and the inputs for ``pos`` where they lie; inputs are set when another call's were."""
        import numpy as np
        import torch

        from edgeprof.operators.executorch_form import chain_inputs

        arrays = (x, *chain_inputs([self.operator], self.shape, pos).values())
        inputs = tuple(torch.from_numpy(np.ascontiguousarray(a)) if a.ndim else torch.tensor(a.item()) for a in arrays)
        method = self.method
        execute = method.execute

        def call() -> None:
            if self.bound is not inputs:
                method.set_inputs(inputs)
                self.bound = inputs
            execute()

        return call

    def output(self) -> Array:
        """The last call's output as fp32."""
        assert self.bound is not None, "output() before any call"
        array: Array = self.method.get_outputs(False)[0].float().numpy().copy()
        return array


RUNTIME = Executorch()
