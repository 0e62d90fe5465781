"""``edgeprof eval model``: held-out loss and bits per byte, in-context recall, and a few samples."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprof.cli.eval_options import (
    ChatOption,
    EvalDeviceOption,
    EvalDtypeOption,
    EvalThreadsOption,
    ModelArgument,
    SeedOption,
    parse_temperatures,
)
from edgeprof.cli.options import JsonOption
from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from edgeprof.train.evaluate.held_out_text import HeldOutScore
    from edgeprof.train.evaluate.language_model import LanguageModel
    from edgeprof.train.evaluate.recall import RecallRow
    from edgeprof.train.evaluate.samples import Sample

TOKENS, SAMPLES = "Held-out text", "Samples"

DEFAULT_PROMPT = ""
"""Lets the model begin by itself."""

RECALL_SEQUENCES = 64


def evaluate(
    model: ModelArgument,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Folder of edgeprof data prepare. Default: what the run was trained on."
        ),
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            "--seq-len",
            metavar="N",
            min=2,
            help="Tokens of a sequence. Default: the run's, else 1024, or the context where that is less.",
            rich_help_panel=TOKENS,
        ),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens", metavar="N", help="Most tokens to score, as in 1M. Default: all.", rich_help_panel=TOKENS
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", min=1, help="Sequences at once.", rich_help_panel=TOKENS)
    ] = 8,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="To be continued. Default: none.", rich_help_panel=SAMPLES),
    ] = None,
    temperature: Annotated[
        str, typer.Option("--temperature", metavar="T,T", help="Of the samples.", rich_help_panel=SAMPLES)
    ] = "0,0.7,1.0",
    max_tokens: Annotated[
        int,
        typer.Option("--max-tokens", metavar="N", min=1, help="Tokens of a sample at most.", rich_help_panel=SAMPLES),
    ] = 64,
    chat: ChatOption = None,
    seed: SeedOption = 0,
    device: EvalDeviceOption = "auto",
    threads: EvalThreadsOption = None,
    dtype: EvalDtypeOption = "fp32",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model on held-out text: loss, bits per byte, in-context recall, samples.

    Bits per byte compare models of different tokenizers: one that has another than the data reads the same text with its own.
    """
    from edgeprof.cli.eval_options import opened
    from edgeprof.cli.render_evaluation import Evaluation, show
    from edgeprof.train.amounts import parse_tokens

    most_tokens = None if tokens is None else parse_tokens(tokens, field="--tokens")
    temperatures = parse_temperatures(temperature)
    loaded = opened(model, device=device, dtype=dtype, threads=threads, chat=chat)
    data = data or _data_of(model)
    score = _score(loaded, data, seq_len, batch, most_tokens)
    result = Evaluation(
        model=loaded.name,
        data=str(data),
        held_out=score,
        recall=_recall(loaded, seed),
        samples=_samples(loaded, prompt or [DEFAULT_PROMPT], temperatures, max_tokens, seed),
    )
    show(result, as_json=as_json)


def _data_of(folder: Path) -> Path:
    """The data set of a run.

    Raises:
        UsageError: the folder is no run.
    """
    from edgeprof.train.run_folder import read_run

    run = read_run(folder)
    if run is None:
        raise UsageError(
            f"--data: is missing; {folder} is no run of edgeprof train, so name a folder of edgeprof data prepare"
        )
    return run.data


def _score(
    model: "LanguageModel", data: Path, seq_len: int | None, batch: int, most_tokens: int | None
) -> "HeldOutScore":
    from edgeprof.cli.progress import ProgressReporter
    from edgeprof.train.data.dataset import open_data
    from edgeprof.train.evaluate.held_out_text import score_held_out

    with ProgressReporter() as progress:
        return score_held_out(
            model,
            open_data(data, checksums=False),
            seq_len=seq_len or model.seq_len,
            batch=batch,
            most_tokens=most_tokens,
            reporter=progress,
        )


def _recall(model: "LanguageModel", seed: int) -> "list[RecallRow]":
    from edgeprof.cli.progress import ProgressReporter
    from edgeprof.train.evaluate.recall import PAIRS, recall

    with ProgressReporter() as progress:
        progress.stage("recall", len(PAIRS))
        return list(recall(model, n=RECALL_SEQUENCES, seed=seed, reporter=progress))


def _samples(
    model: "LanguageModel", prompts: list[str], temperatures: list[float], max_tokens: int, seed: int
) -> "list[Sample]":
    from edgeprof.cli.progress import ProgressReporter
    from edgeprof.train.evaluate.samples import draw_samples

    with ProgressReporter() as progress:
        progress.stage("samples", len(prompts) * len(temperatures))
        found = []
        for sample in draw_samples(model, prompts, temperatures, max_tokens=max_tokens, seed=seed):
            found.append(sample)
            progress.step(f"{sample.tokens} tokens")
        return found
