"""``edgeprof train``: trains a configuration from text to a model, and goes on where it was interrupted."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprof.cli.model_options import ConfigArgument
from edgeprof.cli.options import JsonOption, VerboseOption

if TYPE_CHECKING:
    from edgeprof.train.session import DataChoice

DATA, RUN, LEARN, MACHINE = "Data", "Run", "How it learns", "How it runs"

PathOption = Path | None


def train(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the run.", show_default=False)],
    more: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCES]...", help="More data, as a shell expands --data text/*.txt.", show_default=False
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="Text files, folders or globs, or a folder of edgeprof data prepare. Default: the standard library's text.",
            rich_help_panel=DATA,
        ),
    ] = None,
    tokenizer: Annotated[
        PathOption,
        typer.Option(
            "--tokenizer",
            metavar="PATH",
            help="A tokenizer.json. Default: train a byte-level BPE.",
            rich_help_panel=DATA,
        ),
    ] = None,
    field: Annotated[
        str, typer.Option("--field", metavar="NAME", help="Field or column of the text.", rich_help_panel=DATA)
    ] = "text",
    split_blank_lines: Annotated[
        bool, typer.Option("--split-blank-lines", help="Blank lines part documents.", rich_help_panel=DATA)
    ] = False,
    held_out: Annotated[
        str, typer.Option("--held-out", metavar="SHARE", help="Share kept for evaluation.", rich_help_panel=DATA)
    ] = "1%",
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens", metavar="N", help="Budget, as in 20M. Default: 20 a parameter.", rich_help_panel=LEARN
        ),
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option("--seq-len", metavar="N", help="Tokens of a sequence.", rich_help_panel=LEARN)
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="N", help="Sequences of a step.", rich_help_panel=LEARN)
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", metavar="X", help="Highest learning rate.", rich_help_panel=LEARN)
    ] = None,
    optimiser: Annotated[
        str | None, typer.Option("--optimiser", metavar="muon|adamw", help="Of the matrices.", rich_help_panel=LEARN)
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option("--schedule", metavar="wsd|cosine", help="Of the learning rate.", rich_help_panel=LEARN),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of weights and order.", rich_help_panel=LEARN)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", metavar="auto|fp32|bf16", help="auto measures which is faster.", rich_help_panel=LEARN
        ),
    ] = None,
    settings: Annotated[
        PathOption,
        typer.Option("--settings", metavar="FILE", help="A .toml with these and all others.", rich_help_panel=LEARN),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to train.", rich_help_panel=MACHINE)
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, help="Threads of this process.", rich_help_panel=MACHINE),
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option("--micro-batch", metavar="N", help="Sequences taken at once.", rich_help_panel=MACHINE),
    ] = None,
    checkpoint_activations: Annotated[
        bool | None,
        typer.Option("--checkpoint-activations", help="Compute blocks twice to save memory.", rich_help_panel=MACHINE),
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option("--compile", help="Compile the blocks: a minute at the start.", rich_help_panel=MACHINE),
    ] = None,
    parallel: Annotated[
        str | None,
        typer.Option(
            "--parallel", metavar="ddp|fsdp", help="What torchrun's processes share.", rich_help_panel=MACHINE
        ),
    ] = None,
    save_every: Annotated[
        int | None, typer.Option("--save-every", metavar="STEPS", help="Checkpoints.", rich_help_panel=MACHINE)
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", metavar="N", help="Checkpoints kept.", rich_help_panel=MACHINE)
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
    from edgeprof.train.amounts import parse_tokens
    from edgeprof.train.roof import find_roof
    from edgeprof.train.session import Order
    from edgeprof.train.session import train as run

    if verbose:
        start_logging(verbose)
    options: dict[str, Any] = {
        "tokens": None if tokens is None else parse_tokens(tokens, field="--tokens"),
        "seq_len": seq_len, "batch": batch, "lr": lr, "optimiser": optimiser, "schedule": schedule, "seed": seed,
        "precision": precision, "micro_batch": micro_batch, "checkpoint_activations": checkpoint_activations,
        "compile": compile_, "parallel": parallel, "save_every": save_every, "keep": keep,
    }  # fmt: skip
    order = Order(
        config=load_config(config),
        out=out,
        given=given_settings(settings, options),
        data=data_choice(
            [*(data or []), *(more or [])], tokenizer, field, held_out, split_blank_lines=split_blank_lines
        ),
        device=device,
        threads=threads,
        find_roof=find_roof,
    )
    with TrainingProgress() as progress:
        summary = run(order, progress)
    show(summary, as_json=as_json)


def given_settings(file: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """The settings of a file, and over them those of options.

    Raises:
        UsageError: one is wrong.
    """
    from edgeprof.train.settings_file import check_given, read_settings

    return ({} if file is None else read_settings(file)) | check_given(options, "options")


def data_choice(
    sources: list[str], tokenizer: Path | None, field: str, held_out: str, *, split_blank_lines: bool
) -> "DataChoice":
    """What the options on data ask for.

    Raises:
        UsageError: the share cannot be read.
    """
    from edgeprof.cli.data import parse_share
    from edgeprof.train.data.sources import Reading
    from edgeprof.train.session import DataChoice

    return DataChoice(
        sources=tuple(sources),
        tokenizer=tokenizer,
        held_out=parse_share(held_out, field="--held-out"),
        reading=Reading(field=field, paragraphs=split_blank_lines),
    )
