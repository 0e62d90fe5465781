"""Compares samplers on made-up qualities of layouts under a latency budget: how far from the best, and what a trial costs.

16 slots of 4 choices, or others. Five tasks: ``additive`` (each slot on its own), ``interacting`` (what counts of two choices
are worth saturates, one choice is better after another: of the kind that the additive sampler's features express, though not in
its terms), ``entangled`` (any two slots, however far apart, may help or hinder each other: beyond those features), ``threefold``
(so do triples of slots, and the first attention had better come early) and ``cliff`` (as interacting, but a second limit jumps
with the sixth gqa, which only the exact check knows). The optimum of the first two is exact; that of the others is the best
that a long local search has found. Regret is what the chosen layout's true quality lacks, in per cent of the optimum; the
layout is chosen by its score, and for the additive sampler also by its posterior mean. Optuna's samplers propose layouts beyond
the budget too, and are told by how much they exceed it. Such layouts are in their favour: they count as trials only with
``--count-refused``, as a table tells that they need no training, and their samplers learn their quality all the same.

python benchmarks/samplers.py [--trials 60 200] [--seeds 5] [--noise 0] [--samplers random tpe nsga2 gp additive] [--tasks ...]
                              [--slots 16] [--choices 4]
python benchmarks/samplers.py --solver      the exact solver beside HiGHS, on the same random problems
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise, product

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from edgeprof.search.additive import Additive, Chain
from edgeprof.search.linear import Layout, LinearLimit
from edgeprof.search.sampler import best_by_posterior_mean
from edgeprof.search.sampler_names import SAMPLERS, make_sampler
from edgeprof.search.solver import solve

CONV, GQA = "conv", "gqa"
CHOICES = (CONV, "swa", GQA, "linear", "conv7")
LATENCY = np.array([1.0, 1.6, 2.6, 1.3, 1.2])
"""Of each choice, before slots differ."""

ALONE = np.array([0.0, 0.6, 1.0, 0.45, 0.3])
"""What each choice is worth on its own."""

TASKS = ("additive", "interacting", "entangled", "threefold", "cliff")

N_SPREAD = 300
"""Layouts that a task's spread is taken over."""

MOST_GQA = 5
"""More of them fall off the cliff."""


@dataclass(frozen=True)
class Size:
    """Slots, and choices of each."""

    n_slots: int = 16
    n_choices: int = 4

    @property
    def names(self) -> tuple[str, ...]:
        """The slots' parameters."""
        return tuple(f"slot_{i:02d}" for i in range(self.n_slots))

    @property
    def choices(self) -> tuple[str, ...]:
        """What each slot may be."""
        return CHOICES[: self.n_choices]

    @property
    def parameters(self) -> dict[str, tuple[str, ...]]:
        """As samplers take them."""
        return dict.fromkeys(self.names, self.choices)

    def table(self, values: np.ndarray) -> dict[str, dict[str, float]]:
        """Values by slot and choice."""
        return {
            n: dict(zip(self.choices, row.tolist(), strict=True)) for n, row in zip(self.names, values, strict=True)
        }

    def codes(self, layout: Layout) -> np.ndarray:
        """The places of a layout's choices."""
        return np.array([self.choices.index(layout[name]) for name in self.names])


