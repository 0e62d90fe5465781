"""What a layout costs against its budgets: exact where arithmetic tells, predicted from measured cells where it takes time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgeprof.core.types import BenchCase, RingPlan
from edgeprof.models.config import ArchConfig, config_to_json
from edgeprof.predict.evidence import Evidence
from edgeprof.predict.memory import predict_peak
from edgeprof.predict.plan import block_label, cell_case, decode_call, prefill_calls, working_set
from edgeprof.predict.predict import Knowledge, predict_calls
from edgeprof.predict.types import ModelCall, Target
from edgeprof.runtimes.base import RUNTIMES
from edgeprof.search.budgets import Budget, static_limits, static_value
from edgeprof.search.cells import space_rings
from edgeprof.search.linear import Layout, LinearLimit
from edgeprof.search.space import FFN, Space

NO_LIMIT = 1.0
"""Stands for any limit, where budgets are told apart by all else."""

DEFAULT_CONTEXT = 1024
"""Context whose peak memory is meant where no budget of the same target names a context or a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A budget's figure for one layout: the expected value, its interval, and the upper end that must keep the limit.

    All are None where a cell has no measurement: then ``missing`` names the cells, and nothing is known. ``cells`` are the
    keys of the cases that a prediction rests on.
    """

    budget: Budget
    value: float | None
    upper: float | None
    lower: float | None = None
    cells: tuple[str, ...] = ()
    missing: tuple[BenchCase, ...] = ()

    @property
    def excess(self) -> float:
        """How far the upper end lies above the limit, as a share of the limit; at most 0 where it is kept."""
        return float("inf") if self.upper is None else self.upper / self.budget.limit - 1


@dataclass(slots=True, kw_only=True)
class Costs:
    """Figures of any layout of a space. ``knowledge`` is what is known of each budget's device, by the budget's device.

    ``impossible`` says by key of a cell why it cannot be measured: no layout with it has figures, and no ring is planned for it.
    """

    space: Space
    budgets: Sequence[Budget]
    knowledge: Mapping[str, Knowledge]
    make_target: Callable[[Budget, ArchConfig], Target]
    impossible: dict[str, str] = field(default_factory=dict)
    _evidence: dict[str, Evidence] = field(default_factory=dict)
    _known: dict[tuple[Budget, str], Figure] = field(default_factory=dict)

    def learn(self, knowledge: Mapping[str, Knowledge]) -> None:
        """Takes what was measured or verified since."""
        self.knowledge = knowledge
        self._evidence.clear()
        self._known.clear()

    def with_limits(self, limit_of: Callable[[Budget], float]) -> "Costs":
        """The same with other limits. What is known of figures is shared: no figure depends on its limit."""
        return replace(self, budgets=tuple(replace(budget, limit=limit_of(budget)) for budget in self.budgets))

    def figures(self, layout: Layout) -> dict[str, Figure]:
        """Every budget's figure, by its name."""
        config = self.space.config(layout)
        return {budget.name: self.figure(budget, config) for budget in self.budgets}

    def figure(self, budget: Budget, config: ArchConfig) -> Figure:
        """One budget's figure for an architecture."""
        key = (replace(budget, limit=NO_LIMIT), config_to_json(config))
        if key not in self._known:
            self._known[key] = self._static(budget, config) if budget.is_static else self._predicted(budget, config)
        known = self._known[key]
        return known if known.budget.limit == budget.limit else replace(known, budget=budget)

    def keeps(self, layout: Layout) -> bool:
        """Whether every budget's upper end keeps its limit, and the space's rules are kept."""
        return not self.space.broken_rules(layout) and all(f.excess <= 0 for f in self.figures(layout).values())

    def excesses(self, layout: Layout) -> list[float]:
        """By how much each figure's upper end exceeds its limit, in ``limits``' order and units; below 0 where it keeps it."""
        figures = self.figures(layout).values()
        ordered = [f for f in figures if f.budget.is_static] + [f for f in figures if not f.budget.is_static]
        return [f.excess * f.budget.limit for f in ordered]

    def rings(self) -> dict[str, list[RingPlan]]:
        """What would have to be measured for the whole space, by device; nothing for a target whose cells are all there."""
        wanted: dict[str, list[RingPlan]] = {}
        for budget in self.budgets:
            if budget.is_static:
                continue
            small, large = self._extremes(budget)
            self._refuse_unsupported(budget, small)
            configs = [*map(self.space.config, covering_layouts(self.space)), small.config, large.config]
            missing = {case.key for config in configs for case in self.figure(budget, config).missing}
            if missing <= set(self.impossible):
                continue
            for call in self.calls_of(budget):
                rings = space_rings(self.space, small, call, (small, large), self.impossible)
                planned = wanted.get(budget.device, [])
                wanted[budget.device] = [*planned, *(ring for ring in rings if ring not in planned)]
        return {device: rings for device, rings in wanted.items() if rings}

    def _refuse_unsupported(self, budget: Budget, target: Target) -> None:
        """Finds the blocks that the runtime says it cannot run."""
        runtime = RUNTIMES.get(target.runtime)
        for call in self.calls_of(budget):
            for block in self.space.blocks():
                case = cell_case(target, call, block)
                if reason := runtime.unsupported(case):
                    self.impossible[case.key] = f"{block_label(block)} in {target.runtime} {target.dtype}: {reason}"

    def calls_of(self, budget: Budget) -> tuple[ModelCall, ...]:
        """The model's calls that a budget is about; peak memory is that of all calls of its target's other budgets."""
        if budget.metric == "tpot":
            assert budget.at is not None
            return (decode_call(budget.at),)
        if budget.metric == "ttft":
            assert budget.at is not None
            return prefill_calls(budget.at, budget.chunk)
        same = [b for b in self.budgets if b.metric in ("tpot", "ttft") and b.target_key == budget.target_key]
        if budget.at is not None:
            return (decode_call(budget.at),)
        return tuple(dict.fromkeys(c for b in same for c in self.calls_of(b))) or (decode_call(DEFAULT_CONTEXT),)

    def limits(self, around: Layout) -> list[LinearLimit]:
        """Every budget as a linear limit: exact for parameters, state and file size.

        For predicted figures it is the tangent at ``around``: exchanging one choice at a time tells each choice's weight, and a
        proposal is checked by its own figure. A choice without measurement is forbidden.
        """
        measured = [self._linear(budget, around) for budget in self.budgets if not budget.is_static]
        return [*static_limits(self.space, self.budgets), *measured]

    def _linear(self, budget: Budget, around: Layout) -> LinearLimit:
        begin = self.figure(budget, self.space.config(around)).upper
        assert begin is not None, "the layout to exchange choices of must be known itself"
        weights: dict[str, dict[str, float]] = {}
        for name, choices in self.space.parameters.items():
            weights[name] = {}
            for choice in choices:
                upper = self.figure(budget, self.space.config({**around, name: choice})).upper
                weights[name][choice] = 2 * budget.limit if upper is None else upper - begin
        return LinearLimit(name=budget.name, weights=weights, constant=begin, limit=budget.limit)

    def _static(self, budget: Budget, config: ArchConfig) -> Figure:
        value = static_value(budget, config)
        return Figure(budget=budget, value=value, upper=value, lower=value)

    def _predicted(self, budget: Budget, config: ArchConfig) -> Figure:
        known = self.knowledge[budget.device]
        if budget.device not in self._evidence:
            self._evidence[budget.device] = known.evidence()
        target = self.make_target(budget, config)
        figure = self._of_target(budget, known.with_pairs(target))
        # a pair that was measured in other contexts only is no reason to know nothing: its blocks are known
        return self._of_target(budget, target) if figure.missing else figure

    def _of_target(self, budget: Budget, target: Target) -> Figure:
        known, evidence = self.knowledge[budget.device], self._evidence[budget.device]
        if budget.metric == "peak_memory":
            peak = predict_peak(target, self.calls_of(budget), evidence, known.errors(target, "memory"))
            if peak.bytes is None:
                return Figure(budget=budget, value=None, upper=None, missing=peak.missing)
            return Figure(budget=budget, value=peak.bytes.value, upper=peak.bytes.hi, lower=peak.bytes.lo)
        found = predict_calls(target, known, evidence, self.calls_of(budget))
        if found.ns is None:
            return Figure(budget=budget, value=None, upper=None, missing=found.missing)
        keys = tuple(dict.fromkeys(term.case.key for term in found.terms))
        return Figure(budget=budget, value=found.ns.value, upper=found.ns.hi, lower=found.ns.lo, cells=keys)

    def _extremes(self, budget: Budget) -> tuple[Target, Target]:
        """The models of the space that touch least and most memory in the budget's first call."""
        call = self.calls_of(budget)[0]

        def size(layout: Layout) -> int:
            return working_set(self.make_target(budget, self.space.config(layout)), call)

        ends = []
        for pick in (min, max):
            layout = dict(next(iter(covering_layouts(self.space))))
            for name, choices in self.space.parameters.items():
                layout[name] = pick(choices, key=lambda c, n=name, lay=dict(layout): size({**lay, n: c}))  # type: ignore[misc]
            ends.append(self.make_target(budget, self.space.config(layout)))
        return ends[0], ends[1]


def covering_layouts(space: Space) -> list[Layout]:
    """Layouts in which every block of the space comes at least once; they may break rules."""
    slots = {name: choices for name, choices in space.parameters.items() if name != FFN}
    most = max((len(choices) for choices in slots.values()), default=1)
    shared = [{FFN: ffn} for ffn in space.parameters.get(FFN, ())] or [{}]
    return [{n: own[i % len(own)] for n, own in slots.items()} | ffn for ffn in shared for i in range(most)]
