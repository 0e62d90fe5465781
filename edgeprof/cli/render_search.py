"""What ``edgeprof search`` prints: the winner and its budgets, the finalists, or what makes the budgets impossible."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edgeprof.core.units import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

    from edgeprof.cli.search_session import Session
    from edgeprof.search.budgets import Budget
    from edgeprof.search.feasibility import Relaxation
    from edgeprof.search.finalists import Finalist, Kept
    from edgeprof.search.run import Outcome

TIMES = ("tpot", "ttft")
UNITS = {"tpot": "ns", "ttft": "ns", "params": "parameters"}
"""Units of the figures in JSON, by metric; those of all others are bytes."""


def unit_of(budget: "Budget") -> str:
    """The unit of a budget's limit and figures."""
    return UNITS.get(budget.metric, "bytes")


def amount(budget: "Budget", value: float | None) -> str:
    """A budget's figure as people read it, ``-`` where there is none."""
    from edgeprof.cli.table import duration

    if value is None:
        return "-"
    if budget.metric in TIMES:
        return duration(value)
    return f"{value:,.0f}" if budget.metric == "params" else format_bytes(value)


def quality_text(value: float | None, se: float | None = None) -> str:
    """A quality, with its standard error where it is known."""
    if value is None:
        return "-"
    return f"{value:.4f}" if se is None else f"{value:.4f} ± {se:.4f}"


def infeasible_json(relaxations: "Sequence[Relaxation]") -> dict[str, Any]:
    """No layout keeps all budgets: what each would have to be alone (null: that cannot help), and what all would have to be."""
    return {
        "study": None,
        "trials": 0,
        "proposed": 0,
        "feasible": 0,
        "winner": None,
        "infeasible": [
            {
                "name": r.budget.name,
                "unit": unit_of(r.budget),
                "limit": r.budget.limit,
                "needed": _needed(r),
                "together": r.together,
            }
            for r in relaxations
        ],
    }


def print_infeasible(relaxations: "Sequence[Relaxation]") -> None:
    """Prints the limit of each budget beside the least one that would leave a layout."""
    from edgeprof.cli.output import make_table, print_table, stdout_console

    table = make_table(
        "no layout of the space keeps all budgets",
        "budget limit needed_alone more or_all_together",
        "limit needed_alone or_all_together",
    )
    needed = {r.budget.name: _needed(r) for r in relaxations}
    for r in relaxations:
        least, limit = needed[r.budget.name], r.budget.limit
        more = "does not help alone" if least is None else f"{least / limit - 1:+.1%}"
        together = "as it is" if r.together == limit else amount(r.budget, r.together)
        table.add_row(r.budget.name, amount(r.budget, limit), amount(r.budget, least), more, together)
    print_table(table)
    ways = ["one of them to what it needs alone"] if any(x is not None for x in needed.values()) else []
    ways += ["all of them to the last column"] if any(r.together is not None for r in relaxations) else []
    line = f"Relaxing {' or '.join(ways)} leaves a layout." if ways else "No relaxing helps: search another --space."
    stdout_console().print(f"{line} Nothing was trained.", soft_wrap=True, markup=False)


def _needed(relaxation: "Relaxation") -> float | None:
    """The limit that would leave a layout; None where none would, so that relaxing this budget alone is in vain."""
    needed = relaxation.needed
    return needed if needed is not None and needed > relaxation.budget.limit else None


def outcome_json(session: "Session", outcome: "Outcome", out: Path) -> dict[str, Any]:
    """The search as plain data; times in ns, sizes in bytes.

    ``trials`` are those that count (scored, pruned early, or being worked at), ``feasible`` is a number: of the ``proposed``
    layouts those whose predicted figures kept every budget. ``winner`` is null where no finalist keeps its budgets.
    """
    from edgeprof.search.finalists import disagreements
    from edgeprof.search.report import proposals
    from edgeprof.search.study import n_counted

    counts = proposals(session.study)
    winner = outcome.winner
    return {
        "study": session.study.study_name,
        "storage": shown_storage(session),
        "objective": session.setup.objective,
        "direction": session.problem.objective.direction,
        "trials": n_counted(session.study),
        "proposed": counts.proposed,
        "feasible": counts.feasible,
        "rejected": counts.proposed - counts.feasible,
        "winner": None if winner is None else {"path": str(out)} | _finalist_json(winner),
        "finalists": [_finalist_json(finalist) for finalist in outcome.finalists],
        "disagreements": dict(disagreements(outcome.finalists)),
        "infeasible": [],
    }


