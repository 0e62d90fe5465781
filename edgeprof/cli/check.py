"""``edgeprof check``: fails where a change made something slower or larger, and only then."""

from pathlib import Path
from typing import Annotated

import typer

from edgeprof.cli.check_options import Against, Effort, Gate, make_against, make_effort, make_gate
from edgeprof.cli.options import JsonOption, ResultsOption, VerboseOption, expanded

OUTPUT = "Output"


@expanded("against", make_against)
@expanded("effort", make_effort)
@expanded("gate", make_gate)
def check(
    against: Against,
    effort: Effort,
    gate: Gate,
    suite: Annotated[
        str, typer.Option("--suite", metavar="NAME|FILE.toml", help="The cells to check.", show_default=True)
    ] = "ci",
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE.xml", help="Write JUnit XML too.", rich_help_panel=OUTPUT)
    ] = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare with another revision, environment or stored baseline; fail where something got slower or larger.

    Side by side (--base, or --base-python with --head-python), both sides are measured in turns, in fresh processes on the same
    CPUs, until every case is clear or the time is up. An alarm needs a p value that stands over the whole suite, an interval
    beyond the floor, and a second run that says the same. The table also goes to $GITHUB_STEP_SUMMARY where that is set.

    Exit codes: 0 nothing got worse; 1 something did, or a budget is broken; 2 wrong usage, or an environment that fails to
    build; 3 inconclusive; 5 the base, or a case of it, is missing.
    """
    from edgeprof.cli.check_session import check_junit, run_check
    from edgeprof.cli.output import print_json, start_logging
    from edgeprof.cli.render_check import print_check, write_for_ci
    from edgeprof.regress.formats import check_json

    if verbose:
        start_logging(verbose)
    check_junit(junit)
    result = run_check(suite, against, effort, gate, results)
    code = result.exit_code(pass_inconclusive=gate.pass_inconclusive)
    write_for_ci(result, code, gate.pass_inconclusive, junit)
    if as_json:
        print_json(check_json(result, code))
    else:
        print_check(result, code)
    raise typer.Exit(code)
