"""Which part of a composite each instruction of a lowered program belongs to, as far as that can be told."""

from collections.abc import Callable, Iterable
from typing import Any

from edgeprof.operators.base import OperatorSpec
from edgeprof.runtimes.trace import part_finder

CHAIN = "forms.0."
"""Where the one form of an operator is in the chain that is lowered."""

NO_INSTRUCTION = ("alloc", "getitem", "view")
"""Nodes of a planned graph that are no instruction: memory, and outputs and views of what was computed."""

MATRIX = ("linear", "convolution", "mm", "sdpa")
"""Operators that take nearly all of a delegate's time, by a part of their name."""


def instruction_parts(operator: OperatorSpec, program: Any) -> list[str | None] | None:
    """The part of each instruction in order, None for one that lies in no single part; None if the order cannot be told.

    A delegate runs what lies between two operators that XNNPACK does not take, which are inside the norms: it holds the end of
    one part and a few elementwise operators of the next. It belongs to the part that has all of its matrices.
    """
    graph = program.exported_program().graph_module
    nodes = [node for node in graph.graph.nodes if _is_instruction(node)]
    emitted = program.executorch_program.execution_plan[0].chains[0].instructions
    is_delegate = [type(instruction.instr_args).__name__ == "DelegateCall" for instruction in emitted]
    if is_delegate != [_is_delegate(node) for node in nodes]:
        return None
    find = part_finder(operator)
    return [_part_of(_inside(graph, node) if _is_delegate(node) else [node], find) for node in nodes]


def _is_instruction(node: Any) -> bool:
    name = str(getattr(node.target, "__name__", node.target))
    return node.op == "call_function" and name.split(".")[-1] not in NO_INSTRUCTION


def _is_delegate(node: Any) -> bool:
    return "call_delegate" in str(node.target)


def _inside(graph: Any, node: Any) -> list[Any]:
    lowered = getattr(graph, node.args[0].target)
    return [inner for inner in lowered.original_module.graph.nodes if inner.op == "call_function"]


def _part_of(nodes: Iterable[Any], find: Callable[[str], str | None]) -> str | None:
    """The one part of all matrices, or of all nodes where there are no matrices."""
    told = [(str(node.target), find(_module_path(node))) for node in nodes]
    matrices = {part for name, part in told if any(word in name for word in MATRIX)}
    parts = matrices or {part for _, part in told if part is not None}
    return next(iter(parts)) if len(parts) == 1 else None


def _module_path(node: Any) -> str:
    """The innermost module that a node is from, within the operator's own form."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    return str(list(stack.values())[-1][0]).partition(CHAIN)[2]
