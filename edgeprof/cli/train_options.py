"""The options of ``edgeprof train``, in groups: data, settings, a teacher."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgeprof.train.distill.choice import DistillChoice
    from edgeprof.train.session import DataChoice

DATA, LEARN, MACHINE, TEACHER = "Data", "How it learns", "How it runs", "A teacher to learn from"

PathOption = Path | None


def make_data(
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
) -> "DataChoice":
    """What the options on data ask for.

    Raises:
        UsageError: the share cannot be read.
    """
    from edgeprof.cli.data import parse_share
    from edgeprof.train.data.sources import Reading
    from edgeprof.train.session import DataChoice

    return DataChoice(
        sources=tuple(data or ()),
        tokenizer=tokenizer,
        held_out=parse_share(held_out, field="--held-out"),
        reading=Reading(field=field, paragraphs=split_blank_lines),
    )


def make_given(
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens",
            metavar="N",
            help="Budget, as in 20M. Default: 20 a parameter, or the data twice.",
            rich_help_panel=LEARN,
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
) -> dict[str, Any]:
    """The settings that a file and the options ask for, checked.

    Raises:
        UsageError: one is wrong.
    """
    from edgeprof.train.amounts import parse_tokens

    options: dict[str, Any] = {
        "tokens": None if tokens is None else parse_tokens(tokens, field="--tokens"),
        "seq_len": seq_len, "batch": batch, "lr": lr, "optimiser": optimiser, "schedule": schedule, "seed": seed,
        "precision": precision,
    }  # fmt: skip
    return given_settings(settings, options)


def make_running(
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
) -> dict[str, Any]:
    """The settings of how it runs that the options ask for, checked.

    Raises:
        UsageError: one is wrong.
    """
    options: dict[str, Any] = {
        "micro_batch": micro_batch, "checkpoint_activations": checkpoint_activations, "compile": compile_,
        "parallel": parallel, "save_every": save_every, "keep": keep,
    }  # fmt: skip
    return given_settings(None, options)


def make_teacher(
    teacher: Annotated[
        PathOption,
        typer.Option(
            "--teacher",
            metavar="DIR",
            help="A Hugging Face folder, or one of edgeprof distill prepare.",
            rich_help_panel=TEACHER,
        ),
    ] = None,
    teacher_share: Annotated[
        float,
        typer.Option("--teacher-share", metavar="X", help="Its part of the loss, up to 1.", rich_help_panel=TEACHER),
    ] = 0.5,
    teacher_temperature: Annotated[
        float,
        typer.Option("--teacher-temperature", metavar="X", help="Softens both distributions.", rich_help_panel=TEACHER),
    ] = 1.0,
    teacher_k: Annotated[
        int | None,
        typer.Option("--teacher-k", metavar="N", min=1, help="Likeliest tokens heard.", rich_help_panel=TEACHER),
    ] = None,
) -> "DistillChoice | None":
    """The teacher that the options name, checked.

    Raises:
        UsageError: it is no folder, or a number is out of range.
    """
    if teacher is None:
        return None
    from edgeprof.train.distill.choice import DistillChoice

    choice = DistillChoice(teacher=teacher, share=teacher_share, temperature=teacher_temperature, k=teacher_k)
    choice.check()
    return choice


def given_settings(file: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """The settings of a file, and over them those of options.

    Raises:
        UsageError: one is wrong.
    """
    from edgeprof.train.settings_file import check_given, read_settings

    return ({} if file is None else read_settings(file)) | check_given(options, "options")
