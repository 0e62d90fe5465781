"""Budgets: what a model may take, in time and memory on a device, and in size on paper."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from edgeprof.bench.plan import default_kv_dtype
from edgeprof.bench.suite import split_dtype
from edgeprof.core.errors import UsageError
from edgeprof.core.ranges import check_size, parse_sizes
from edgeprof.core.registry import did_you_mean
from edgeprof.core.units import parse_bytes
from edgeprof.models.accounting import parameters, token_cost, weight_costs
from edgeprof.models.block import BlockSpec
from edgeprof.models.config import ArchConfig
from edgeprof.predict.plan import MAX_CHUNKS
from edgeprof.runtimes.base import RUNTIMES
from edgeprof.search.linear import LinearLimit
from edgeprof.search.quantities import parse_count, parse_ns
from edgeprof.search.space import Space
from edgeprof.store.store import DEVICE_ID

Metric = Literal["tpot", "ttft", "peak_memory", "state", "params", "file_size"]

METRICS: tuple[Metric, ...] = get_args(Metric)

MAX_THREADS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a metric's budget says: how its limit is read, and which of a budget's fields mean something for it."""

    parse: Callable[..., float]
    example: str
    needs_at: bool = False
    fields: tuple[str, ...] = ()


MEASURED = ("runtime", "dtype", "n_threads", "device")
KINDS: dict[Metric, Kind] = {
    "tpot": Kind(parse=parse_ns, example="12ms@4096", needs_at=True, fields=("at", *MEASURED)),
    "ttft": Kind(parse=parse_ns, example="900ms@1024", needs_at=True, fields=("at", "chunk", *MEASURED)),
    "peak_memory": Kind(parse=parse_bytes, example="300MiB", fields=("at", *MEASURED)),
    "state": Kind(parse=parse_bytes, example="24MiB@4096", needs_at=True, fields=("at", "dtype")),
    "params": Kind(parse=parse_count, example="100M"),
    "file_size": Kind(parse=parse_bytes, example="60MB", fields=("dtype",)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most that a model may take of one thing.

    ``limit`` is in nanoseconds, bytes or parameters. ``at`` is the context of ``tpot`` (one token), ``state`` and
    ``peak_memory`` (optional there), and the prompt of ``ttft``, which is taken in calls of ``chunk`` tokens, or in one.
    ``dtype`` is WEIGHT or WEIGHT/KV. Runtime, dtype and threads are the search's own while they are None (``filled`` states
    them), and where they mean nothing for the metric. ``name`` is what reports call the budget: it stays when the others are
    filled in.
    """

    name: str
    metric: Metric
    limit: float
    at: int | None = None
    chunk: int | None = None
    runtime: str | None = None
    dtype: str | None = None
    n_threads: int | None = None
    device: str = "local"

    @property
    def is_static(self) -> bool:
        """Whether arithmetic alone tells the figure."""
        return "runtime" not in KINDS[self.metric].fields

    @property
    def target_key(self) -> tuple[str | None, str | None, int | None, str]:
        """Where it is measured: equal for budgets on the same model in the same place."""
        return self.runtime, self.dtype, self.n_threads, self.device

    @property
    def question(self) -> tuple[object, ...]:
        """All but the limit: two budgets that ask the same contradict each other, or repeat."""
        return self.metric, self.at, self.chunk, *self.target_key

    def filled(self, *, runtime: str, dtype: str, n_threads: int) -> "Budget":
        """The budget with the search's runtime, dtype and threads where it states none and they mean something."""
        if self.is_static:
            return replace(self, dtype=self.dtype or dtype) if "dtype" in KINDS[self.metric].fields else self
        return replace(
            self,
            runtime=self.runtime or runtime,
            dtype=self.dtype or dtype,
            n_threads=self.n_threads or n_threads,
        )


def make_budget(
    metric: Metric,
    limit: float,
    *,
    field: str,
    at: int | None = None,
    chunk: int | None = None,
    runtime: str | None = None,
    dtype: str | None = None,
    n_threads: int | None = None,
    device: str = "local",
) -> Budget:
    """A checked and named budget; errors name ``field``.

    Raises:
        UsageError: one line that names the field and the fix.
    """
    plain = Budget(
        name="",
        metric=metric,
        limit=limit,
        at=at,
        chunk=chunk,
        runtime=runtime,
        dtype=dtype,
        n_threads=n_threads,
        device=device,
    )
    _check_meaning(plain, field)
    _check_numbers(plain, field)
    checks: list[tuple[str, str | None, Callable[[str], object]]] = [
        ("runtime", runtime, RUNTIMES.check),
        ("dtype", dtype, split_dtype),
    ]
    for name, value, check in checks:
        try:
            value is None or check(value)
        except UsageError as error:
            raise UsageError(f"{field}.{name}: {error}") from None
    if not DEVICE_ID.fullmatch(device):
        raise UsageError(f"{field}.device: {device!r:.90} is no device id; edgeprof devices lists what is stored")
    return replace(plain, name=_name(plain))


def _check_meaning(budget: Budget, field: str) -> None:
    """Checks that the metric has all the fields that it needs, and no others.

    Raises:
        UsageError: it has not.
    """
    kind = KINDS[budget.metric]
    given = {name: getattr(budget, name) for name in ("at", "chunk", "runtime", "dtype", "n_threads")}
    given["device"] = None if budget.device == "local" else budget.device
    for name, value in given.items():
        if value is not None and name not in kind.fields:
            raise UsageError(f"{field}.{name}: means nothing for {budget.metric}; leave it out")
    if kind.needs_at and budget.at is None:
        what = "prompt" if budget.metric == "ttft" else "context"
        raise UsageError(f"{field}: {budget.metric} needs a {what}; write {kind.example}, or at = ... in a file")


def _check_numbers(budget: Budget, field: str) -> None:
    """Checks lengths and threads.

    Raises:
        UsageError: one is no size, or a prompt would be an absurd number of calls.
    """
    for name in ("at", "chunk"):
        if (value := getattr(budget, name)) is not None:
            check_size(value, field=f"{field}.{name}", what="length")
    if budget.n_threads is not None:
        check_size(budget.n_threads, field=f"{field}.n_threads", what="number of threads", maximum=MAX_THREADS)
    if budget.at is not None and budget.chunk is not None and -(-budget.at // budget.chunk) > MAX_CHUNKS:
        raise UsageError(f"{field}.chunk: {budget.chunk} makes more than {MAX_CHUNKS} calls of it; use a larger one")


def _name(budget: Budget) -> str:
    """The metric, where in the text it is asked, and what is stated of the place: ``ttft@1024 executorch 8da4w``."""
    words = [budget.metric if budget.at is None else f"{budget.metric}@{budget.at}"]
    words += [f"chunk {budget.chunk}"] if budget.chunk is not None else []
    words += [text for text in (budget.runtime, budget.dtype) if text is not None]
    if budget.n_threads is not None:
        words.append("1 thread" if budget.n_threads == 1 else f"{budget.n_threads} threads")
    words += [f"on {budget.device}"] if budget.device != "local" else []
    return " ".join(words)


def parse_budget(metric: str, text: str, *, field: str | None = None, chunk: int | None = None) -> Budget:
    """The budget that an option gives: ``12ms@4096``, ``300MiB`` or ``100M``; ``field`` is the option's name.

    Raises:
        UsageError: one line that names the option and shows an example.
    """
    field = field or f"--{metric.replace('_', '-')}"
    known = _metric(metric, field)
    kind = KINDS[known]
    limit, at_sign, place = text.partition("@")
    if not limit.strip() or (at_sign and not place.strip()):
        raise UsageError(f"{field}: {text[:80]!r} is no budget; write {kind.example}")
    if at_sign and "at" not in kind.fields:
        raise UsageError(f"{field}: {text[:80]!r}: {metric} is the same at every length; write {kind.example}")
    at = _one_length(place, field) if at_sign else None
    return make_budget(known, kind.parse(limit.strip(), field=field), field=field, at=at, chunk=chunk)


def _metric(text: str, field: str) -> Metric:
    for metric in METRICS:
        if metric == text:
            return metric
    raise UsageError(f"{field}: unknown metric {text[:80]!r}: {did_you_mean(text[:80], list(METRICS))}")


def _one_length(text: str, field: str) -> int:
    sizes = parse_sizes([text], field=field, what="length")
    if len(sizes) > 1:
        raise UsageError(f"{field}: {text[:80]} means {len(sizes)} lengths; repeat the option for each")
    return sizes[0]


def load_budgets(path: Path) -> tuple[Budget, ...]:
    """The budgets of a file: ``schema_version = 1`` and ``[[budget]]`` tables.

    Raises:
        UsageError: it cannot be read, a field is wrong, or two budgets ask the same.
    """
    from edgeprof.search.budget_schema import parse_budget_file

    found = []
    for i, row in enumerate(parse_budget_file(path).budget):
        field = f"{path.name}: budget[{i}]"
        metric = _metric(row.metric, f"{field}.metric")
        limit = KINDS[metric].parse(row.limit, field=f"{field}.limit")
        found.append(make_budget(metric, limit, field=field, **row.model_dump(exclude={"metric", "limit"})))
    try:
        return check_budgets(found)
    except UsageError as error:
        raise UsageError(f"{path.name}: {error}") from None


def load_budget(document: Mapping[str, Any]) -> Budget:
    """The budget whose fields, as ``dataclasses.asdict`` gives them, a study keeps.

    Raises:
        UsageError: a field is wrong: names it.
    """
    from edgeprof.search.budget_schema import parse_stored_budget

    stored = parse_stored_budget(document)
    metric = _metric(stored.metric, "stored budget.metric")
    fields = stored.model_dump(exclude={"name", "metric", "limit"})
    return replace(make_budget(metric, stored.limit, field="stored budget", **fields), name=stored.name)


def check_budgets(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """The budgets, if each of them asks something of its own and has a name of its own.

    Raises:
        UsageError: two ask the same; names them.
    """
    found = tuple(budgets)
    (question, n), *_ = Counter(b.question for b in found).most_common(1) or [((), 0)]
    if n > 1:
        name = next(b.name for b in found if b.question == question)
        raise UsageError(f"budget {name}: comes twice; keep one")
    return found


def static_value(budget: Budget, config: ArchConfig) -> int:
    """What a static budget limits, for an architecture: exact.

    Raises:
        UsageError: the budget needs a dtype and has none.
    """
    if budget.metric == "params":
        return parameters(config)
    assert budget.is_static, budget.metric
    if budget.dtype is None:
        raise UsageError(f"budget {budget.name}: dtype: is missing; give --dtype, or dtype = ... in the file")
    weight, kv_dtype = split_dtype(budget.dtype)
    if budget.metric == "file_size":
        return file_bytes(config, weight)
    assert budget.at is not None
    return state_bytes(config, budget.at, kv_dtype or default_kv_dtype(weight))


def state_bytes(config: ArchConfig, context: int, kv_dtype: str) -> int:
    """Bytes of state that a sequence of ``context`` tokens keeps for the next one."""
    return token_cost(config, context=context, dtype="fp32", kv_dtype=kv_dtype).state_bytes


def file_bytes(config: ArchConfig, dtype: str) -> int:
    """Bytes of the weights in a format, and of a tied projection's second copy where the format stores one."""
    (cost,) = (cost for cost in weight_costs(config) if cost.dtype == dtype)
    return cost.weight_bytes + cost.tied_copy_bytes


def static_limits(space: Space, budgets: Sequence[Budget]) -> list[LinearLimit]:
    """The static ones of ``budgets`` as linear limits over a space: for every layout the limit's value is the exact one.

    Parameters, state and bytes of weights are sums over blocks, and in a block over mixer and feed-forward; embedding and
    head are the constant.

    Raises:
        UsageError: a budget needs a dtype and has none.
    """
    return [_static_limit(space, budget) for budget in budgets if budget.is_static]


def _static_limit(space: Space, budget: Budget) -> LinearLimit:
    """A block costs what a second one like it adds to a model; what is left of a model of one block is the constant."""

    @cache
    def of_copies(block: BlockSpec, n: int) -> int:
        return static_value(budget, replace(space.model, layers=(block,) * n))

    weights, constant = space.block_sum(lambda block: of_copies(block, 2) - of_copies(block, 1))
    block = space.blocks()[0]
    ends = 2 * of_copies(block, 1) - of_copies(block, 2)
    return LinearLimit(name=budget.name, weights=weights, constant=constant + ends, limit=budget.limit)
