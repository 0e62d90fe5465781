"""The numerics gate: no implementation is timed that does not match its reference."""

import math
from typing import TYPE_CHECKING

from edgeprof.core.dtypes import KV_TOLERANCE, weight_dtype
from edgeprof.core.types import BenchCase
from edgeprof.operators.arrays import Array, Weights, random_input
from edgeprof.operators.attribute import attribute
from edgeprof.operators.base import OperatorSpec

if TYPE_CHECKING:
    from edgeprof.runtimes.base import Cell

INPUT_SEED = 7

MAX_QUANTIZATION_ERROR = 0.5
"""Beyond this, the weights that an artifact computes with are no rounding of the given ones: the rounding costs an operator's
output 0.1 to 0.25 in 4 bits, another layer's weights above 1. The gate compares on the effective weights, so it would not see."""


def positions(operator: OperatorSpec, case: BenchCase) -> list[int]:
    """Positions of the calls that are compared: contiguous ones that end with the case's own call.

    The state before the first of them is zero, on both sides. A prefill is compared whole, and after one chunk before it
    where it begins inside a context.
    """
    wanted = operator.gate_calls(case.q_len) if case.phase == "decode" else 2
    calls = max(1, min(wanted, case.kv_len // case.q_len))
    return [case.kv_len - case.q_len * (calls - i) for i in range(calls)]


def tolerance(case: BenchCase) -> float:
    """Largest relative error that is accepted: the weight format's, plus what a rounded cache adds."""
    return weight_dtype(case.dtype).tolerance + KV_TOLERANCE[case.kv_dtype]


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

    tensors = {name: torch.from_numpy(w).double() for name, w in weights.items()}
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
    """The worst relative error of the cell over the compared calls, against the reference on ``weights``."""
    x = gate_input(operator, case)
    return relative_error(
        run_calls(cell, operator, case, x), reference_output(operator, weights, x, positions(operator, case)[0])
    )


def quantization_error(operator: OperatorSpec, case: BenchCase, exact: Weights, effective: Weights) -> float:
    """What rounding the weights alone does to the output: reference on the effective weights against the exact ones."""
    x = random_input(operator, batch=1, q_len=16, seed=INPUT_SEED)
    return relative_error(reference_output(operator, effective, x, 0), reference_output(operator, exact, x, 0))
