"""What ``edgeprof search report`` prints: a study's counts, its best layout drawn, fronts, importances and baselines."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgeprof.cli.model_options import printable
from edgeprof.cli.render_search import amount, quality_text, unit_of

if TYPE_CHECKING:
    from rich.table import Table

    from edgeprof.cli.search_report import Told, Winner
    from edgeprof.search.budgets import Budget
    from edgeprof.search.finalists import Kept
    from edgeprof.search.report import Report, Tried

MOST_ROWS = 12
"""Layouts of a front that are told one by one."""

BAR_WIDTH = 24

CLEAR = 2.0
"""Standard deviations from which one layout is said to be better than another."""

KIND_TEXTS = {
    "scored": "scored",
    "pruned": "pruned early",
    "ruled_out": "ruled out by budgets before training",
    "failed": "failed, interrupted or lost",
    "running": "running",
    "waiting": "waiting",
}


def report_json(told: "Told") -> dict[str, Any]:
    """The report as plain data; times in ns, sizes in bytes. ``feasible`` is a number: proposals that kept every budget."""
    report, setup = told.report, told.setup
    ruled_out = report.counts["ruled_out"]
    proposed = sum(report.counts[kind] for kind in ("scored", "pruned", "ruled_out"))
    return {
        "study": report.study,
        "space": report.space.name,
        "objective": setup.objective,
        "direction": "maximize" if report.maximise else "minimize",
        "also": list(setup.also),
        "sampler": setup.sampler,
        "seed": setup.seed,
        "budgets": [{"name": b.name, "unit": unit_of(b), "limit": b.limit} for b in report.budgets],
        "trials": dict(report.counts),
        "proposed": proposed,
        "feasible": proposed - ruled_out,
        "ruled_out_by": dict(report.ruled_out_by),
        "best": _maybe_json(report.best),
        "luckiest": _maybe_json(report.luckiest),
        "winner": None if told.winner is None else _winner_json(told.winner),
        "fronts": {name: [tried_json(one) for one in front] for name, front in report.fronts.items()},
        "pareto": list(report.pareto),
        "importances": [_importance_json(one) for one in report.importances],
        "neighbours": list(report.neighbours),
        "baselines": [_baseline_json(one, told.reference, report) for one in report.baselines],
        "measured": {name: {k.budget.name: _measured_json(k) for k in kept} for name, kept in told.measured.items()},
    }


def _measured_json(kept: "Kept") -> dict[str, Any]:
    return {"limit": kept.budget.limit, "measured": kept.measured, "measured_ci95": kept.ci95, "kept": kept.kept}


def tried_json(one: "Tried") -> dict[str, Any]:
    """A layout as plain data."""
    names = ("number", "kind", "score", "score_se", "expected", "expected_sd", "baseline")
    return {name: getattr(one, name) for name in names} | {
        "pattern": one.config.pattern,
        "layout": dict(one.layout),
        "figures": {name: {"value": value, "upper": upper} for name, (value, upper) in one.figures.items()},
        "breaks": list(one.breaks),
        "unknown": list(one.unknown),
    }


def _maybe_json(one: "Tried | None") -> dict[str, Any] | None:
    return None if one is None else tried_json(one)


def _winner_json(winner: "Winner") -> dict[str, Any]:
    from_file = {"path": str(winner.path), "quality": winner.quality, "quality_se": winner.quality_se}
    return tried_json(winner.tried) | from_file | {"measured": winner.measured}


def _importance_json(one: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(one) | {"span": one.span}


def _baseline_json(one: "Tried", reference: "Tried | None", report: "Report") -> dict[str, Any]:
    from edgeprof.search.report import ahead

    behind = None if reference is None else ahead(reference, one, maximise=report.maximise)
    names = ("behind_best", "behind_best_sd")
    return tried_json(one) | dict(zip(names, behind or (None, None), strict=True))


def print_report(told: "Told", shown: "Sequence[Budget]") -> None:
    """Prints the study; the fronts of the ``shown`` budgets only."""
    from edgeprof.cli.output import print_table, stdout_console

    console = stdout_console()
    report = told.report
    for line in (*head_lines(told), *best_lines(told)):
        console.print(line, soft_wrap=True, markup=False)
    for budget in shown if report.best is not None else ():
        print_table(front_table(report, budget))
    if report.importances:
        print_table(importance_table(report))
    for line in neighbour_lines(report):
        console.print(line, soft_wrap=True, markup=False)
    if report.baselines:
        print_table(baseline_table(told))
    if told.measured:
        print_table(measured_table(told))
    for line in closing_lines(told):
        console.print(line, soft_wrap=True, markup=False)


def head_lines(told: "Told") -> Iterator[str]:
    """What the study is about, and what became of its trials."""
    report, setup = told.report, told.setup
    also = f", minimising {', '.join(setup.also)} too" if setup.also else ""
    better = "more is better" if report.maximise else "less is better"
    yield (
        f"study {printable(report.study)}: space {report.space.name}, objective {printable(setup.objective)} ({better}){also}, "
        f"sampler {setup.sampler}, seed {setup.seed}"
    )
    counts = [f"{n} {KIND_TEXTS[kind]}" for kind, n in report.counts.items() if n]
    yield f"trials: {', '.join(counts) or 'none yet'}"
    if report.ruled_out_by:
        yield "ruled out by: " + ", ".join(f"{reason} ({n})" for reason, n in report.ruled_out_by.items())


def best_lines(told: "Told") -> Iterator[str]:
    """The best layout drawn, and whether the luckiest one is another."""
    from edgeprof.search.drawing import stack, stack_text, token_shares

    report, reference = told.report, told.reference
    if reference is None or report.best is None or report.luckiest is None:
        yield "no layout has a score yet"
        return
    shares = token_shares(told.costs, reference.layout)
    yield "winner:" if told.winner is not None else "best layout, by expected quality:"
    yield from stack_text(stack(report.space, reference.layout, shares))
    if shares is not None:
        device = told.places[shares.budget.device].device_id
        yield f"bars: share of the predicted time of a token, {shares.budget.name}, from the records of {device} that are here"
    yield _quality_line(reference)
    if told.winner is not None:
        yield from _winner_lines(told.winner, report)
    yield from _luck_lines(report.luckiest, report)


def _luck_lines(lucky: "Tried", report: "Report") -> Iterator[str]:
    """That the best single score was luck, where it is beyond what is expected by more than its own noise."""
    from edgeprof.search.report import gain

    noise = lucky.expected_sd if lucky.score_se is None else lucky.score_se
    excess = gain(lucky.score, report.maximise) - gain(lucky.expected, report.maximise)
    if noise is not None and excess > noise:
        yield (
            f"The best single score, {quality_text(lucky.score, lucky.score_se)}, was {lucky.config.pattern}'s (trial "
            f"{lucky.number}); after all trials {quality_text(lucky.expected)} is expected of it: some of the score was luck."
        )


def _quality_line(one: "Tried") -> str:
    return (
        f"{one.config.pattern}, trial {one.number}: expected quality {quality_text(one.expected, one.expected_sd)}, "
        f"its own score {quality_text(one.score, one.score_se)} (± one standard deviation)"
    )


def _winner_lines(winner: "Winner", report: "Report") -> Iterator[str]:
    yield f"{winner.path}: quality {quality_text(winner.quality, winner.quality_se)} in the final stage"
    for budget in report.budgets:
        measured = winner.measured.get(budget.name)
        if measured is not None:
            room = 1 - measured / budget.limit
            yield f"{budget.name}: measured {amount(budget, measured)}, limit {amount(budget, budget.limit)}, room {room:+.1%}"


def front_table(report: "Report", budget: "Budget") -> "Table":
    """The layouts that no other one beats in both expected quality and a budget's figure."""
    from edgeprof.cli.output import make_table
    from edgeprof.search.drawing import layout_label

    front = report.fronts[budget.name]
    shown = _thinned(front)
    left_out = f"; {len(shown)} of {len(front)} rows, --json has all" if len(shown) < len(front) else ""
    title = f"front: expected quality against {budget.name}, limit {amount(budget, budget.limit)}{left_out}"
    numbers = "expected score predicted upper_end trial"
    table = make_table(title, f"layout {numbers} note", numbers)
    for one in shown:
        value, upper = one.figures[budget.name]
        cells = [quality_text(one.expected, one.expected_sd), quality_text(one.score, one.score_se)]
        cells += [amount(budget, value), amount(budget, upper), str(one.number)]
        table.add_row(layout_label(report.space, one.layout), *cells, _note(one, report))
    return table


