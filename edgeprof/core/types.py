"""The types that flow through the program. Frozen, plain data: each one goes to a worker and to the store as JSON."""

from dataclasses import dataclass, field
from typing import Any, Literal

from edgeprof.core.canonical import short_hash

Phase = Literal["prefill", "decode"]
CacheState = Literal["hot", "streaming"]
Status = Literal["ok", "unsupported", "wrong_output", "timeout", "device_lost", "error"]

PROTOCOL_VERSION = 1
"""Changes when the way a sample is taken changes; records of another version are never pooled."""

SCHEMA_VERSION = 1
"""Version of a line of the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCase:
    """One cell of the matrix: what is measured, with which shapes, in which runtime and cache state.

    ``kv_len`` counts the tokens of the context including the ``q_len`` current ones. ``dims`` are the operator's own
    dimensions by name. ``ring_bytes`` is the least working set of the ring that a ``streaming`` case is timed in.
    """

    op: str
    op_version: int
    phase: Phase
    dims: dict[str, int | float | bool | str]
    batch: int = 1
    q_len: int
    kv_len: int
    dtype: str
    kv_dtype: str
    runtime: str
    n_threads: int
    cache_state: CacheState
    ring_bytes: int | None = None

    @property
    def key(self) -> str:
        """Hash of the case's canonical JSON: the identity under which measurements are pooled."""
        return short_hash(self)

    @property
    def past_len(self) -> int:
        """Tokens already in the state when the call begins."""
        return self.kv_len - self.q_len


@dataclass(frozen=True, slots=True, kw_only=True)
class RingPlan:
    """An assembled ring that is asked for as such: ``first``, then ``turn`` with a null cell behind it ``turns`` times, ``last``.

    Every case is streaming and states the ring's own working set as its ``ring_bytes``. Rings of one ``group`` are measured in
    the same processes, ``loads`` times each: what is to be compared shares what a process inherits.
    """

    first: BenchCase | None = None
    turn: tuple[BenchCase, ...]
    turns: int = 1
    last: BenchCase | None = None
    group: str = ""
    loads: int = 1

    @property
    def cases(self) -> tuple[BenchCase, ...]:
        """The measured cases, each once."""
        ends = tuple(case for case in (self.first, self.last) if case is not None)
        return (*self.turn, *ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactSpec:
    """What determines a built artifact; cases that differ only in context, threads or cache state share one.

    ``capacity`` is the number of rows of the artifact's KV cache, ``has_past`` whether calls may start after position 0.
    ``source_hash`` covers the code that builds it.
    """

    op: str
    op_version: int
    dims: dict[str, int | float | bool | str]
    batch: int
    q_len: int
    capacity: int
    has_past: bool
    dtype: str
    kv_dtype: str
    runtime: str
    runtime_version: str
    source_hash: str

    @property
    def key(self) -> str:
        """Content hash that names the artifact's folder in the cache."""
        return short_hash(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshRange:
    """Bytes of an artifact's file that hold weights and may be varied, so that two loads never share bytes.

    ``stride`` and ``offset_in_stride`` pick the bytes that are safe to flip: the lowest mantissa byte of a float, or
    every byte (stride 1) of packed integers.
    """

    file: str
    offset: int
    length: int
    stride: int
    offset_in_stride: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A built operator: files in a folder and what there is to know about them; plain data for any kind of worker.

    ``effective`` names a safetensors file with the dequantised weights where quantisation changed them.
    ``quantization_error`` is the relative error that quantising the weights alone causes against full precision.
    """

    key: str
    spec: ArtifactSpec
    files: dict[str, str]
    weight_bytes: int
    arena_bytes: int | None = None
    delegated_share: float | None = None
    effective: str | None = None
    quantization_error: float | None = None
    fresh: list[FreshRange] = field(default_factory=list)
    build_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureProtocol:
    """How many of everything: effort changes these counts and never the way a sample is taken.

    ``rounds`` are fresh processes for each runtime, ``loads`` separate loads of a cell in each of them.
    """

    version: int = PROTOCOL_VERSION
    effort: str
    rounds: int
    loads: int
    min_samples: int
    max_samples: int
    time_budget_ns: int
    warmup_budget_ns: int
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of one fresh process that loads a cell and calls it twice, in bytes; None where the platform cannot tell.

    ``code_delta_bytes`` is the part of ``file_delta_bytes`` that is code, paged in once however many cells run it.
    """

    peak_rss_delta_bytes: int | None = None
    anon_delta_bytes: int | None = None
    file_delta_bytes: int | None = None
    code_delta_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """What a device reaches at best with ``n_threads``: bytes read a second, and FLOP/s by the dtype multiplied in.

    ``probes`` holds every probe's own figure; the best of each kind is the roof.
    """

    n_threads: int
    bytes_per_s: float
    flops_per_s: dict[str, float]
    probes: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """One line of the store: one fresh load of one case, measured (or the reason why not).

    ``kind`` is ``latency`` (timed samples), ``probe`` (memory and numerics of a fresh process, or why a cell never came
    to be timed), ``sentinel`` (the host's drift) or ``roof`` (what the device reaches at best). ``round`` numbers the fresh
    processes of a session: records of one session, round and runtime come from one process. ``ring`` lists the case keys
    that shared the ring, in order.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    kind: Literal["latency", "probe", "sentinel", "roof"]
    session_id: str
    round: int
    case_key: str
    case: BenchCase | None
    protocol_version: int = PROTOCOL_VERSION
    runtime_version: str
    artifact_key: str | None = None
    device_id: str
    environment: dict[str, Any]
    fingerprint: str
    started_at: str
    status: Status
    reason: str | None = None
    load_ns: int | None = None
    first_call_ns: int | None = None
    samples_ns: list[int] = field(default_factory=list)
    settled: bool | None = None
    warmup_calls: int | None = None
    call_overhead_ns: int | None = None
    ring: list[str] = field(default_factory=list)
    ring_bytes: int | None = None
    n_threads_seen: int | None = None
    affinity_seen: list[int] = field(default_factory=list)
    memory: Memory | None = None
    weight_bytes: int | None = None
    arena_bytes: int | None = None
    delegated_share: float | None = None
    max_rel_error: float | None = None
    quantization_error: float | None = None
    roof: Roof | None = None
