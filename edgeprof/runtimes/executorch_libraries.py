"""Imports ExecuTorch: little for running, much for lowering; and keeps its import noise out of the way."""

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ATTENTION_KERNELS = "extension/llm/custom_ops/libcustom_ops_aot_lib.so"

KNOWN_WARNINGS = (
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (FutureWarning, r"_check_is_size will be removed"),
    (DeprecationWarning, r"(open|read)_(binary|text) is deprecated"),
    (UserWarning, r"Mutation on a buffer in the model is detected"),  # a cell zeroes its state when it is loaded
    (Warning, r"This API is experimental and subject to change"),
)
"""What the libraries of these versions say about each other while they import and lower."""


@contextmanager
def known_warnings_silenced() -> Iterator[None]:
    """Silences the warnings that say nothing to a user of this program; others come through."""
    with warnings.catch_warnings():
        for category, message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        yield


def import_runtime() -> ModuleType:
    """The bindings that load and run a .pte, with the kernels for attention registered."""
    import torch
    from executorch.extension.pybindings import _C

    spec = importlib.util.find_spec("executorch")
    assert spec is not None
    assert spec.submodule_search_locations
    library = Path(next(iter(spec.submodule_search_locations))) / ATTENTION_KERNELS
    torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    module: ModuleType = _C
    return module


def import_lowering() -> Any:
    """What lowering needs, as attributes of one object."""
    import_runtime()
    with known_warnings_silenced():
        from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
            XnnpackDynamicallyQuantizedPartitioner,
            XnnpackPartitioner,
        )
        from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.passes import MemoryPlanningPass
        from executorch.extension.llm.custom_ops import custom_ops
    return SimpleNamespace(
        EdgeCompileConfig=EdgeCompileConfig,
        ExecutorchBackendConfig=ExecutorchBackendConfig,
        MemoryPlanningPass=MemoryPlanningPass,
        NodeVisitor=NodeVisitor,
        XnnpackDynamicallyQuantizedPartitioner=XnnpackDynamicallyQuantizedPartitioner,
        XnnpackPartitioner=XnnpackPartitioner,
        custom_ops=custom_ops,
        to_edge_transform_and_lower=to_edge_transform_and_lower,
    )
