"""``edgeprof search worker``: does trials of a study that a search has begun, here or on another machine."""

from typing import Annotated

import typer

from edgeprof.cli.options import JsonOption, VerboseOption, expanded
from edgeprof.cli.search_options import Where, make_where


@expanded("where", make_where)
def worker(
    where: Where,
    trials: Annotated[
        int, typer.Option("--trials", metavar="N", min=1, max=1_000_000, help="Trials of the study, whoever does them.")
    ] = 200,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Do trials of a stored study until it has so many.

    The study knows its space, budgets and objective; the cells that its budgets rest on are read from the results, which a
    worker on another machine needs a copy of. An objective may be a command: join studies only in storages that you trust.
    """
    from edgeprof.cli.output import print_json, start_logging
    from edgeprof.cli.progress import ProgressReporter
    from edgeprof.cli.search_session import Session
    from edgeprof.search.run import run_all
    from edgeprof.search.study import lost_storage, n_counted

    if verbose:
        start_logging(verbose)
    session = Session.resume(where)
    session.attach_sampler()
    with ProgressReporter() as reporter, lost_storage():
        run_all(session.study, session.problem, trials, reporter)
    document = {"study": session.study.study_name, "trials": n_counted(session.study)}
    print_json(document) if as_json else typer.echo("study {study}: {trials} trials".format(**document))
