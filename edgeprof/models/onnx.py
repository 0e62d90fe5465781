"""Blocks and whole models in ONNX: the operators' own forms, joined by residual sums and named by the weights' paths."""

from edgeprof.models.block import BlockSpec
from edgeprof.models.composite import part_weights
from edgeprof.models.model import ModelSpec
from edgeprof.models.pair import PairSpec
from edgeprof.operators.arrays import Weights
from edgeprof.operators.attribute import form
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.onnx_graph import Graph


def emit_block(graph: Graph, spec: BlockSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """``x`` (batch, tokens, D) through mixer and feed-forward, each with its norms and around it a residual sum."""
    for branch in spec.branches():
        y = x
        for path in branch:
            y = _emit_part(graph, spec.parts()[path], weights, y, prefix, path)
        x = graph.node("Add", [x, y], [f"{prefix}{branch[0]}.sum"])
    return x


def emit_pair(graph: Graph, spec: PairSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """``x`` (batch, tokens, D) through one block and then the other."""
    for path, part in spec.parts().items():
        x = _emit_part(graph, part, weights, x, prefix, path)
    return x


def emit_model(graph: Graph, spec: ModelSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """Logits (batch, wanted, vocab) of token ids ``x`` (batch, tokens): those of the wanted tokens, or of all.

    A tied projection in fp32 is the embedding's table in the file too; in 4 bits each has its own operator's packing.
    """
    weights = spec.with_projection(weights)
    for path, part in spec.parts().items():
        if path == "head" and not spec.all_logits:
            x = graph.node("Gather", [x, graph.wanted()], [f"{prefix}wanted_tokens"], axis=1)
        x = _emit_part(graph, part, weights, x, prefix, path)
    return x


def _emit_part(graph: Graph, part: OperatorSpec, weights: Weights, x: str, prefix: str, path: str) -> str:
    y: str = form(part, "onnx")(graph, part, part_weights(weights, path), x, f"{prefix}{path}.")
    return y