@dataclass(frozen=True)
class Task:
    """A quality, its budget, and the best quality within it."""

    name: str
    size: Size
    quality: Callable[[Layout], float]
    budget: LinearLimit
    best: float
    is_exact: bool
    has_cliff: bool = False

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the quality over random layouts within the budget."""
        rng = np.random.default_rng(2)
        found: list[float] = []
        while len(found) < N_SPREAD:
            layout = {n: self.size.choices[int(rng.integers(self.size.n_choices))] for n in self.size.names}
            if self.excess(layout) <= 0:
                found.append(self.quality(layout))
        return statistics.stdev(found)

    def excess(self, layout: Layout) -> float:
        """By how much a layout is beyond the budget; at most 0 if it is not."""
        off = sum(choice == GQA for choice in layout.values()) > MOST_GQA and self.has_cliff
        return self.budget.value(layout) - self.budget.limit + (10.0 if off else 0.0)


@dataclass
class Result:
    """What one run of a sampler came to."""

    regrets: list[float] = field(default_factory=list)
    by_mean: list[float] = field(default_factory=list)
    n_refused: int = 0
    ms_per_trial: float = 0.0  # of CPU time


def make_tasks(size: Size, seed: int = 0) -> list[Task]:
    rng = np.random.default_rng(seed)
    n_slots, n_choices = size.n_slots, size.n_choices
    slots = np.arange(n_slots)
    latency = LATENCY[:n_choices] * rng.uniform(0.85, 1.15, (n_slots, n_choices)) + 0.5
    middle = np.exp(-(((slots - n_slots / 2) / (0.375 * n_slots)) ** 2))
    alone = ALONE[:n_choices] * (0.4 + middle)[:, None] * rng.uniform(0.7, 1.3, (n_slots, n_choices))
    drawn = [latency[slots, rng.integers(0, n_choices, n_slots)].sum() for _ in range(4000)]
    limit = float(np.quantile(drawn, 0.35))
    budget = LinearLimit(name="latency", weights=size.table(latency), constant=0.0, limit=limit)
    n = np.arange(n_slots + 1)
    additive = Additive(choices=size.table(alone))
    chain = Chain(
        parameters=size.names,
        neighbours={(CONV, GQA): 0.25},
        counts={GQA: (3 * (1 - np.exp(-n / 2))).tolist(), CONV: (1.5 * (1 - np.exp(-n / 4))).tolist()},
    )
    interacting = Additive(choices=size.table(0.35 * alone), chains=(chain,))
    tasks = []
    for name, worth in (("additive", additive), ("interacting", interacting)):
        solution = solve(worth, size.parameters, [budget])
        assert solution is not None
        assert solution.is_optimal
        tasks.append(Task(name, size, worth.value, budget, solution.value, is_exact=True))
    of_pairs = rng.normal(0, 0.12, (n_slots, n_slots, n_choices, n_choices))
    between = of_pairs * np.triu(np.ones((n_slots, n_slots)), 1)[:, :, None, None]

    def entangled(layout: Layout) -> float:
        at = size.codes(layout)
        return interacting.value(layout) + float(between[slots[:, None], slots, at[:, None], at].sum())

    triples = [tuple(sorted(rng.choice(n_slots, 3, replace=False).tolist())) for _ in range(40)]
    of_triples = rng.normal(0, 0.3, (len(triples), n_choices, n_choices, n_choices))

    def threefold(layout: Layout) -> float:
        at = size.codes(layout)
        first = next((i for i, name in enumerate(size.names) if layout[name] == GQA), n_slots)
        joint = sum(float(w[at[i], at[j], at[k]]) for (i, j, k), w in zip(triples, of_triples, strict=True))
        return interacting.value(layout) + joint - 0.1 * abs(first - 3)

    def cliff(layout: Layout) -> float:
        return interacting.value(layout)

    beyond = [("entangled", entangled, False), ("threefold", threefold, False), ("cliff", cliff, True)]
    for name, quality, has_cliff in beyond:
        task = Task(name, size, quality, budget, 0.0, is_exact=False, has_cliff=has_cliff)
        tasks.append(replace(task, best=local_search(task)))
    return tasks


def local_search(task: Task, n_starts: int = 60) -> float:
    """The best of many climbs by changing one to three choices at a time."""
    rng = np.random.default_rng(1)
    best = -np.inf
    names, choices = task.size.names, task.size.choices
    for _ in range(n_starts):
        layout = dict.fromkeys(names, CONV)
        value, idle = task.quality(layout), 0
        while idle < 1000:
            changed = rng.choice(names, int(rng.integers(1, 4)), replace=False)
            other = {**layout, **{str(name): choices[int(rng.integers(len(choices)))] for name in changed}}
            better = task.excess(other) <= 0 and task.quality(other) > value
            layout, value, idle = (other, task.quality(other), 0) if better else (layout, value, idle + 1)
        best = max(best, value)
    return best


def run(task: Task, name: str, seed: int, trials: Sequence[int], noise: float, count_refused: bool) -> Result:
    rng = np.random.default_rng([seed, 1])
    study = optuna.create_study(direction="maximize", sampler=_sampler(name, seed, task))
    parameters = task.size.parameters
    distributions = {n: CategoricalDistribution(own) for n, own in parameters.items()}
    result, seconds, n_asked = Result(), 0.0, 0
    true: dict[int, float] = {}
    told: dict[int, float] = {}
    while len(result.regrets) < len(trials):
        begin = time.process_time()
        trial = study.ask(distributions)
        seconds += time.process_time() - begin
        n_asked += 1
        layout = dict(trial.params)
        trial.set_constraint("latency", task.excess(layout))
        quality = task.quality(layout)
        if task.excess(layout) <= 0:
            true[trial.number] = quality
        else:
            result.n_refused += 1
        told[trial.number] = quality + noise * task.spread * rng.normal()
        begin = time.process_time()
        study.tell(trial, told[trial.number])
        seconds += time.process_time() - begin
        n_spent = n_asked if count_refused else len(true)
        if n_spent >= trials[len(result.regrets)] or result.n_refused >= 20 * trials[-1]:
            result.regrets.append(_regret(task, true, max(true, key=lambda i: told[i])) if true else 100.0)
            if name == "additive":
                result.by_mean.append(_regret(task, true, best_by_posterior_mean(study, parameters).trial.number))
    result.ms_per_trial = 1e3 * seconds / n_asked
    return result


def _sampler(name: str, seed: int, task: Task) -> BaseSampler:
    return make_sampler(
        name,
        seed=seed,
        parameters=task.size.parameters,
        limits=[task.budget],
        check=lambda layout: [task.excess(layout)],
    )


def _regret(task: Task, true: dict[int, float], chosen: int) -> float:
    return 100 * (task.best - true[chosen]) / task.best


def compare_samplers(options: argparse.Namespace) -> None:
    size = Size(options.slots, options.choices)
    print(
        f"{size}: regret in %, mean (worst) of {options.seeds} seeds; noise {options.noise} of the spread of random layouts"
    )
    for task in make_tasks(size):
        if task.name not in options.tasks:
            continue
        kind = "exact optimum" if task.is_exact else "best known"
        print(f"\n{task.name}: {kind} {task.best:.4f}", flush=True)
        for name in options.samplers:
            n_seeds = 1 if name == "gp" else options.seeds
            results = [run(task, name, s, options.trials, options.noise, options.count_refused) for s in range(n_seeds)]
            parts = [_spread(f"{n} trials", [r.regrets[i] for r in results]) for i, n in enumerate(options.trials)]
            if results[0].by_mean:
                parts.append(_spread("by posterior mean", [r.by_mean[-1] for r in results]))
            ms = statistics.fmean(r.ms_per_trial for r in results)
            refused = statistics.fmean(r.n_refused for r in results)
            note = f", {n_seeds} seed" if name == "gp" and options.seeds > 1 else ""
            print(
                f"  {name:9s} {', '.join(parts)}; {ms:.1f} CPU-ms a trial, {refused:.0f} beyond the budget{note}",
                flush=True,
            )


def _spread(label: str, values: list[float]) -> str:
    return f"{label} {statistics.fmean(values):.2f} ({max(values):.2f})"


def compare_solvers(n_problems: int = 8) -> None:
    print(
        "ms to solve a random problem with neighbours and counts: median (longest); worths agree to 1e-6 or it is said"
    )
    for n_choices, n_limits in product((4, 7), (1, 2)):
        ours, theirs, apart = [], [], 0
        for seed in range(n_problems):
            worth, parameters, limits = random_problem(n_choices, n_limits, seed)
            begin = time.perf_counter()
            found = solve(worth, parameters, limits)
            ours.append(1e3 * (time.perf_counter() - begin))
            begin = time.perf_counter()
            other = highs(worth, parameters, limits)
            theirs.append(1e3 * (time.perf_counter() - begin))
            apart += (found is None) != (other is None) or (found is not None and abs(found.value - other) > 1e-6)
        parts = [f"{w} {statistics.median(t):.0f} ({max(t):.0f})" for w, t in (("ours", ours), ("HiGHS", theirs))]
        print(
            f"  {Size().n_slots} slots, {n_choices} choices, {n_limits} limits: {', '.join(parts)}; {apart} disagree",
            flush=True,
        )


def random_problem(n_choices: int, n_limits: int, seed: int) -> tuple[Additive, dict, list[LinearLimit]]:
    rng = np.random.default_rng(seed)
    own, names = tuple("abcdefgh"[:n_choices]), Size().names
    n_slots = len(names)
    n = np.arange(n_slots + 1)

    def table(values: np.ndarray) -> dict[str, dict[str, float]]:
        return {name: dict(zip(own, row.tolist(), strict=True)) for name, row in zip(names, values, strict=True)}

    counts = {c: (rng.normal() * np.log1p(n) + rng.normal(0, 0.1) * n).tolist() for c in own}
    neighbours = {pair: float(rng.normal(0, 0.2)) for pair in product(own, own)}
    chain = Chain(parameters=names, neighbours=neighbours, counts=counts)
    worth = Additive(choices=table(rng.normal(0, 0.3, (n_slots, n_choices))), chains=(chain,))
    limits = []
    for k in range(n_limits):
        weights = rng.uniform(1, 3, n_choices) * rng.uniform(0.85, 1.15, (n_slots, n_choices))
        drawn = [weights[np.arange(n_slots), rng.integers(0, n_choices, n_slots)].sum() for _ in range(500)]
        limits.append(
            LinearLimit(name=str(k), weights=table(weights), constant=0.0, limit=float(np.quantile(drawn, 0.35)))
        )
    return worth, dict.fromkeys(names, own), limits


def highs(worth: Additive, parameters: dict, limits: Sequence[LinearLimit]) -> float | None:
    """The same problem for HiGHS: choices and counts are 0 or 1, neighbours a flow from slot to slot."""
    (chain,) = worth.chains
    names = chain.parameters
    own = parameters[names[0]]
    columns: dict[tuple, float] = {("at", n, c): worth.choices[n][c] for n in names for c in own}
    columns |= {("pair", a, b, c, d): w for a, b in pairwise(names) for (c, d), w in chain.neighbours.items()}
    columns |= {("n", c, k): w for c, table in chain.counts.items() for k, w in enumerate(table)}
    rows: list[tuple[dict[tuple, float], float, float]] = [({("at", n, c): 1 for c in own}, 1, 1) for n in names]
    for a, b in pairwise(names):
        for c in own:
            rows.append(({("pair", a, b, c, d): 1 for d in own} | {("at", a, c): -1}, 0, 0))
            rows.append(({("pair", a, b, d, c): 1 for d in own} | {("at", b, c): -1}, 0, 0))
    for c, table in chain.counts.items():
        rows.append(({("n", c, k): 1 for k in range(len(table))}, 1, 1))
        rows.append(({("n", c, k): k for k in range(len(table))} | {("at", n, c): -1 for n in names}, 0, 0))
    for limit in limits:
        rows.append(({("at", n, c): limit.weights[n][c] for n in names for c in own}, -np.inf, limit.limit))
    place = {column: i for i, column in enumerate(columns)}
    flat = [(v, i, place[column]) for i, (row, _, _) in enumerate(rows) for column, v in row.items()]
    values, r, c = zip(*flat, strict=True)
    found = milp(
        [-w for w in columns.values()],
        integrality=[int(column[0] != "pair") for column in columns],
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(
            coo_array((values, (r, c)), shape=(len(rows), len(columns))).tocsr(),
            [low for _, low, _ in rows],
            [high for _, _, high in rows],
        ),
        options={"mip_rel_gap": 0},
    )
    return None if found.fun is None else -found.fun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[60, 200], help="numbers of trials to look at, rising")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=Size.n_slots)
    parser.add_argument("--choices", type=int, default=Size.n_choices)
    parser.add_argument(
        "--noise",
        type=float,
        default=0.0,
        help="standard deviation of each score's noise, in units of that of random layouts",
    )
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--count-refused", action="store_true", help="a layout beyond the budget is a trial spent")
    parser.add_argument("--solver", action="store_true", help="compare the exact solver with HiGHS instead")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    if options.solver:
        compare_solvers()
    else:
        compare_samplers(options)


if __name__ == "__main__":
    main()