def _thinned(front: "Sequence[Tried]") -> "list[Tried]":
    """Rows spread evenly over a long front, both ends among them."""
    if len(front) <= MOST_ROWS:
        return list(front)
    return [front[round(i * (len(front) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]


def _note(one: "Tried", report: "Report") -> str:
    notes = ["best"] if report.best is not None and one.number == report.best.number else []
    notes += ["best single score"] if report.luckiest is not None and one.number == report.luckiest.number else []
    notes += [f"baseline {one.baseline}"] if one.baseline is not None else []
    return ", ".join(notes)


def importance_table(report: "Report") -> "Table":
    """What each slot's choice decides, as bars."""
    from rich.bar import Bar

    from edgeprof.cli.output import make_table

    has_shares = any(one.optuna_share is not None for one in report.importances)
    numbers = "decides" + (" PED-ANOVA" if has_shares else "")
    title = "what each choice decides of the best layout's expected quality, by the surrogate's coefficients"
    table = make_table(title, f"parameter chosen {numbers} _ best_choice worst_choice", numbers)
    largest = max(one.span for one in report.importances) or 1.0
    sign = 1 if report.maximise else -1
    for one in report.importances:
        ordered = sorted(one.effects, key=lambda choice, one=one: -sign * one.effects[choice])  # type: ignore[misc]
        ends = [f"{choice} ({one.effects[choice]:+.4f})" for choice in (ordered[0], ordered[-1])]
        share = [] if not has_shares else ["-" if one.optuna_share is None else f"{one.optuna_share:.1%}"]
        bar = Bar(largest, 0, one.span, width=BAR_WIDTH)
        table.add_row(one.parameter, one.chosen, f"{one.span:.4f}", *share, bar, *ends)
    return table


def neighbour_lines(report: "Report") -> Iterator[str]:
    """The pairs of neighbours that clearly add or cost quality."""
    for one in report.neighbours:
        helps = (one.effect > 0) == report.maximise
        yield (
            f"neighbours: {one.then} after {one.first} {'adds to' if helps else 'costs'} quality: {one.effect:+.4f} "
            f"± {one.sd:.4f} wherever it comes, beside what each is worth itself"
        )


def baseline_table(told: "Told") -> "Table":
    """The baselines under the same budgets, and how far they are behind."""
    from edgeprof.cli.output import make_table
    from edgeprof.search.drawing import layout_label

    report = told.report
    names = [budget.name.replace(" ", "_") for budget in report.budgets]
    numbers = " ".join(["expected", "score", "behind", *names])
    ahead_of_all = "best" if told.winner is None else "winner"
    title = f"baselines under the same budgets, by upper ends; behind the {ahead_of_all} in expected quality"
    table = make_table(title, f"baseline layout {numbers} verdict", numbers)
    reference = told.reference
    for name, one in told.named_layouts.items():
        cells = [quality_text(one.expected, one.expected_sd), quality_text(one.score, one.score_se)]
        cells.append("" if one is reference else _behind(reference, one, report))
        cells += [amount(b, one.figures.get(b.name, (None, None))[1]) for b in report.budgets]
        table.add_row(name, layout_label(report.space, one.layout), *cells, verdict(one, report))
    return table


def measured_table(told: "Told") -> "Table":
    """What whole models took that were measured in turns, and how many times as much as the best layout."""
    from rich.markup import escape

    from edgeprof.cli.output import make_table
    from edgeprof.search.drawing import layout_label

    reference, named = list(told.measured)[-1], told.named_layouts
    budgets = [kept.budget for kept in told.measured[reference] if not kept.budget.is_static]
    numbers = " ".join(f"{b.name.replace(' ', '_')} {b.name.replace(' ', '_')}_ratio" for b in budgets)
    title = f"whole models, measured in turns in one session; ratios to the {reference} with what their 95 % intervals allow"
    table = make_table(title, f"_ layout {numbers} verdict", numbers)
    base = {kept.budget.name: kept for kept in told.measured[reference]}
    for name, budgets_of_one in told.measured.items():
        cells = []
        for kept in budgets_of_one:
            if not kept.budget.is_static:
                ratio = "" if name == reference else _ratio(kept, base[kept.budget.name])
                cells += [amount(kept.budget, kept.measured), ratio]
        broken = [k.budget.name for k in budgets_of_one if not k.kept]
        verdict = f"breaks {', '.join(broken)}" if broken else "keeps"
        table.add_row(name, layout_label(told.report.space, named[name].layout), *cells, escape(verdict))
    return table


def _ratio(kept: "Kept", base: "Kept") -> str:
    """One measured figure over another; of times the range that their intervals allow, which is wider than 95 %."""
    if kept.measured is None or not base.measured:
        return "-"
    text = f"{kept.measured / base.measured:.2f}"
    if kept.ci95 is None or base.ci95 is None:
        return text
    return f"{text} ({kept.ci95[0] / base.ci95[1]:.2f}-{kept.ci95[1] / base.ci95[0]:.2f})"


def _behind(reference: "Tried | None", one: "Tried", report: "Report") -> str:
    from edgeprof.search.report import ahead

    found = None if reference is None else ahead(reference, one, maximise=report.maximise)
    if found is None:
        return "-"
    difference, sd = found
    return f"{difference:.4f} ± {sd:.4f}" + ("" if abs(difference) > CLEAR * sd else " =")


def verdict(one: "Tried", report: "Report") -> str:
    """Whether a baseline keeps the budgets, which it breaks and by how much, and what became of its trial."""
    from rich.markup import escape

    limits = {budget.name: budget.limit for budget in report.budgets}
    broken = []
    for name in one.breaks:
        upper = one.figures.get(name, (None, None))[1]
        broken.append(name if upper is None else f"{name} by {upper / limits[name] - 1:.1%}")
    if broken:
        return escape(f"breaks {', '.join(broken)}")
    if one.unknown:
        return f"unknown: {', '.join(one.unknown)}"
    became = {"pruned": ", trained and given up early", "failed": ", its trial failed", "untried": ", never tried"}
    return f"keeps{became.get(one.kind, '')}"


def closing_lines(told: "Told") -> Iterator[str]:
    """What the figures mean."""
    report = told.report
    if report.best is None:
        return
    yield (
        "Expected: by the surrogate after all trials, ± one standard deviation of that belief; score: of a single training, "
        "± its standard error. Figures were predicted when the layout was proposed; the upper end must keep the limit."
    )
    if report.baselines:
        yield "= within two standard deviations: not told apart. A baseline that breaks a budget was not trained."
    if told.winner is None:
        yield "The winner is chosen among finalists that get a final score and are measured; --config WINNER.toml shows it here."
    if report.pareto:
        yield f"trials that no other one beats in all objectives: {', '.join(map(str, report.pareto))}"
