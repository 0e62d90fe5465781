"""What a search works with: the store, the devices its budgets name, the study, and the measuring of what it lacks."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprof.cli.search_options import Amount, Where
from edgeprof.core.canonical import canonical_json, short_hash
from edgeprof.core.errors import BaselineError, UsageError
from edgeprof.search.study import Setup

if TYPE_CHECKING:
    from optuna import Study

    from edgeprof.cli.targets import Place
    from edgeprof.core.types import BenchCase, MeasureProtocol, RingPlan
    from edgeprof.models.config import ArchConfig
    from edgeprof.predict.predict import Knowledge
    from edgeprof.predict.types import ModelCall, Target, VerifyRow
    from edgeprof.search.budgets import Budget
    from edgeprof.search.costs import Costs
    from edgeprof.search.feasibility import Relaxation
    from edgeprof.search.finalists import Finalist, VerifyModel
    from edgeprof.search.linear import Layout
    from edgeprof.search.run import Outcome
    from edgeprof.search.trials import Problem
    from edgeprof.store import Store

logger = logging.getLogger(__name__)

STUDIES = "studies"
"""Folder of the journals, beside the devices' results."""


@dataclass(slots=True, kw_only=True)
class Session:
    """One run of ``edgeprof search`` or of a worker of it."""

    setup: Setup
    study: "Study"
    problem: "Problem"
    places: "dict[str, Place]"
    store: "Store"
    storage: str | None
    around: "Layout | None" = None
    """A layout that keeps the budgets, once one was looked for."""

    @staticmethod
    def begin(setup: Setup, where: Where) -> "Session":
        """Opens or resumes the study that this setup is about.

        Raises:
            UsageError: something in the setup is wrong, a device is unknown, or the study is about something else.
        """
        from edgeprof.search.study import open_storage, open_study, storage_errors

        store = _store(where)
        problem, places = _problem(setup, store)
        setup = replace(
            setup,
            stage=problem.stage.name,
            scores=problem.objective.name,
            devices={name: place.device_id for name, place in places.items()},
        )
        storage = open_storage(where.storage, store.root / STUDIES)
        name = where.study or f"{problem.costs.space.name}-{short_hash(canonical_json(asdict(setup)))}"
        with storage_errors(where.storage or str(store.root / STUDIES)):
            study = open_study(storage, name, setup, problem.directions, problem.costs.space.parameters)
        return Session(setup=setup, study=study, problem=problem, places=places, store=store, storage=where.storage)

    @staticmethod
    def resume(where: Where) -> "Session":
        """Joins a stored study, as a worker or a reader does.

        Raises:
            UsageError: there is no such study, nothing is stored here of its devices, or scores would be others here.
        """
        from edgeprof.search.study import load_study, open_storage, setup_of, storage_errors

        store = _store(where)
        storage = open_storage(where.storage, store.root / STUDIES)
        with storage_errors(where.storage or str(store.root / STUDIES)):
            study = load_study(storage, where.study)
        setup = setup_of(study)
        problem, places = _problem(setup, store)
        if problem.objective.name != setup.scores:
            raise UsageError(
                f"--study: {study.study_name}: its scores are of {setup.scores or 'an earlier version':.200}, and cannot be "
                f"compared with those of {problem.objective.name:.200}, as they would be here"
            )
        return Session(setup=setup, study=study, problem=problem, places=places, store=store, storage=where.storage)

    def knowledge(self) -> "Mapping[str, Knowledge]":
        """Everything stored by now of the devices that the budgets name."""
        return _knowledge(self.places, self.store)

    def measure_cells(self, *, effort: str, ask: bool) -> None:
        """Measures what the space needs and the store lacks; a choice that cannot be measured is told, and never proposed.

        A cell that fails spoils its ring for the others; so rings are planned anew without it.

        Raises:
            UsageError: the effort is unknown, or a runtime not installed.
            BaselineError: the cells are another device's, which is not at hand; or the user does not want them measured.
        """
        from edgeprof.bench.protocol import protocol_for

        protocol, costs = protocol_for(effort), self.problem.costs
        told: set[str] = set()
        while True:
            rings = costs.rings()
            failed: list[tuple[BenchCase, str]] = []
            for name, of_device in rings.items():
                failed += self._measure(name, of_device, protocol, ask=ask and not told)
            costs.learn(self.knowledge())
            costs.impossible |= {cell.key: _why(cell, reason) for cell, reason in failed}
            for reason in dict.fromkeys(costs.impossible.values()):
                if reason not in told:
                    logger.warning("not measured, and so not proposed: %s", reason)
                    told.add(reason)
            if not failed or any(cell.op != "block" for cell, _ in failed):
                return

    def _measure(
        self, name: str, rings: "Sequence[RingPlan]", protocol: "MeasureProtocol", *, ask: bool
    ) -> "list[tuple[BenchCase, str]]":
        """Measures rings on one device; returns the cells that could not be measured, and why."""
        from edgeprof.bench.run import run_rings
        from edgeprof.cli.progress import ProgressReporter
        from edgeprof.predict.evidence import open_ring

        device = self.places[name].device
        if device is None:
            raise BaselineError(
                f"device {name}: cells of the space {self.problem.costs.space.name} are not measured there; "
                "run the same command on the device itself with --device local, and bring its results here"
            )
        _check_installed(rings)
        if ask and sys.stdin.isatty():
            _ask(len({case.key for ring in rings for case in ring.cases}), len(rings), protocol.rounds)
        with ProgressReporter() as reporter:
            run = run_rings(rings, device=device, store=self.store, protocol=protocol, reporter=reporter)
        cells = {case.key: open_ring(case) for ring in rings for case in ring.cases}
        return [(cells[key], reason) for key, reason in run.failed.items() if key in cells]

    def infeasible(self) -> "list[Relaxation] | None":
        """None where some layout keeps all budgets; else what each budget would have to be for one to exist.

        A study that has measured whole models already is told by these, whatever is predicted by now.
        """
        from edgeprof.search.feasibility import feasible_layout, relaxations
        from edgeprof.search.run import measured_before

        self.around = feasible_layout(self.problem.costs, self.setup.seed)
        if self.around is not None or measured_before(self.study):
            return None
        return relaxations(self.problem.costs, self.setup.seed)

    def attach_sampler(self) -> None:
        """Gives the study its sampler: the additive one knows the budgets and checks each proposal.

        Raises:
            NoFeasibleLayoutError: by what is known here no layout keeps the budgets.
        """
        from edgeprof.search.sampler_names import make_sampler
        from edgeprof.search.sampler_proposal import NoFeasibleLayoutError
        from edgeprof.search.study import attach, make_pruner

        costs = self.problem.costs
        if self.around is None and self.infeasible() is not None:
            raise NoFeasibleLayoutError(
                f"study {self.study.study_name}: by the results in {self.store.root} no layout keeps its budgets; "
                "copy the results of the machine that began it"
            )
        assert self.around is not None
        sampler = make_sampler(
            self.setup.sampler,
            seed=self.setup.seed,
            parameters=costs.space.parameters,
            limits=[*costs.limits(self.around), *costs.space.limits],
            check=costs.excesses,
        )
        attach(self.study, sampler, make_pruner(self.study))

    def run(self, amount: Amount) -> "Outcome":
        """Trials and finalists, to the end."""
        from edgeprof.cli.progress import ProgressReporter
        from edgeprof.cli.search_workers import workers
        from edgeprof.search.baselines import enqueue_baselines
        from edgeprof.search.run import Plan, search
        from edgeprof.search.study import lost_storage

        self.attach_sampler()
        plan = Plan(
            n_trials=amount.trials, n_finalists=amount.finalists, final_stage=self.problem.objective.final_stage
        )
        with lost_storage(), ProgressReporter() as reporter:
            enqueue_baselines(self.study, self.problem.costs)
            return search(
                self.study,
                self.problem,
                plan,
                verify=self._verifier(amount.effort) if amount.measure else None,
                relearn=self.knowledge,
                reporter=reporter,
                helpers=lambda n_trials: workers(self, amount.workers - 1, n_trials),
            )

    def _verifier(self, effort: str) -> "VerifyModel":
        from edgeprof.bench.protocol import protocol_for
        from edgeprof.cli.verify import verify_model

        def verify(device: str, target: "Target", calls: "Sequence[ModelCall]") -> "list[VerifyRow] | None":
            place = self.places[device]
            return (
                None if place.device is None else verify_model(target, calls, place, self.store, protocol_for(effort))
            )

        return verify

    def write_winner(self, winner: "Finalist", out: Path) -> None:
        """Writes the winner's configuration with its provenance.

        Raises:
            UsageError: the file cannot be written.
        """
        from edgeprof.cli.files import write_whole
        from edgeprof.search.winner import provenance_of, winner_toml

        devices = {name: place.device_id for name, place in self.places.items()}
        text = winner_toml(winner, provenance_of(winner, self.study, devices))
        write_whole(out, text.encode(), field="--out")


