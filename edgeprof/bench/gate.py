"""The numerics gate: no implementation is timed that does not match its reference."""

import math
from typing import TYPE_CHECKING

from edgeprof.core.dtypes import KV_TOLERANCE, weight_dtype
from edgeprof.core.types import BenchCase
from edgeprof.models.composite import CompositeSpec
from edgeprof.models.model import ModelSpec
from edgeprof.operators.arrays import Array, Weights, random_input
from edgeprof.operators.attribute import attribute
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.registry import make_spec

if TYPE_CHECKING:
    from edgeprof.runtimes.base import Cell

INPUT_SEED = 7

MAX_QUANTIZATION_ERROR = 0.5
"""Beyond this, the weights that an artifact computes with are no rounding of the given ones: the rounding costs an operator's
output 0.1 to 0.25 in 4 bits and a matrix 0.1, another layer's weights above 1. The gate compares on the effective weights, so
it would not see."""

DEPTH_EXPONENT = 2 / 3
"""How the tolerance of a rounding format grows with the operators with matrices that a block or model is made of.

Worst errors of random models of d_model 64 and 256 against the reference on their effective weights, 24 tokens, over
conv-only, attention-only and mixed layouts, tied and untied; the rule allows int4 0.06, 0.09, 0.13, 0.20 and 0.31:

| blocks | 1 | 2 | 4 | 8 | 16 |
|---|---|---|---|---|---|
| int4 | 0.021 | 0.033 | 0.061 | 0.107 | 0.254 (d_model 256: 0.123) |
| 8da4w | 0.026 | 0.034 | 0.067 | 0.110 | 0.189 |

Attention alone grows with the root (0.045 after 16 blocks); short convolutions, products of three rounded projections, nearly
in proportion. In fp32 the error stays below 1e-5, so its tolerance does not grow: what rounding may hide in a deep model (two
late blocks swapped change its output by 0.14) shows there and in ``quantization_error``."""


def positions(operator: OperatorSpec, case: BenchCase) -> list[int]:
    """Positions of the calls that are compared: contiguous ones that end with the case's own call.

    The state before the first of them is zero, on both sides. A prefill is compared whole, and after one chunk before it
    where it begins inside a context.
    """
    wanted = operator.gate_calls(case.q_len) if case.phase == "decode" else 2
    calls = max(1, min(wanted, case.kv_len // case.q_len))
    return [case.kv_len - case.q_len * (calls - i) for i in range(calls)]


def tolerance(case: BenchCase) -> float:
    """Largest relative error that is accepted: the weight format's, plus what a rounded cache adds, grown with the depth."""
    allowed = weight_dtype(case.dtype).tolerance + KV_TOLERANCE[case.kv_dtype]
    if allowed <= weight_dtype("fp32").tolerance:
        return allowed
    leaves = make_spec(case.op, case.dims).leaves()
    rounding = sum(any(w.kind == "linear" for w in leaf.weights().values()) for leaf in leaves)
    return float(allowed * max(1, rounding) ** DEPTH_EXPONENT)


def refusal(case: BenchCase, error: float | None, quantization_error: float | None) -> str | None:
    """Why a cell with these errors is not timed, or None if it may be; an ``error`` of None is one that is not finite."""
    limit = tolerance(case)
    if error is None or not error <= limit:
        said = "is not finite" if error is None else f"is {error:.2g}"
        return f"relative error {said}, more than {limit:.2g}: not timed"
    if quantization_error is not None and not quantization_error <= MAX_QUANTIZATION_ERROR:
        return f"its weights are not the given ones: quantisation error {quantization_error:.2g}: not timed"
    return None


def reference_output(operator: OperatorSpec, weights: Weights, x: Array, start: int) -> Array:
    """The reference's output in float64 for tokens from ``start`` on, after a zero state."""
    import torch

    tensors = {name: torch.from_numpy(w) for name, w in weights.items()}
    if not isinstance(operator, CompositeSpec):  # which widens its parts' weights one after another
        tensors = {name: w.double() for name, w in tensors.items()}
    inputs = torch.from_numpy(x)
    y = attribute(operator.reference)(operator, tensors, inputs if operator.takes_tokens else inputs.double(), start)
    result: Array = y.numpy()
    return result


def relative_error(actual: Array, expected: Array) -> float:
    """The worst token's L2 distance from the expected output, relative to the typical token's L2 norm there.

    A token whose own norm is near zero would turn rounding into a large ratio, so the norm is floored by the tokens' median.
    Not-a-number and infinities anywhere count as infinite error.
    """
    import numpy as np

    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return math.inf
    distance = np.linalg.norm(actual.astype(np.float64) - expected, axis=-1)
    norm = np.linalg.norm(expected, axis=-1)
    return float((distance / np.maximum(norm, np.median(norm) + 1e-30)).max())


def gate_input(operator: OperatorSpec, case: BenchCase) -> Array:
    """The tokens of all compared calls, in order."""
    tokens = case.q_len * len(positions(operator, case))
    return random_input(operator, batch=case.batch, q_len=tokens, seed=INPUT_SEED)


def run_calls(cell: "Cell", operator: OperatorSpec, case: BenchCase, x: Array) -> Array:
    """Runs the compared calls on a zeroed cell and returns their outputs in order."""
    import numpy as np

    cell.reset()
    outputs = []
    for index, pos in enumerate(positions(operator, case)):
        chunk = np.ascontiguousarray(x[:, index * case.q_len : (index + 1) * case.q_len])
        cell.bind(chunk, pos)()
        outputs.append(cell.output().copy())
    return np.concatenate(outputs, axis=1)


def gate_error(cell: "Cell", operator: OperatorSpec, case: BenchCase, weights: Weights) -> float:
    """The worst relative error of the cell over the compared calls, against the reference on ``weights``.

    A model gives logits for the last token of a call only; the reference has those of all.
    """
    x, starts = gate_input(operator, case), positions(operator, case)
    ends = [case.q_len * (i + 1) for i in range(len(starts))]
    compared = [token for end in ends for token in range(end - operator.output_tokens(case.q_len), end)]
    expected = reference_output(operator, weights, x, starts[0])[:, compared]
    return relative_error(run_calls(cell, operator, case, x), expected)


def quantization_error(operator: OperatorSpec, case: BenchCase, exact: Weights, effective: Weights) -> float:
    """What rounding the weights alone does to the output: reference on the effective weights against the exact ones.

    A random model's output loses its likeness with depth (0.9 after 8 blocks, above 1 after 16), so that a composite's is
    what rounding does to the weights themselves, the worst one's.
    """
    if isinstance(operator, CompositeSpec):
        return _worst_weight_error(operator, exact, effective)
    x = random_input(operator, batch=1, q_len=16, seed=INPUT_SEED)
    return relative_error(reference_output(operator, effective, x, 0), reference_output(operator, exact, x, 0))


def _worst_weight_error(operator: CompositeSpec, exact: Weights, effective: Weights) -> float:
    """Largest relative distance of a weight from the given one."""
    if isinstance(operator, ModelSpec):
        exact, effective = operator.with_projection(exact), operator.with_projection(effective)
    return max(relative_error(effective[name].reshape(1, -1), w.reshape(1, -1)) for name, w in exact.items())
