"""Two sides of stored results against each other, cell by cell: which cells pair up, and what their ratios say."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from edgeprof.bench.plan import check_names, default_kv_dtype
from edgeprof.bench.report import Measurement, Report, build_report
from edgeprof.bench.selection import Selection
from edgeprof.bench.stored import device_ids, reading_order
from edgeprof.core.errors import BaselineError, UsageError
from edgeprof.core.ranges import parse_sizes
from edgeprof.core.registry import did_you_mean
from edgeprof.core.types import BenchCase, InstanceRecord
from edgeprof.core.units import parse_bytes
from edgeprof.models.composite import composite_ops
from edgeprof.operators.registry import OPERATORS
from edgeprof.stats.intervals import exp_bounds
from edgeprof.stats.ratios import Ratio, different, paired_ratio
from edgeprof.store import Store

Verdict = Literal["faster", "slower", "same", "too_few_rounds"]

PLACES = ("results", "device", "session")
"""Keys of a selector that say where a side comes from; the others are fields of a case."""

NAMES = {"op": "ops", "runtime": "runtimes", "dtype": "dtypes", "kv_dtype": "kv_dtypes", "phase": "phases"}
NAMES |= {"cache_state": "cache_states"}
"""Keys whose values are names, and the field of a ``Selection`` that knows them."""

SIZES = {"q_len": "q_len", "kv_len": "kv_len", "batch": "batch", "threads": "n_threads"}
"""Keys whose values are sizes, and the field of a case."""

NORMAL_95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One side of a comparison as a user wrote it: ``runtime=onnxruntime,dtype=int4``.

    ``wanted`` maps fields of a case, and names of dimensions, to the one value that they shall have.
    """

    text: str
    wanted: dict[str, Any]
    results: Path | None = None
    device: str | None = None
    session: str | None = None

    @property
    def keys(self) -> frozenset[str]:
        """Everything that it fixes: fields, dimensions and places."""
        return frozenset(self.wanted) | {name for name in PLACES if getattr(self, name) is not None}

    def takes(self, case: BenchCase) -> bool:
        """Whether a case is on this side."""
        return all(_value(case, name) == value for name, value in self.wanted.items())


def _value(case: BenchCase, name: str) -> object:
    return case.dims[name] if name in case.dims else getattr(case, name, None)


def parse_selector(text: str, *, side: str) -> Selector:
    """Reads ``key=value,key=value``.

    Raises:
        UsageError: it is no such list, a key is unknown or given twice, or a value is none that the key can have.
    """
    given: dict[str, str] = {}
    for item in text.split(","):
        key, equals, value = (part.strip() for part in item.partition("="))
        key = key.replace("-", "_")
        if not (key and equals and value):
            raise UsageError(f"{side}: {item!r} is not key=value; write runtime=onnxruntime,dtype=int4")
        if key not in known_keys():
            raise UsageError(f"{side}: unknown key {key!r}: {did_you_mean(key, known_keys())}")
        if key in given:
            raise UsageError(f"{side}: {key} is given twice; a side has one value of it")
        given[key] = value
    places = {name: given.pop(name) for name in PLACES if name in given}
    wanted: dict[str, Any] = {}
    for key, value in given.items():
        wanted |= _parsed(key, value, side)
    folder = Path(places.pop("results")) if "results" in places else None
    return Selector(text=text, wanted=wanted, results=folder, **places)


def known_keys() -> list[str]:
    """Everything that a selector may name."""
    return [*NAMES, *SIZES, "ring", *_dimensions(), *PLACES]


def _dimensions() -> dict[str, type]:
    """The single operators' dimensions and the type of each."""
    single = [op for op in OPERATORS if op not in composite_ops()]
    return {f.name: _type_of(f.type) for op in single for f in fields(OPERATORS.get(op))}


def _type_of(annotation: object) -> type:
    name = getattr(annotation, "__name__", str(annotation))
    return {"bool": bool, "float": float}.get(name, int)


def _parsed(key: str, value: str, side: str) -> dict[str, Any]:
    """The fields of a case that ``key=value`` fixes."""
    field = f"{side}: {key}"
    if key in NAMES:
        weight, slash, kv = value.partition("/") if key == "dtype" else (value, "", "")
        asked: dict[str, Any] = {NAMES[key]: (value,)}
        try:
            check_names(Selection(**asked))
        except UsageError as error:
            raise UsageError(f"{side}: {error}") from None
        return {key: weight} | ({"kv_dtype": kv} if slash else {})
    if key == "ring":
        return {"ring_bytes": parse_bytes(value, field=field)}
    kind = _dimensions().get(key, int)
    if kind is bool:
        if value not in ("true", "false"):
            raise UsageError(f"{field}: {value!r} is neither true nor false")
        return {key: value == "true"}
    if kind is float:
        return {key: _number(value, field)}
    sizes = parse_sizes([value], field=field)
    if len(sizes) != 1:
        raise UsageError(f"{field}: {value} is a range; a side has one value of it")
    return {SIZES.get(key, key): sizes[0]}


