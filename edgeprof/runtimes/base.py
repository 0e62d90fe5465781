"""What a runtime is: a builder of artifacts, and a loader of cells from them. The two halves share nothing but the artifact."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeprof.core.registry import Registry
from edgeprof.core.types import Artifact, ArtifactSpec, BenchCase, FreshRange
from edgeprof.operators.base import OperatorSpec

if TYPE_CHECKING:
    from edgeprof.operators.arrays import Array, Weights

Call = Callable[[], None]
"""One call with everything bound: what is timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build leaves in its folder.

    ``files`` maps a role to a file name. ``effective`` holds the weights that the artifact really computes with (dequantised,
    torch's layouts, fp32) or None where they are the given ones. ``arena_bytes`` is planned memory that is known ahead of
    running, ``delegated_share`` the share of the graph's compute operators that an accelerated backend took.
    """

    files: dict[str, str]
    weight_bytes: int
    effective: "Weights | None" = None
    arena_bytes: int | None = None
    delegated_share: float | None = None
    fresh: list[FreshRange] = field(default_factory=list)


class Cell(Protocol):
    """One load of an artifact: its own weights, packing and state."""

    def reset(self) -> None:
        """Sets the state to zeros, as before the first token."""

    def fill(self, seed: int) -> None:
        """Fills the state with finite values in memory of its own, as after a real context; what timing runs on."""

    def bind(self, x: "Array", pos: int) -> Call:
        """A call with input ``x`` whose first token has position ``pos``; calling it again repeats the same step."""

    def output(self) -> "Array":
        """The output of the last call as fp32, (batch, q_len, width or vocab)."""


class Runtime(Protocol):
    """A runtime under test. Attributes and methods up to ``build`` import nothing heavy."""

    name: str
    distribution: str
    dtypes: tuple[tuple[str, str], ...]

    def unsupported(self, case: BenchCase) -> str | None:
        """Why the runtime cannot run the case, or None if it can."""

    def capacity(self, case: BenchCase) -> int:
        """Tokens of context that the artifact for this case is built for; equal for all cases that share it."""

    def build(self, operator: OperatorSpec, spec: ArtifactSpec, weights: "Weights", folder: Path) -> Built:
        """Builds the operator's fastest form for this runtime into ``folder``; ``weights`` are fp32 in torch's layouts."""

    def start(self, n_threads: int) -> int:
        """Readies this process for ``n_threads`` threads and returns how many the runtime says it has."""

    def load(self, operator: OperatorSpec, artifact: Artifact, folder: Path, capacity: int) -> Cell:
        """Loads the artifact from ``folder`` anew, for contexts of up to ``capacity`` tokens where that is open still.

        Nothing is shared with an earlier load, and ``start`` came before.
        """


RUNTIMES: Registry[Runtime] = Registry("runtime")
RUNTIMES.add("torch_eager", "edgeprof.runtimes.torch_eager:RUNTIME")
RUNTIMES.add("torch_compile", "edgeprof.runtimes.torch_compile:RUNTIME")
RUNTIMES.add("onnxruntime", "edgeprof.runtimes.onnxruntime:RUNTIME")
RUNTIMES.add("executorch", "edgeprof.runtimes.executorch:RUNTIME")


def runtime_version(runtime: Runtime) -> str:
    """The version of the installed distribution that provides the runtime, or "absent"."""
    return _installed_version(runtime.distribution)


@cache
def _installed_version(distribution: str) -> str:
    """Reads a distribution's metadata once: every key of an artifact asks for it."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"
