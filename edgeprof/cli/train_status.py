"""``edgeprof train status``: how far a run is, from its folder; the run itself is not touched."""

from pathlib import Path
from typing import Annotated

import typer

from edgeprof.cli.options import JsonOption
from edgeprof.core.errors import UsageError


def train_status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Show how far a run is, and draw its loss curve."""
    from edgeprof.cli.render_train import show
    from edgeprof.train.metrics import read_metrics
    from edgeprof.train.run_folder import METRICS_FILE, read_run
    from edgeprof.train.summary import summarise

    found = read_run(run)
    if found is None:
        raise UsageError(f"{run}: no run; edgeprof train CONFIG --out {run} begins one")
    show(summarise(found, read_metrics(run / METRICS_FILE)), as_json=as_json)