def _number(text: str, field: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{field}: {text!r} is not a number") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The measurements that a selector picks, each with the report that holds its device's noise and drift.

    ``stored`` are all that there are where the selector looks.
    """

    selector: Selector
    rows: tuple[tuple[Report, Measurement], ...]
    stored: tuple[Measurement, ...]


def load_side(selector: Selector, root: Path) -> Side:
    """What a selector picks from its own folder of results, or from ``root``.

    Raises:
        BaselineError: its device or session is not among the stored ones, or nothing is stored at all.
        UsageError: the store cannot be read.
    """
    store = Store(selector.results or root)
    if not store.devices():
        raise BaselineError(f"{selector.text}: no results in {store.root}; measure with edgeprof bench")
    reports = []
    sessions: set[str] = set()
    for device_id in device_ids(store, selector.device, BaselineError):
        records = store.records(device_id)
        sessions |= {r.session_id for r in records}
        if selector.session is not None:
            records = [r for r in records if r.session_id == selector.session]
        reports.append(build_report(device_id, records))
    if selector.session is not None and selector.session not in sessions:
        raise BaselineError(
            f"session: no {selector.session!r} in {store.root}; {did_you_mean(selector.session, sorted(sessions))}"
        )
    return side_of(selector, reports)


def side_of(selector: Selector, reports: Iterable[Report]) -> Side:
    """The rows of ``reports`` that a selector picks; those of models' parts only where it names their operator or session."""
    stored = [(report, m) for report in reports for m in report.measurements]
    return Side(
        selector=selector,
        rows=tuple(
            (report, m)
            for report, m in stored
            if selector.takes(m.case) and (not m.of_model or selector.keys & {"op", "session"})
        ),
        stored=tuple(m for _, m in stored),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A cell of A and the cell of B that it is compared with; ``ratio`` is the time of B over the time of A.

    An unpaired ratio (``ratio.n_pairs`` = 0) has the host's drift in its bounds. ``noise_floor`` is the larger one of the
    two sides, None where a side has too few rounds to know it.
    """

    a: Measurement
    b: Measurement
    device_a: str
    device_b: str
    ratio: Ratio
    noise_floor: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All pairs, and what could not be compared: cells that match but that one side has no times of, and the rest."""

    pairs: tuple[Pair, ...]
    unmeasured: tuple[tuple[Measurement, Measurement], ...]
    n_only_a: int
    n_only_b: int

    @property
    def geometric_mean(self) -> float | None:
        """Of the ratios."""
        if not self.pairs:
            return None
        return math.exp(math.fsum(math.log(p.ratio.estimate) for p in self.pairs) / len(self.pairs))

    def count(self, *verdicts: Verdict) -> int:
        """Pairs with one of these verdicts."""
        return sum(p.verdict in verdicts for p in self.pairs)


def compare_sides(a: Side, b: Side) -> Comparison:
    """Pairs the cells that agree in everything but the keys of the two selectors, and judges each pair.

    Dimensions that only one of two operators has need no partner. What rests on the same loads is not compared.

    Raises:
        BaselineError: no cell of A that was measured has such a partner in B; says what each side has.
    """
    free = a.selector.keys | b.selector.keys
    partners: dict[tuple[object, ...], list[tuple[Report, Measurement]]] = defaultdict(list)
    for row in b.rows:
        partners[_identity(row, free)].append(row)
    agreeing = [
        (left, right)
        for left in a.rows
        for right in partners[_identity(left, free)]
        if _same_dims(left[1].case, right[1].case, free)
    ]
    found = [(x, y) for x, y in agreeing if not _same_loads(x[1], y[1])]
    if agreeing and not found:
        raise BaselineError(f"A ({a.selector.text}) and B ({b.selector.text}) are the same loads; nothing to compare")
    found.sort(key=lambda pair: (pair[0][0].device_id, reading_order(pair[0][1].case), reading_order(pair[1][1].case)))
    measured = [(x, y) for x, y in found if x[1].time is not None and y[1].time is not None]
    if not measured:
        raise BaselineError(f"no cell of A was measured in B too: A ({_content(a)}); B ({_content(b)})")
    return Comparison(
        pairs=tuple(_judged(x, y) for x, y in measured),
        unmeasured=tuple((x[1], y[1]) for x, y in found if (x, y) not in measured),
        n_only_a=len(a.rows) - len({id(x) for x, _ in found}),
        n_only_b=len(b.rows) - len({id(y) for _, y in found}),
    )


def _identity(row: tuple[Report, Measurement], free: frozenset[str]) -> tuple[object, ...]:
    """What must be equal for two cells to be compared, dimensions apart.

    What follows from a key that is compared is not asked for: the usual cache format of a weight format, the version of an
    operator, the ring of a cache state.
    """
    report, case = row[0], row[1].case
    implied = {"op": {"op_version"}, "cache_state": {"ring_bytes"}}
    ignored = free.union(*(names for key, names in implied.items() if key in free), {"dims"})
    values = {f.name: getattr(case, f.name) for f in fields(case) if f.name not in ignored}
    if "dtype" in free and values.get("kv_dtype") == default_kv_dtype(case.dtype):
        values["kv_dtype"] = "usual"
    return "" if "device" in free else report.device_id, *values.items()


def _same_dims(a: BenchCase, b: BenchCase, free: frozenset[str]) -> bool:
    return all(a.dims[name] == b.dims[name] for name in a.dims.keys() & b.dims.keys() - free)


def _same_loads(a: Measurement, b: Measurement) -> bool:
    """Whether two rows rest on common records, so that one of them holds the other."""
    return not {r.id for r in _records(a)}.isdisjoint(r.id for r in _records(b))


def _records(m: Measurement) -> list[InstanceRecord]:
    return [*m.instances, *([] if m.probe is None or m.instances else [m.probe])]


def _judged(a: tuple[Report, Measurement], b: tuple[Report, Measurement]) -> Pair:
    ratio = paired_ratio(b[1].rounds, a[1].rounds)
    if not ratio.n_pairs:
        ratio = with_drift(ratio, math.hypot(a[0].drift.sd, b[0].drift.sd))
    floors = [report.noise_floor.pooled for report, _ in (a, b) if report.noise_floor is not None]
    floor = max(floors) if len(floors) == 2 else None
    return Pair(
        a=a[1],
        b=b[1],
        device_a=a[0].device_id,
        device_b=b[0].device_id,
        ratio=ratio,
        noise_floor=floor,
        verdict=verdict(ratio, floor, n_rounds=min(len(a[1].rounds), len(b[1].rounds))),
    )


def with_drift(ratio: Ratio, drift_sd: float) -> Ratio:
    """An unpaired ratio whose bounds also hold what the host's drift may have added between the two sides.

    ``drift_sd`` is the SD of the logarithm of that. The p-value, which knows nothing of it, is dropped.

    Source: half-widths in quadrature as in ``edgeprof.stats.intervals.interval``.
    """
    if ratio.bounds is None:
        return ratio
    low, high = (math.log(bound) for bound in ratio.bounds)
    half = math.hypot((high - low) / 2, NORMAL_95 * drift_sd)
    return replace(ratio, bounds=exp_bounds(math.log(ratio.estimate), half), p_value=None)


def verdict(ratio: Ratio, noise_floor: float | None, *, n_rounds: int) -> Verdict:
    """What a ratio says of B: a difference only where its whole interval lies beyond the noise floor.

    From one round, which is one process, no difference between processes can be known.
    """
    if ratio.bounds is None or noise_floor is None or n_rounds < 2:
        return "too_few_rounds"
    if not different(ratio, noise_floor):
        return "same"
    return "faster" if ratio.estimate < 1 else "slower"


def _content(side: Side) -> str:
    """What a side has, in one phrase; of a selector that takes nothing, what it could have taken."""
    text, rows = side.selector.text, [m for _, m in side.rows]
    if not rows:
        return f"{text}: none of {len(side.stored)} cells; stored are {_values(side.stored)}"
    return f"{text}: {sum(m.time is not None for m in rows)} measured cells: {_values(rows)}"


def _values(rows: Sequence[Measurement]) -> str:
    names = ("op", "runtime", "dtype", "phase", "kv_len", "n_threads", "cache_state")
    return "; ".join(
        f"{name} {', '.join(str(v) for v in sorted({getattr(m.case, name) for m in rows}))}" for name in names
    )
