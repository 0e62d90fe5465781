"""Which term of a prediction is to blame for its error, by a trace of the model's parts; and which neighbours may be at fault."""

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from edgeprof.models.block import BlockSpec
from edgeprof.models.pair import PairSpec, pair_of
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.registry import make_spec
from edgeprof.predict.plan import Place
from edgeprof.predict.types import Term, TermError
from edgeprof.runtimes.trace import OTHER, Trace

BETWEEN = "between the cells"
"""The term of what belongs to no cell: one call boundary is predicted for it."""

CORRECTION = "the history's correction"
"""The term of what the error history added to the sum of the cells; nothing in the model takes it."""

NO_SINGLE_TERM = "no single term"

MOST = 0.5
"""A term that explains more of the error than this is to blame alone."""

LEAST_CHANGE = 0.05
"""A block whose cost depends less than this on its predecessor is additive for every purpose here."""

ALPHA = 0.01
"""Chance, over all of a model's blocks together, that a dependence is found where there is none."""

MOST_CANDIDATES = 2
"""Pairs that are measured after one verification: each of them costs a ring."""


def scaled_parts(traces: Sequence[Trace], measured_ns: float) -> dict[str, float]:
    """Each part's share of the traced calls, times what the model took untraced.

    Tracing costs something on every call, so a trace is believed in its proportions only. A part's share is its median over
    the traces, and the shares are made to sum to 1 again.
    """
    shares = {
        path: statistics.median(trace.parts[path] / math.fsum(trace.parts.values()) for trace in traces)
        for path in traces[0].parts
    }
    whole = math.fsum(shares.values())
    return {path: measured_ns * share / whole for path, share in shares.items()}


def term_errors(
    terms: Sequence[Term],
    places: Sequence[Place],
    parts: Mapping[str, float],
    *,
    predicted_ns: float,
    uncorrected_ns: float,
) -> tuple[TermError, ...]:
    """What each term was predicted to take beside what its parts took inside the model.

    ``parts`` are scaled to the measured time. Predicted and traced times sum to the prediction and to the measured time, so
    that shares of the error sum to 1.
    """
    traced: dict[OperatorSpec, float] = defaultdict(float)
    for place in places:
        traced[place.spec] += math.fsum(parts[path] for path in place.paths)
    boundary = uncorrected_ns - math.fsum(term.total_ns for term in terms)
    found = [(term.label, term.count, term.total_ns, traced[make_spec(term.case.op, term.case.dims)]) for term in terms]
    found.append((BETWEEN, 1, boundary, parts.get(OTHER, 0.0)))
    if predicted_ns != uncorrected_ns:
        found.append((CORRECTION, 1, predicted_ns - uncorrected_ns, 0.0))
    error = predicted_ns - math.fsum(parts.values())
    return tuple(
        TermError(
            label=label,
            count=count,
            predicted_ns=predicted,
            traced_ns=inside,
            share_of_error=(predicted - inside) / error if error else 0.0,
        )
        for label, count, predicted, inside in found
    )


def to_blame(errors: Sequence[TermError]) -> str:
    """The label of the term whose difference goes farthest in the error's direction, if it explains most of the error."""
    worst = max(errors, key=lambda e: e.share_of_error)
    return worst.label if worst.share_of_error > MOST else NO_SINGLE_TERM


def candidates(
    layers: Sequence[BlockSpec], traces: Sequence[Trace], blamed: OperatorSpec | None, known: Sequence[PairSpec]
) -> list[PairSpec]:
    """Pairs of neighbours that may not be additive, the likeliest first: their cells are worth measuring.

    A block that costs more or less behind one predecessor than behind others; and where a block is to blame that always has
    the same neighbours, so that no trace can show what they do, the pairs that it is in most often.
    """
    found = _by_predecessor(layers, traces)
    if isinstance(blamed, BlockSpec):
        found += _most_frequent(layers, blamed)
    return [pair for pair in dict.fromkeys(found) if pair not in known][:MOST_CANDIDATES]


def _by_predecessor(layers: Sequence[BlockSpec], traces: Sequence[Trace]) -> list[PairSpec]:
    """Pairs whose second block's time differs from that behind other predecessors, the largest difference first.

    Each trace gives one difference of mean logarithms; they are tested against zero by Student's t over the traces, which are
    processes of their own, at a level that Bonferroni's correction divides by the number of pairs looked at.
    """
    behind: dict[BlockSpec, dict[BlockSpec, list[str]]] = defaultdict(lambda: defaultdict(list))
    for index in range(1, len(layers)):
        behind[layers[index]][layers[index - 1]].append(f"layers.{index}")
    tested = [(block, before) for block, groups in behind.items() if len(groups) > 1 for before in groups]
    found = []
    for block, before in tested:
        own = behind[block][before]
        others = [path for name, paths in behind[block].items() if name != before for path in paths]
        changes = np.array([_mean_log(trace, own) - _mean_log(trace, others) for trace in traces])
        change = float(changes.mean())
        if abs(change) >= LEAST_CHANGE and _differs(changes, ALPHA / len(tested)):
            found.append((abs(change), pair_of(before, block)))
    return [pair for _, pair in sorted(found, key=lambda item: -item[0])]


def _differs(changes: np.ndarray, level: float) -> bool:
    """Whether the mean is not zero; values that are all alike leave no doubt."""
    if len(changes) < 2:
        return False
    return bool(np.ptp(changes) == 0 or stats.ttest_1samp(changes, 0.0).pvalue < level)


def _mean_log(trace: Trace, paths: Sequence[str]) -> float:
    return math.fsum(math.log(max(trace.parts[path], 1.0)) for path in paths) / len(paths)


def _most_frequent(layers: Sequence[BlockSpec], blamed: BlockSpec) -> list[PairSpec]:
    """The pairs that the block is in, the most frequent first."""
    counts: dict[PairSpec, int] = defaultdict(int)
    for before, block in itertools.pairwise(layers):
        if blamed in (before, block):
            counts[pair_of(before, block)] += 1
    return sorted(counts, key=lambda pair: -counts[pair])
