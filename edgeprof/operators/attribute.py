"""Finds an operator's module, reference or form by the "module:attribute" that its spec names."""

import importlib
from typing import Any

from edgeprof.operators.base import OperatorSpec


def attribute(target: str) -> Any:
    """Imports "module:attribute"."""
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def form(spec: OperatorSpec, runtime: str) -> Any:
    """The operator's own form for a graph runtime ("onnx", "executorch"), or None if it has none."""
    target = spec.forms.get(runtime)
    return None if target is None else attribute(target)
