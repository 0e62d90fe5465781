"""The options that evaluations of models share, and how they open one."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from edgeprof.train.evaluate.language_model import LanguageModel

MACHINE = "How it runs"

MAX_TEMPERATURE = 100.0

ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Folder of a run of edgeprof train, or any Hugging Face folder of a causal language model.",
        show_default=False,
    ),
]
ChatOption = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat",
        help="Put prompts into the model's chat template. Default: where it has one.",
        show_default=False,
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of what is drawn.")]
EvalDeviceOption = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to run.", rich_help_panel=MACHINE)
]
EvalThreadsOption = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="Threads of torch.", rich_help_panel=MACHINE)
]
EvalDtypeOption = Annotated[
    str, typer.Option("--dtype", metavar="fp32|bf16", help="Format of HF models.", rich_help_panel=MACHINE)
]


def opened(path: Path, *, device: str, dtype: str, threads: int | None, chat: bool | None) -> "LanguageModel":
    """The model to evaluate, on its device.

    Raises:
        UsageError: it cannot be loaded, or an option cannot be met.
    """
    import torch

    from edgeprof.train.distributed import find_device
    from edgeprof.train.evaluate.language_model import open_model

    if threads is not None:
        torch.set_num_threads(threads)
    if dtype not in ("fp32", "bf16"):
        raise UsageError(f"--dtype: {dtype!r:.40} is none; use fp32 or bf16")
    return open_model(path, find_device(device), dtype="bf16" if dtype == "bf16" else "fp32", chat=chat)


def parse_temperatures(text: str) -> list[float]:
    """Temperatures written ``0,0.7,1``.

    Raises:
        UsageError: one is none, or comes twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{0,6}\.?[0-9]{1,6}", part) for part in parts):
        raise UsageError(f"--temperature: {text!r:.60} are none; write them as in 0,0.7,1.0")
    values = [float(part) for part in parts]
    if max(values) > MAX_TEMPERATURE or len(set(values)) < len(values):
        raise UsageError(f"--temperature: {text!r:.60}: use different ones, up to {MAX_TEMPERATURE:g}")
    return values