def _finalist_json(finalist: "Finalist") -> dict[str, Any]:
    return {
        "pattern": finalist.config.pattern,
        "layout": dict(finalist.layout),
        "quality": finalist.score.value,
        "quality_se": finalist.score.se,
        "keeps": finalist.keeps,
        "failed": finalist.failed,
        "predicted": {k.budget.name: {"value": k.predicted, "upper": k.upper} for k in finalist.budgets},
        "measured": {k.budget.name: k.measured for k in finalist.budgets},
        "budgets": [_kept_json(kept) for kept in finalist.budgets],
    }


def _kept_json(kept: "Kept") -> dict[str, Any]:
    from edgeprof.search.winner import budget_json

    named = {"name": kept.budget.name, "unit": unit_of(kept.budget)}
    return named | budget_json(kept) | {"only_predicted": kept.only_predicted, "disagrees": kept.disagrees}


def print_outcome(session: "Session", outcome: "Outcome", out: Path) -> None:
    """Prints the winner as a stack of blocks, its budgets, the finalists, and what to do next."""
    from edgeprof.cli.output import print_table, stdout_console

    console = stdout_console()
    winner = outcome.winner
    if winner is not None:
        for line in winner_lines(session, winner):
            console.print(line, soft_wrap=True, markup=False)
        print_table(budget_table(winner))
    if outcome.finalists:
        print_table(finalist_table(session, outcome))
    for line in (*sentences(session, outcome), *next_lines(session, outcome, out)):
        console.print(line, soft_wrap=True, markup=False)


def winner_lines(session: "Session", winner: "Finalist") -> Iterator[str]:
    """The winner drawn, and how good it is."""
    from edgeprof.search.drawing import stack, stack_text, token_shares

    costs = session.problem.costs
    shares = token_shares(costs, winner.layout)
    yield f"winner: {winner.config.pattern}"
    yield from stack_text(stack(costs.space, winner.layout, shares))
    if shares is not None:
        yield f"bars: share of the predicted time of a token, {shares.budget.name}"
    better = "more is better" if session.problem.maximise else "less is better"
    noise = "noise unknown" if winner.score.se is None else "± is one standard error"
    text = quality_text(winner.score.value, winner.score.se)
    yield f"quality {text} ({session.setup.objective}; {better}; {noise})"


def budget_table(finalist: "Finalist") -> "Table":
    """Every budget of a finalist: its limit, the upper end that was predicted, what was measured, and whether it is kept."""
    from edgeprof.cli.output import make_table

    numbers = "limit predicted upper_end measured room"
    table = make_table("budgets", f"budget {numbers} kept", numbers)
    for kept in finalist.budgets:
        budget = kept.budget
        figures = [amount(budget, value) for value in (budget.limit, kept.predicted, kept.upper)]
        table.add_row(budget.name, *figures, *_measured_cells(kept), _verdict(kept))
    return table


def _measured_cells(kept: "Kept") -> tuple[str, str]:
    """What was measured, and the room that is left to the limit."""
    decisive = kept.upper if kept.only_predicted else kept.measured
    room = "-" if decisive is None else f"{1 - decisive / kept.budget.limit:+.1%}"
    if kept.budget.is_static:
        return f"{amount(kept.budget, kept.measured)} (exact)", room
    return amount(kept.budget, kept.measured), room


def _verdict(kept: "Kept") -> str:
    if kept.only_predicted:
        return "as predicted" if kept.kept else "NO, as predicted"
    if kept.measured is None:
        return "NO, not measured"
    return "yes" if kept.kept else "NO"


def finalist_table(session: "Session", outcome: "Outcome") -> "Table":
    """The finalists, best first, with the figures that decided."""
    from edgeprof.cli.output import make_table
    from edgeprof.search.drawing import layout_label

    names = [budget.name.replace(" ", "_") for budget in session.problem.costs.budgets]
    columns = " ".join(["quality", *names])
    table = make_table("finalists, scored in the final stage", f"layout {columns} verdict", columns)
    for finalist in outcome.finalists:
        cells = [_decisive(kept) for kept in finalist.budgets]
        quality = quality_text(finalist.score.value, finalist.score.se)
        label = layout_label(session.problem.costs.space, finalist.layout)
        table.add_row(label, quality, *cells, _finalist_verdict(finalist, outcome.winner))
    return table


