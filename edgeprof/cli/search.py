"""``edgeprof search``: the best layout of a space that keeps its budgets on measured devices."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprof.cli.options import JsonOption, Texts, VerboseOption, completer, expanded
from edgeprof.cli.search_options import Amount, Where, make_amount, make_budgets, make_where
from edgeprof.core.errors import ExitCode

if TYPE_CHECKING:
    from edgeprof.search.budgets import Budget
    from edgeprof.search.run import Outcome

logger = logging.getLogger(__name__)


def _spaces() -> list[str]:
    from edgeprof.search.space import space_names

    return space_names()


def _samplers() -> list[str]:
    from edgeprof.search.sampler_names import SAMPLERS

    return list(SAMPLERS)


SpaceOption = Annotated[
    str, typer.Option("--space", metavar="NAME|FILE.toml", help="The space.", autocompletion=completer(_spaces))
]
ObjectiveOption = Annotated[
    str,
    typer.Option(
        "--objective",
        metavar="OBJECTIVE",
        help="Quality: proxy, perplexity:FILE, MODULE:FUNCTION, or cmd:COMMAND that prints a number.",
    ),
]
SamplerOption = Annotated[
    str, typer.Option("--sampler", metavar="NAME", help="Sampler.", autocompletion=completer(_samplers))
]


@expanded("budgets", make_budgets)
@expanded("amount", make_amount)
@expanded("where", make_where)
def search(
    budgets: "tuple[Budget, ...]",
    amount: Amount,
    where: Where,
    space: SpaceOption = "tiny",
    objective: ObjectiveOption = "proxy",
    also: Annotated[
        Texts, typer.Option("--also", metavar="BUDGET", help="Minimise a budget's figure too, as in tpot@4096.")
    ] = None,
    sampler: SamplerOption = "additive",
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**31 - 1, help="Seed.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.toml", help="Where the winner's configuration goes.")
    ] = Path("winner.toml"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before measuring.")] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Search the best layout that keeps the budgets on a device, and write its configuration.

    Blocks are measured once; every layout's figures are predicted from them, and one whose upper end lies beyond a budget is
    never trained. The best few are built, measured as whole models, and must keep the budgets as measured. The same command
    resumes; exit 1 says that no layout keeps the budgets.
    """
    from edgeprof.cli.output import print_json, start_logging
    from edgeprof.cli.render_search import infeasible_json, outcome_json, print_infeasible, print_outcome
    from edgeprof.cli.search_session import Session, check_out, make_setup
    from edgeprof.search.study import n_counted

    if verbose:
        start_logging(verbose)
    check_out(out)
    setup = make_setup(
        space, budgets, objective=objective, also=also or (), sampler=sampler, stage=amount.stage, seed=seed
    )
    session = Session.begin(setup, where)
    typer.echo(f"study {session.study.study_name}: {n_counted(session.study)} trials so far", err=True)
    session.measure_cells(effort=amount.effort, ask=not yes)
    relaxations = session.infeasible()
    if relaxations is not None:
        print_json(infeasible_json(relaxations)) if as_json else print_infeasible(relaxations)
        raise typer.Exit(ExitCode.REGRESSION)
    outcome = session.run(amount)
    if outcome.winner is not None:
        session.write_winner(outcome.winner, out)
    print_json(outcome_json(session, outcome, out)) if as_json else print_outcome(session, outcome, out)
    raise typer.Exit(_exit_code(outcome))


def _exit_code(outcome: "Outcome") -> ExitCode:
    return ExitCode.OK if outcome.winner is not None else ExitCode.REGRESSION
