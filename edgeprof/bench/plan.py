"""The plan: a suite's matrix and a user's selection become the list of cases, checked before anything is built."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import cast, get_args

from edgeprof.bench.selection import DimValue, Selection
from edgeprof.bench.suite import MAX_DECODE_TOKENS, Cells, Suite, length_pairs, split_dtype
from edgeprof.core.dtypes import kv_itemsize
from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.core.types import BenchCase, CacheState, Phase, RingPlan
from edgeprof.core.units import format_bytes
from edgeprof.devices.base import DEVICES, Device
from edgeprof.models.composite import composite_ops
from edgeprof.operators.base import Dims, OperatorSpec
from edgeprof.operators.registry import OPERATORS, make_spec
from edgeprof.runtimes.base import RUNTIMES, Runtime

DEFAULT_RING_BYTES = 256 * 1024**2
"""Working set that streaming cells are timed in: beyond a last-level cache, and near a 350M model in 4 bits."""

MAX_CASES = 10_000
"""More cases than this are a mistake in a range: they would take days."""


def plan(suite: Suite, selection: Selection, device: Device | None = None) -> list[BenchCase]:
    """The cases of ``plan_cells``, all of which fit the device (by default the selection's).

    Raises:
        UsageError: as ``plan_cells``, or a case does not fit the device.
    """
    cases = plan_cells(suite, selection)
    device = device or DEVICES.get(selection.device)
    check_fits(cases, free_bytes=device.free_bytes(), cpus=len(device.allowed_cpus()))
    return cases


def plan_cells(suite: Suite, selection: Selection) -> list[BenchCase]:
    """The cases, in the suite's order, each one once, wherever they are to run.

    An operator, runtime or phase that the suite has is picked out of it; one that it lacks replaces the suite's in
    every cell. Lengths, batches, threads, cache states, dtypes and dims replace the suite's. Where no phase is given,
    the lengths choose: ``kv_lens`` alone mean decode at those contexts, ``q_lens`` beyond what decode takes mean
    prefill.

    A dtype that a runtime does not offer is left out, unless both were asked for by name, or the dtype was and no
    runtime of the plan offers it: then its cases stay, to be reported as unsupported.

    Raises:
        UsageError: a name is unknown, sizes do not fit together, or the plan is empty or absurdly large.
    """
    check_names(selection)
    candidates = list(_candidates(suite, selection))
    check_dims_used(selection, {c.case.op for c in candidates})
    kept = _drop_unoffered(candidates, selection)
    cases = list({c.case.key: c.case for c in kept}.values())
    if not cases:
        raise UsageError(
            f"{suite.name}: nothing to measure: no chosen runtime offers a chosen dtype; see edgeprof runtimes"
        )
    return cases


def check_names(selection: Selection) -> None:
    """Checks every name in the selection.

    Raises:
        UsageError: one is unknown; the message offers the closest.
    """
    for name in selection.ops or ():
        OPERATORS.check(name)
    for name in selection.runtimes or ():
        RUNTIMES.check(name)
    for name in selection.dtypes or ():
        split_dtype(name)
    for name in selection.kv_dtypes or ():
        kv_itemsize(name)
    DEVICES.check(selection.device)
    _check_choice("phase", selection.phases, get_args(Phase))
    _check_choice("cache-state", selection.cache_states, get_args(CacheState))


def _check_choice(kind: str, names: tuple[str, ...] | None, known: tuple[str, ...]) -> None:
    for name in names or ():
        if name not in known:
            raise UsageError(f"unknown {kind} {name!r}: {did_you_mean(name, list(known))}")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A case before it is known whether it stays; ``dtype_name`` is how it was asked for, None if the runtime chose."""

    case: BenchCase
    dtype_name: str | None
    offered: bool


def _candidates(suite: Suite, selection: Selection) -> Iterator[_Candidate]:
    """Every combination, with a limit on their number."""
    for count, candidate in enumerate(_expand_suite(suite, selection)):
        if count >= MAX_CASES:
            raise UsageError(
                f"{suite.name}: more than {MAX_CASES} cases; use fewer values or a larger step in the ranges"
            )
        yield candidate


def _expand_suite(suite: Suite, selection: Selection) -> Iterator[_Candidate]:
    ops = {op for cells in suite.cells for op in cells.op}
    runtimes = {r for cells in suite.cells for r in cells.runtime}
    phases = {str(p) for cells in suite.cells for p in cells.phase}
    asked_phases = selection.phases or _phases_by_length(selection)
    for cells in suite.cells:
        for phase in _pick(asked_phases, cells.phase, phases):
            lengths = _lengths(cells, phase, selection)
            for op in _pick(selection.ops, cells.op, ops):
                for runtime in _pick(selection.runtimes, cells.runtime, runtimes):
                    yield from _expand(
                        cells, selection, op=op, runtime=runtime, phase=cast(Phase, phase), lengths=lengths
                    )


def _pick(asked: tuple[str, ...] | None, own: tuple[str, ...], anywhere: set[str]) -> tuple[str, ...]:
    """The names that a cell contributes: its own among those asked for, and those that no cell of the suite has."""
    return own if asked is None else tuple(name for name in asked if name in own or name not in anywhere)


def _phases_by_length(selection: Selection) -> tuple[str, ...] | None:
    """The phases that the lengths ask for when nobody named a phase."""
    if selection.q_lens is None:
        return None if selection.kv_lens is None else ("decode",)
    decode = tuple(q for q in selection.q_lens if q <= MAX_DECODE_TOKENS)
    if not decode:
        return ("prefill",)
    return ("decode",) if len(decode) == len(selection.q_lens) else ("decode", "prefill")


def _lengths(cells: Cells, phase: str, selection: Selection) -> list[tuple[int, int]]:
    """The (q_len, kv_len) of a cell's phase; options replace the suite's."""
    q_lens, kv_lens = selection.q_lens, selection.kv_lens
    if q_lens is not None and selection.phases is None:  # each length goes to the phase it suits
        q_lens = tuple(q for q in q_lens if (q <= MAX_DECODE_TOKENS) == (phase == "decode"))
    if q_lens is None and kv_lens is None:
        return length_pairs(phase, cells.q_len, cells.kv_len)
    if phase == "decode":
        own = cells.q_len if phase in cells.phase else None
        return length_pairs(phase, q_lens or own, kv_lens or cells.kv_len)
    return length_pairs(phase, q_lens, kv_lens)


def _expand(
    cells: Cells, selection: Selection, *, op: str, runtime: str, phase: Phase, lengths: list[tuple[int, int]]
) -> Iterator[_Candidate]:
    """The matrix of one operator in one runtime and phase."""
    dtypes = list(_dtype_pairs(RUNTIMES.get(runtime), selection.dtypes or cells.dtype, selection.kv_dtypes))
    batches, threads = selection.batches or cells.batch, selection.threads or cells.threads
    states = cast(tuple[CacheState, ...], selection.cache_states or cells.cache_state)
    rings = selection.ring_bytes or cells.ring_bytes or (DEFAULT_RING_BYTES,)
    state_and_ring = [(s, r) for s in states for r in (rings if s == "streaming" else (None,))]
    for spec in specs_of(op, cells.dims, selection.dims):
        for (q_len, kv_len), pair, batch, n_threads, (cache_state, ring) in product(
            lengths, dtypes, batches, threads, state_and_ring
        ):
            case = BenchCase(
                op=op,
                op_version=spec.version,
                phase=phase,
                dims=spec.dims(),
                batch=batch,
                q_len=1 if op == "head" and phase == "prefill" else q_len,  # only the last token's logits are needed
                kv_len=kv_len,
                dtype=pair.dtype,
                kv_dtype=pair.kv_dtype,
                runtime=runtime,
                n_threads=n_threads,
                cache_state=cache_state,
                ring_bytes=ring,
            )
            yield _Candidate(case, pair.name, pair.offered)


def specs_of(
    op: str, suite_dims: dict[str, tuple[DimValue, ...]], asked: dict[str, tuple[DimValue, ...]]
) -> list[OperatorSpec]:
    """The operator at every combination of the dimensions that it has; what is asked for replaces the suite's.

    Raises:
        UsageError: a dimension is missing, they do not fit together, or the operator is a block or a whole model.
    """
    if op in composite_ops():
        raise UsageError(
            f"{op}: is made of a model's configuration: edgeprof inspect counts it, edgeprof predict --measure and edgeprof "
            "verify measure it; here, name a single operator"
        )
    own = {f.name: f.type in (float, "float") for f in fields(OPERATORS.get(op))}
    axes = {name: values for name, values in {**suite_dims, **asked}.items() if name in own}
    combinations = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    whole: list[Dims] = [{n: float(v) if own[n] else v for n, v in dims.items()} for dims in combinations]
    return [make_spec(op, dims) for dims in whole]


@dataclass(frozen=True, slots=True)
class _DTypePair:
    dtype: str
    kv_dtype: str
    name: str | None
    offered: bool


def _dtype_pairs(
    runtime: Runtime, names: tuple[str, ...] | None, kv_dtypes: tuple[str, ...] | None
) -> Iterator[_DTypePair]:
    """The (weight, cache) formats that ``names`` mean in a runtime.

    A weight format alone means the runtime's first cache format for it, or those of ``kv_dtypes``. No names: all that
    the runtime offers.
    """
    if names is None:
        for dtype, kv_dtype in runtime.dtypes:
            if kv_dtypes is None or kv_dtype in kv_dtypes:
                yield _DTypePair(dtype, kv_dtype, None, True)
        return
    for name in names:
        dtype, named_kv = split_dtype(name)
        usual = next((kv for weight, kv in runtime.dtypes if weight == dtype), default_kv_dtype(dtype))
        for kv_dtype in (named_kv,) if named_kv else kv_dtypes or (usual,):
            yield _DTypePair(dtype, kv_dtype, name, (dtype, kv_dtype) in runtime.dtypes)


def _drop_unoffered(candidates: list[_Candidate], selection: Selection) -> list[_Candidate]:
    """Leaves out what no one asked for and cannot run; what was asked for stays and will say why it cannot run."""
    by_name = selection.dtypes is not None and selection.runtimes is not None
    kept = [c for c in candidates if by_name or _runs(c)]
    if selection.dtypes is not None:
        found = {c.dtype_name for c in kept}
        kept += [c for c in candidates if c.dtype_name not in found]
    if not kept and selection.kv_dtypes is not None:
        kept = [c for c in candidates if c.case.dtype in {weight for weight, _ in RUNTIMES.get(c.case.runtime).dtypes}]
    return kept


def _runs(candidate: _Candidate) -> bool:
    """Whether the runtime offers the dtype; one that nobody named must also be possible for this very case."""
    if candidate.dtype_name is None:
        return RUNTIMES.get(candidate.case.runtime).unsupported(candidate.case) is None
    return candidate.offered


def check_dims_used(selection: Selection, ops: set[str]) -> None:
    """Checks that every dimension asked for belongs to one of the operators.

    Raises:
        UsageError: none has it, so that the option would do nothing.
    """
    known = {f.name for op in ops for f in fields(OPERATORS.get(op))}
    for name in selection.dims:
        if name not in known:
            raise UsageError(
                f"--{name.replace('_', '-')}: none of {', '.join(sorted(ops))} has it; choose another --op"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """An estimate of the memory a case takes at its peak, in bytes: the build's and the run's shares together."""

    build_bytes: int
    weight_bytes: int
    state_bytes: int
    activation_bytes: int
    ring_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(getattr(self, f.name) for f in fields(self))

    def __str__(self) -> str:
        parts = [(f.name.removesuffix("_bytes"), getattr(self, f.name)) for f in fields(self)]
        return ", ".join(f"{name} {format_bytes(size)}" for name, size in parts if size)


def memory_needed(case: BenchCase) -> MemoryNeed:
    """What the case takes: an fp32 copy of the weights for the build, weights, state, activations, and its ring.

    Activations are the outputs of every linear layer and, for attention, one whole score matrix in fp32: what a
    runtime without a fused attention would hold. Of a block or a model, they are those of its largest part.
    """
    spec = make_spec(case.op, case.dims)
    return MemoryNeed(
        build_bytes=4 * sum(w.size for w in spec.weights().values()),
        weight_bytes=spec.weight_bytes(case.dtype),
        state_bytes=spec.state_bytes(batch=case.batch, kv_len=case.kv_len, kv_dtype=case.kv_dtype),
        activation_bytes=max(_activation_bytes(leaf, case) for leaf in spec.leaves())
        + spec.io_bytes(batch=case.batch, q_len=case.q_len, dtype=case.dtype),
        ring_bytes=case.ring_bytes or 0,
    )


def _activation_bytes(spec: OperatorSpec, case: BenchCase) -> int:
    dims = spec.dims()
    tokens = case.batch * case.q_len
    outputs = sum(w.shape[0] for w in spec.weights().values() if w.kind == "linear")
    scores = case.batch * int(dims.get("n_heads", 0)) * case.q_len * _visible_rows(dims, case.kv_len)
    return 4 * (tokens * outputs + scores)


def _visible_rows(dims: Dims, kv_len: int) -> int:
    """Rows of keys in one row of scores: with a window, a block of queries sees itself and the window before it."""
    window = dims.get("window")
    return kv_len if window is None else min(kv_len, 2 * int(window))


def ring_memory_needed(ring: RingPlan) -> MemoryNeed:
    """What a ring takes: the weights and state of every cell in it, and the largest build and activations of one."""
    cells = [*(c for c in (ring.first, ring.last) if c is not None), *ring.turn * ring.turns]
    needs = [memory_needed(case) for case in cells]
    return MemoryNeed(
        build_bytes=max(need.build_bytes for need in needs),
        weight_bytes=sum(need.weight_bytes for need in needs),
        state_bytes=sum(need.state_bytes for need in needs),
        activation_bytes=max(need.activation_bytes for need in needs),
        ring_bytes=0,
    )


def check_fits(cases: list[BenchCase], *, free_bytes: int, cpus: int) -> None:
    """Refuses, before anything is built, cases that the machine cannot hold.

    Args:
        cases: the plan.
        free_bytes: memory that can be had without swapping.
        cpus: CPUs that this process may run on.

    Raises:
        UsageError: names the first case that needs more memory than is free, or more threads than there are CPUs.
    """
    for case in cases:
        _check_threads(case, cpus)
        _check_memory(case_label(case), memory_needed(case), free_bytes, "use smaller sizes")


def check_rings_fit(rings: Sequence[RingPlan], *, free_bytes: int, cpus: int) -> None:
    """Likewise, rings that are asked for as such: all cells of one are held at a time.

    Raises:
        UsageError: names the first ring that does not fit.
    """
    for ring in rings:
        case = ring.turn[0]
        _check_threads(case, cpus)
        count = len(ring.turn) * ring.turns + (ring.first is not None) + (ring.last is not None)
        label = case_label(case) if count == 1 else f"ring of {count} cells, {case_label(case)} in it"
        fix = "use a smaller model, a shorter context or a format with fewer bits"
        _check_memory(label, ring_memory_needed(ring), free_bytes, fix)


def _check_threads(case: BenchCase, cpus: int) -> None:
    if case.n_threads > cpus:
        raise UsageError(
            f"threads: {case.n_threads} is more than the {cpus} CPUs that may be used here; use 1 to {cpus}"
        )


def _check_memory(label: str, need: MemoryNeed, free_bytes: int, fix: str) -> None:
    if need.total_bytes > free_bytes:
        raise UsageError(
            f"{label}: needs about {format_bytes(need.total_bytes)} ({need}), and {format_bytes(free_bytes)} are free; {fix}"
        )


def case_label(case: BenchCase) -> str:
    """A case in one short phrase, for progress and errors: ``gqa decode 1@4096 onnxruntime int4 hot``."""
    dtype = case.dtype if case.kv_dtype == default_kv_dtype(case.dtype) else f"{case.dtype}/{case.kv_dtype}"
    return f"{case.op} {case.phase} {case.q_len}@{case.kv_len} {case.runtime} {dtype} {case.cache_state}"


def default_kv_dtype(dtype: str) -> str:
    """The cache format that goes without saying: the format in which a weight format's activations are kept."""
    return "bf16" if dtype == "bf16" else "fp32"