def _decisive(kept: "Kept") -> str:
    """The figure that decided on a budget, marked where it is beyond the limit."""
    value = kept.upper if kept.only_predicted else kept.measured
    mark = "" if kept.kept else " !"
    return f"{amount(kept.budget, value)}{mark}"


def _finalist_verdict(finalist: "Finalist", winner: "Finalist | None") -> str:
    from rich.markup import escape

    if finalist is winner:
        return "winner"
    if finalist.failed is not None:
        return escape(f"failed: {finalist.failed}")
    broken = [kept.budget.name for kept in finalist.budgets if not kept.kept]
    return f"breaks {', '.join(broken)}" if broken else "keeps its budgets"


def sentences(session: "Session", outcome: "Outcome") -> Iterator[str]:
    """What was tried, and where predictions were wrong."""
    from edgeprof.search.report import proposals
    from edgeprof.search.study import n_counted

    counts = proposals(session.study)
    yield (
        f"{n_counted(session.study)} trials; of {counts.proposed} proposed layouts {counts.feasible} were predicted to keep "
        "every budget at the upper end; the others were never trained."
    )
    for finalist in outcome.finalists:
        for kept in finalist.budgets:
            if kept.disagrees and kept.measured is not None and kept.predicted:
                yield (
                    f"warning: {finalist.config.pattern}: {kept.budget.name} measured {amount(kept.budget, kept.measured)}, "
                    f"predicted {amount(kept.budget, kept.predicted)}: {kept.measured / kept.predicted - 1:+.1%}, outside of "
                    "the prediction's interval; the device's error history has it, and later predictions heed it."
                )
    if outcome.winner is None:
        yield "No finalist keeps all its budgets. More trials go on from here; or relax the budget that finalists break."
    elif any(kept.only_predicted for kept in outcome.winner.budgets):
        yield "Nothing was measured on the whole model (--no-measure): the budgets are kept as predicted, at the upper end."


def next_lines(session: "Session", outcome: "Outcome", out: Path) -> Iterator[str]:
    """Where the configuration is, and the commands to go on with."""
    report = ["edgeprof", "search", "report", "--study", session.study.study_name, *_place(session)]
    commands = [report]
    if outcome.winner is not None:
        yield f"written to {out}"
        commands = [["edgeprof", "inspect", str(out)], *_verify(session, out), ["edgeprof", "train", str(out)], report]
    yield "next:"
    for words in commands:
        yield f"  {shlex.join(words)}"


def _verify(session: "Session", out: Path) -> Iterator[list[str]]:
    """The command that measures the winner once more under its budgets; of a device that is not at hand there is none."""
    budgets = [b for b in session.problem.costs.budgets if not b.is_static and b.device == "local"]
    for key in dict.fromkeys(b.target_key for b in budgets):
        same = [b for b in budgets if b.target_key == key]
        runtime, dtype, threads, _ = key
        words = ["edgeprof", "verify", str(out), "--runtime", str(runtime), "--dtype", str(dtype)]
        words += ["--threads", str(threads or 1)]
        contexts = dict.fromkeys(str(b.at) for b in same if b.metric != "ttft" and b.at is not None)
        prompts = dict.fromkeys(str(b.at) for b in same if b.metric == "ttft")
        words += ["--context", ",".join(contexts)] if contexts else []
        yield [*words, "--prompt", ",".join(prompts) or "0", *_results(session)]


def _place(session: "Session") -> list[str]:
    """The options that find the study again."""
    storage = [] if session.storage is None else ["--storage", shown_storage(session)]
    return [*storage, *_results(session)]


def _results(session: "Session") -> list[str]:
    from edgeprof.store import results_root

    return [] if session.store.root == results_root() else ["--results", str(session.store.root)]


def shown_storage(session: "Session") -> str:
    """Where the study is stored, without a password."""
    from edgeprof.cli.search_session import STUDIES

    if session.storage is None:
        return str(session.store.root / STUDIES)
    parts = urlsplit(session.storage)
    if parts.password is None:
        return session.storage
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:***@{host}").geturl()
