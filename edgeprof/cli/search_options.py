"""The options of ``edgeprof search``, in groups: budgets, what to do, where the study lives."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprof.cli.options import Texts, completer, registered_runtimes, weight_dtypes
from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from edgeprof.search.budgets import Budget

BUDGETS = "Budgets"
AMOUNT = "How much to do"
WHERE = "Where the study lives"

STORAGE_VARIABLE = "EDGEPROF_STORAGE"
"""A URL may have a password, which arguments would show to everybody on the machine."""


def _limit(flag: str, metavar: str, help_text: str) -> Any:
    return typer.Option(flag, metavar=metavar, help=help_text, rich_help_panel=BUDGETS)


def make_budgets(
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="local, or the id of a device with results.")
    ] = "local",
    runtime: Annotated[
        str,
        typer.Option("--runtime", metavar="RUNTIME", help="Runtime.", autocompletion=completer(registered_runtimes)),
    ] = "onnxruntime",
    dtype: Annotated[
        str,
        typer.Option("--dtype", metavar="DTYPE", help="Weight format.", autocompletion=completer(weight_dtypes)),
    ] = "fp32",
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=1, max=1024, help="Threads.")] = 1,
    max_tpot: Annotated[Texts, _limit("--max-tpot", "TIME@CONTEXT", "A generated token, as in 12ms@4096.")] = None,
    max_ttft: Annotated[Texts, _limit("--max-ttft", "TIME@PROMPT", "A prompt, as in 900ms@1024.")] = None,
    max_peak_memory: Annotated[Texts, _limit("--max-peak-memory", "SIZE", "As in 300MiB.")] = None,
    max_state: Annotated[Texts, _limit("--max-state", "SIZE@CONTEXT", "KV caches and other state.")] = None,
    max_params: Annotated[Texts, _limit("--max-params", "COUNT", "Parameters, as in 100M.")] = None,
    max_file_size: Annotated[Texts, _limit("--max-file-size", "SIZE", "Weights in their format, as in 60MB.")] = None,
    budget: Annotated[
        Path | None,
        typer.Option(
            "--budget", metavar="FILE.toml", help="More budgets, also of other devices.", rich_help_panel=BUDGETS
        ),
    ] = None,
) -> "tuple[Budget, ...]":
    """The budgets that the options and the file ask for, each with its device, runtime, format and threads.

    Raises:
        UsageError: one cannot be read, two ask the same, or there is none.
    """
    from dataclasses import replace

    from edgeprof.search.budgets import check_budgets, load_budgets, parse_budget

    given = {
        "tpot": max_tpot,
        "ttft": max_ttft,
        "peak_memory": max_peak_memory,
        "state": max_state,
        "params": max_params,
        "file_size": max_file_size,
    }
    found = [
        parse_budget(metric, text, field=f"--max-{metric.replace('_', '-')}")
        for metric, texts in given.items()
        for text in texts or ()
    ]
    found = [b if b.is_static else replace(b, device=device) for b in found]
    found += load_budgets(budget) if budget is not None else ()
    if not found:
        raise UsageError("no budget: a search wants limits to keep, as in --max-tpot 12ms@4096 or --max-params 100M")
    return check_budgets(b.filled(runtime=runtime, dtype=dtype, n_threads=threads) for b in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much a search does. ``stage`` is the training of a trial."""

    trials: int
    finalists: int
    stage: str
    workers: int
    measure: bool
    effort: str


def make_amount(
    trials: Annotated[
        int, typer.Option("--trials", metavar="N", min=1, max=1_000_000, help="Trials.", rich_help_panel=AMOUNT)
    ] = 200,
    finalists: Annotated[
        int,
        typer.Option(
            "--finalists",
            metavar="N",
            min=1,
            max=100,
            help="Layouts to score thoroughly and to measure.",
            rich_help_panel=AMOUNT,
        ),
    ] = 5,
    stage: Annotated[
        str, typer.Option("--stage", metavar="STAGE", help="Training of a trial.", rich_help_panel=AMOUNT)
    ] = "",
    workers: Annotated[
        int,
        typer.Option("--workers", metavar="N", min=1, max=256, help="Processes that train.", rich_help_panel=AMOUNT),
    ] = 1,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure", help="Measure finalists; otherwise predictions decide.", rich_help_panel=AMOUNT
        ),
    ] = True,
    effort: Annotated[
        str,
        typer.Option(
            "--effort",
            metavar="quick|normal|thorough",
            help="How many instances of a cell; never how they are taken.",
            rich_help_panel=AMOUNT,
        ),
    ] = "quick",
) -> Amount:
    """How much to do.

    Raises:
        UsageError: the effort is unknown.
    """
    from edgeprof.bench.protocol import protocol_for

    protocol_for(effort)
    return Amount(trials=trials, finalists=finalists, stage=stage, workers=workers, measure=measure, effort=effort)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The study's name and storage; None where they are not stated."""

    study: str | None
    storage: str | None
    results: Path | None


def make_where(
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME", help="The study's name.", rich_help_panel=WHERE)
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URL|FILE",
            envvar=STORAGE_VARIABLE,
            help="Any storage of Optuna's, as in postgresql://USER@HOST/DB; a file is a journal.",
            show_default="studies.journal in the results",
            rich_help_panel=WHERE,
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results",
            metavar="DIR",
            envvar="EDGEPROF_RESULTS",
            help="Folder of the results.",
            show_default=False,
            rich_help_panel=WHERE,
        ),
    ] = None,
) -> Where:
    """Where the study lives."""
    return Where(study=study, storage=storage, results=results)
