"""What a prediction is made for, made of, and compared with."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgeprof.core.types import BenchCase, Phase, RingPlan
from edgeprof.models.config import ArchConfig
from edgeprof.models.pair import PairSpec

Measure = Callable[[Sequence[RingPlan]], None]
"""Measures rings into the store; what is there already is not measured again."""

How = Literal["measured", "interpolated"]


HISTORY_SCHEMA_VERSION = 2
"""Version of a line of the error history; lines without one are of version 1, before terms were traced."""


OFF = 0.05
"""An error of a prediction that matters, if it is also beyond ``OFF_SPREADS`` times the model's own spread."""

OFF_SPREADS = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model where it is to run; ``pairs`` are neighbours that are known there not to be additive, and in which phase."""

    config: ArchConfig
    runtime: str
    dtype: str
    kv_dtype: str
    n_threads: int = 1
    batch: int = 1
    pairs: tuple[tuple[Phase, PairSpec], ...] = ()

    def pairs_in(self, phase: Phase) -> frozenset[PairSpec]:
        """The pairs that are cells of their own in a phase."""
        return frozenset(pair for where, pair in self.pairs if where == phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One call of the whole model: ``q_len`` new tokens whose last one ends a context of ``kv_len``."""

    phase: Phase
    q_len: int
    kv_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One cell of a prediction: how often it counts, and what it costs at the model's working set, null call subtracted.

    ``case`` has no ring_bytes: the cost is interpolated over the rings in which it was measured. ``how`` is ``measured`` where
    a ring of about the model's working set and this very context was measured. ``label`` is what a person reads, ``call`` the
    model's call that the cell is part of.
    """

    label: str
    call: ModelCall
    case: BenchCase
    count: int
    ns: float
    total_ns: float
    how: How


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A predicted value with the bounds that hold the real one at 95 %."""

    value: float
    lo: float
    hi: float

    @property
    def relative_width(self) -> float:
        """Width of the bounds in units of the value."""
        return (self.hi - self.lo) / self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPrediction:
    """What one call (TPOT), or the chunks of a prompt together (TTFT), will take.

    ``missing`` cells make it no prediction: then ``ns`` is None. ``warnings`` say why the interval is wide, such as a model
    that half lives in the cache. ``uncorrected_ns`` is the sum before the history's mean error was taken off. The interval
    rests on ``verified_rows`` of ``verified_models``. ``p90_ns`` is there where verified models of this kind tell how far p90
    lies above p50.
    """

    name: Literal["ttft", "tpot"]
    calls: tuple[ModelCall, ...]
    ns: Estimate | None
    uncorrected_ns: float | None = None
    p90_ns: float | None = None
    verified_rows: int = 0
    verified_models: int = 0
    terms: tuple[Term, ...] = ()
    missing: tuple[BenchCase, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakPrediction:
    """The most resident memory that loading the model and calling it will take, or the cells whose memory is not known."""

    bytes: Estimate | None
    uncorrected_bytes: float | None = None
    verified_rows: int = 0
    verified_models: int = 0
    missing: tuple[BenchCase, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """All that is predicted for a model on a device."""

    target: Target
    device_id: str
    tpot: CallPrediction
    ttft: CallPrediction | None
    peak: PeakPrediction
    rings: tuple[RingPlan, ...] = field(default=())
    """The rings that would measure what is missing."""

    @property
    def missing(self) -> tuple[BenchCase, ...]:
        """Every cell that has no time, each once; one whose memory alone is unknown cannot be helped by measuring it."""
        parts = (*self.tpot.missing, *(self.ttft.missing if self.ttft else ()))
        return tuple({case.key: case for case in parts}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TermError:
    """A term beside what its parts took inside the model, in ns.

    ``traced_ns`` is scaled: all terms' together are what the model took untraced. ``share_of_error`` is the term's
    predicted - traced in units of the whole error: above 1 where other terms are off in the other direction, negative for
    those.
    """

    label: str
    count: int
    predicted_ns: float
    traced_ns: float
    share_of_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRow:
    """A prediction beside what the whole model took; a line of the device's error history.

    ``signed_error`` is predicted / measured - 1; ``uncorrected_ns`` is the prediction before the history's correction, which is
    what the history learns from. ``aa_spread`` is how far two loads of the same model in one process differ
    (the median of |ln ratio| over processes). ``paired`` rows were predicted from cells of the same processes as the model,
    others from cells stored before. ``p90_ratio`` is the model's own p90 / p50. Peak memory rows have the phase ``memory``
    and bytes in place of ns. ``terms`` and ``blame``, the label of the term to blame, are there where the model was traced.
    """

    config: str
    config_hash: str
    pattern: str
    device_id: str
    runtime: str
    runtime_version: str
    dtype: str
    kv_dtype: str
    n_threads: int
    phase: Literal["decode", "prefill", "memory"]
    q_len: int
    context: int
    paired: bool
    predicted_ns: float
    uncorrected_ns: float
    lo_ns: float
    hi_ns: float
    measured_ns: float
    measured_ci95_ns: tuple[float, float] | None
    signed_error: float
    aa_spread: float | None
    p90_ratio: float | None
    session_id: str
    at: str
    parameters: int
    flops: int
    warnings: tuple[str, ...] = ()
    terms: tuple[TermError, ...] | None = None
    blame: str | None = None
    schema_version: int = HISTORY_SCHEMA_VERSION

    @property
    def off(self) -> bool:
        """Whether the prediction failed: outside of its interval, or off by more than matters and than two loads differ."""
        return not self.covered or abs(self.signed_error) > max(OFF, OFF_SPREADS * (self.aa_spread or 0.0))

    @property
    def covered(self) -> bool:
        """Whether the interval holds what was measured."""
        return self.lo_ns <= self.measured_ns <= self.hi_ns

    @property
    def inconclusive(self) -> bool:
        """Whether two loads of the model differ by more than half of the interval's width, so that it can tell nothing."""
        return self.aa_spread is not None and self.aa_spread > math.log(self.hi_ns / self.lo_ns) / 2