def check_out(out: Path) -> None:
    """Checks before hours of search that the winner can be written; an earlier winner is replaced, nothing else is.

    Raises:
        UsageError: the name does not end in .toml, or there is something else.
    """
    from edgeprof.cli.files import check_target
    from edgeprof.core.toml import parse_toml

    if out.suffix != ".toml":
        raise UsageError(f"--out: {out}: the winner's name ends in .toml")
    if out.is_file():
        try:
            provenance = parse_toml(out.read_text()).get("provenance")
        except (ValueError, OSError):
            provenance = None
        if not isinstance(provenance, dict) or "study" not in provenance:
            raise UsageError(f"--out: {out} is there, and is no winner of a search; choose another name")
    check_target(out, field="--out", force=True)


def _check_installed(rings: "Sequence[RingPlan]") -> None:
    """Checks that the rings' runtimes are there.

    Raises:
        UsageError: one is not.
    """
    from edgeprof.runtimes.base import RUNTIMES, runtime_version

    for name in dict.fromkeys(case.runtime for ring in rings for case in ring.cases):
        runtime = RUNTIMES.get(name)
        if runtime_version(runtime) == "absent":
            raise UsageError(f"{name} is not installed: pip install {runtime.distribution}")


def _ask(n_cells: int, n_rings: int, n_processes: int) -> None:
    """Asks whether to measure.

    Raises:
        BaselineError: no.
    """
    import typer

    if not typer.confirm(f"Measure {n_cells} cells in {n_rings} rings, {n_processes} processes each?", err=True):
        raise BaselineError("the cells of the space are not measured, so nothing can be predicted; nothing was done")


