"""A search without a device: the tiny space, whose blocks the laboratory has measured, and objectives that are functions."""

from collections.abc import Callable, Sequence
from typing import Any

import optuna
import pytest

from edgeprof.core.types import InstanceRecord
from edgeprof.models.config import ArchConfig
from edgeprof.predict.types import Target
from edgeprof.search.budgets import Budget, parse_budget
from edgeprof.search.costs import Costs
from edgeprof.search.objective import ObjectiveError, Report, Score, Stage
from edgeprof.search.space import Space, load_space
from edgeprof.search.trials import Problem

optuna.logging.set_verbosity(optuna.logging.ERROR)

TRIAL, LONGER = Stage(name="trial"), Stage(name="longer", length=3.0)


def attention(config: ArchConfig) -> float:
    """More attention is better."""
    return sum(block.mixer.name != "short_conv" for block in config.layers) / len(config.layers)


class FunctionObjective:
    """Scores by a function, which may raise; remembers the patterns that it was asked for, by stage."""

    name = "function"
    final_stage = LONGER

    def __init__(self, function: Callable[[ArchConfig], float] = attention, direction: Any = "maximize") -> None:
        self.function, self.direction = function, direction
        self.reports: Sequence[float] = ()
        self.asked: list[tuple[str, str]] = []

    def stage(self, name: str) -> Stage:
        return LONGER if name == "longer" else TRIAL

    def score(self, config: ArchConfig, *, seed: int, budget: Stage, report: Report) -> Score:
        self.asked.append((budget.name, config.pattern))
        for step, value in enumerate(self.reports):
            report(step, value + self.function(config))
        try:
            value = self.function(config)
        except ValueError as error:
            raise ObjectiveError(f"objective function: {config.pattern}: {error}") from error
        return Score(value=value, se=None, seconds=0.1, parts={"part": value})

    def of_stage(self, name: str) -> list[str]:
        return [pattern for stage, pattern in self.asked if stage == name]


@pytest.fixture(scope="session")
def tiny() -> Space:
    return load_space("tiny")


@pytest.fixture
def budget_of() -> Callable[..., Budget]:
    """Builds a budget from ``metric`` and its text, in eager torch on the device ``lab``."""

    def make(metric: str, text: str, **changes: Any) -> Budget:
        from dataclasses import replace

        budget = parse_budget(metric, text)
        device = {} if budget.is_static else {"device": "lab"}
        return replace(budget, **(device | changes)).filled(runtime="torch_eager", dtype="fp32", n_threads=1)

    return make


def target_of(budget: Budget, config: ArchConfig) -> Target:
    assert budget.runtime is not None
    return Target(config=config, runtime=budget.runtime, dtype="fp32", kv_dtype="fp32")


MEASURED: dict[Any, list[InstanceRecord]] = {}
"""What the laboratory has measured, by space and by what budgets ask: its law is always the same."""


@pytest.fixture
def make_costs(tiny: Space, lab: Any) -> Callable[..., Costs]:
    """Builds costs under budgets; unless told otherwise, of a laboratory that has measured all rings that these ask for."""

    def make(
        *budgets: Budget,
        space: Space = tiny,
        records: Sequence[InstanceRecord] | None = None,
        history: Sequence[Any] = (),
        **changes: Any,
    ) -> Costs:
        costs = Costs(
            space=space, budgets=budgets, knowledge={"lab": lab.knowledge([])}, make_target=target_of, **changes
        )
        if records is None:
            asked = space.name, space.n_layers, tuple(budget.question for budget in budgets)
            rings = costs.rings()  # knows also what is impossible
            if asked not in MEASURED or costs.impossible:
                records = [r for of_device in rings.values() for r in lab.measure(of_device)]
                MEASURED.setdefault(asked, records)
            records = records or MEASURED[asked]
        costs.learn({"lab": lab.knowledge(records, history=history)})
        return costs

    return make


@pytest.fixture
def make_problem(make_costs: Callable[..., Costs]) -> Callable[..., Problem]:
    """Builds a problem under budgets and an objective."""

    def make(*budgets: Budget, objective: Any = None, also: tuple[str, ...] = (), costs: Any = None) -> Problem:
        return Problem(
            costs=costs or make_costs(*budgets),
            objective=objective or FunctionObjective(),
            stage=TRIAL,
            seed=0,
            also=also,
        )

    return make


@pytest.fixture
def make_objective() -> type[FunctionObjective]:
    return FunctionObjective


@pytest.fixture
def study() -> optuna.Study:
    """A study in memory that proposes at random and prunes nothing."""
    return optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1), pruner=optuna.pruners.NopPruner()
    )
