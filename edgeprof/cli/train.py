"""``edgeprof train``: trains a configuration from text to a model, and goes on where it was interrupted."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprof.cli.model_options import ConfigArgument
from edgeprof.cli.options import JsonOption, VerboseOption, expanded
from edgeprof.cli.train_options import MACHINE, make_data, make_given, make_running, make_teacher

if TYPE_CHECKING:
    from edgeprof.train.distill.choice import DistillChoice
    from edgeprof.train.session import DataChoice


@expanded("data", make_data)
@expanded("given", make_given)
@expanded("running", make_running)
@expanded("teacher", make_teacher)
def train(
    data: "DataChoice",
    given: dict[str, Any],
    running: dict[str, Any],
    teacher: "DistillChoice | None",
    config: ConfigArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the run.", show_default=False)],
    more: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCES]...", help="More data, as a shell expands --data text/*.txt.", show_default=False
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to train.", rich_help_panel=MACHINE)
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, help="Threads of this process.", rich_help_panel=MACHINE),
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a configuration: tokenizer, packing, training, evaluation, checkpoints, and a model to load.

    The same command goes on where a run was interrupted; settings that are not given again are the run's own. Several
    processes share the work when torchrun starts them: torchrun --nproc-per-node 8 -m edgeprof train ...
    """
    from edgeprof.cli.output import start_logging
    from edgeprof.cli.render_train import show
    from edgeprof.cli.train_progress import TrainingProgress
    from edgeprof.models.config import load_config
    from edgeprof.train.roof import find_roof
    from edgeprof.train.session import Order
    from edgeprof.train.session import train as run

    if verbose:
        start_logging(verbose)
    order = Order(
        config=load_config(config),
        out=out,
        given=given | running,
        data=replace(data, sources=(*data.sources, *(more or ()))),
        device=device,
        threads=threads,
        find_roof=find_roof,
        **_objective(teacher),
    )
    with TrainingProgress() as progress:
        summary = run(order, progress)
    show(summary, as_json=as_json)


def _objective(teacher: "DistillChoice | None") -> dict[str, Any]:
    """What is minimised: without a teacher, the text's cross-entropy."""
    if teacher is None:
        return {}
    from functools import partial

    from edgeprof.train.distill.choice import make_distillation

    return {"make_loss": partial(make_distillation, teacher), "objective": teacher.identity()}