def _why(cell: "BenchCase", reason: str) -> str:
    """A cell in a few words, and why it cannot be measured."""
    from edgeprof.operators.registry import make_spec
    from edgeprof.predict.plan import cell_label

    return f"{cell_label(make_spec(cell.op, cell.dims))} in {cell.runtime} {cell.dtype}: {reason}"


def _store(where: Where) -> "Store":
    from edgeprof.store import Store, results_root

    return Store(results_root(where.results))


def _problem(setup: Setup, store: "Store") -> "tuple[Problem, dict[str, Place]]":
    """What the setup's trials need, and the devices that its budgets name.

    Raises:
        UsageError: a field of the setup is wrong, or a device unknown.
    """
    from edgeprof.search.budgets import check_budgets, load_budget
    from edgeprof.search.objective import load_objective
    from edgeprof.search.trials import Problem
    from edgeprof.search.twin import reference_of

    budgets = check_budgets(map(load_budget, setup.budgets))
    for name in setup.also:
        if name not in {b.name for b in budgets}:
            raise UsageError(f"--also: {name!r:.80} is no budget; there are {', '.join(b.name for b in budgets)}")
    places = {b.device: place_of(b.device, setup.devices.get(b.device), store) for b in budgets if not b.is_static}

    costs = costs_of(setup, budgets, places, store)
    objective = load_objective(setup.objective, reference=reference_of(costs.space.blocks()))
    stage = objective.stage(setup.stage)
    return Problem(costs=costs, objective=objective, stage=stage, seed=setup.seed, also=setup.also), places


def costs_of(setup: Setup, budgets: "Sequence[Budget]", places: "Mapping[str, Place]", store: "Store") -> "Costs":
    """What layouts of a study's space cost against these budgets, from what is stored of the places.

    Raises:
        UsageError: the study's space cannot be read.
    """
    from edgeprof.cli.targets import make_target
    from edgeprof.search.costs import Costs
    from edgeprof.search.space import parse_space

    def target_of(budget: "Budget", config: "ArchConfig") -> "Target":
        assert budget.runtime is not None
        assert budget.dtype is not None
        return make_target(config, budget.runtime, budget.dtype, budget.n_threads or 1)

    return Costs(
        space=parse_space(setup.space, setup.space_name),
        budgets=budgets,
        knowledge=_knowledge(places, store),
        make_target=target_of,
    )


def place_of(name: str, device_id: str | None, store: "Store") -> "Place":
    """The device that a budget calls so; of a stored study the one that it was begun with, at hand or not.

    Raises:
        UsageError: it is not known here.
    """
    from edgeprof.cli.targets import find_place

    place = find_place(name, store)
    return place if device_id in (None, place.device_id) else find_place(str(device_id), store)


def make_setup(
    space: str,
    budgets: "Sequence[Budget]",
    *,
    objective: str,
    also: Sequence[str],
    sampler: str,
    stage: str,
    seed: int,
) -> Setup:
    """All that decides what the trials mean. The space's file is taken over as it is: a worker elsewhere has no such file.

    Raises:
        UsageError: there is no such space or sampler.
    """
    from edgeprof.search.sampler_names import SAMPLERS
    from edgeprof.search.space import load_space, space_path

    SAMPLERS.check(sampler)
    load_space(space)
    return Setup(
        space_name=space_path(space).stem,
        space=space_path(space).read_text(),
        budgets=tuple(asdict(b) for b in budgets),
        objective=objective,
        also=tuple(dict.fromkeys(also)),
        sampler=sampler,
        stage=stage,
        seed=seed,
    )


def _knowledge(places: "Mapping[str, Place]", store: "Store") -> "dict[str, Knowledge]":
    from edgeprof.cli.targets import knowledge_of

    return {name: knowledge_of(place, store) for name, place in places.items()}
