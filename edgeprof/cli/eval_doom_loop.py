"""``edgeprof eval doom-loop``: how often a model falls into endless repetition."""

from collections.abc import Callable, Sequence
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

if TYPE_CHECKING:
    from edgeprof.train.evaluate.doom_loop import Outcome
    from edgeprof.train.evaluate.generation import Generation
    from edgeprof.train.evaluate.language_model import LanguageModel
    from edgeprof.train.evaluate.prompts import Prompt


def doom_loop(
    model: ModelArgument,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help='A .txt file, one prompt a line, or a .jsonl file of {"prompt": ..., "set": ...}. Default: a few that ship.',
        ),
    ] = None,
    temperature: Annotated[
        str, typer.Option("--temperature", metavar="T,T", help="Temperatures; 0 takes the likeliest token.")
    ] = "0,0.7,1.0",
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=1, help="Texts for each prompt and temperature above 0.")
    ] = 5,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", min=1, help="Tokens of a text at most.")
    ] = 512,
    chat: ChatOption = None,
    seed: SeedOption = 0,
    device: EvalDeviceOption = "auto",
    threads: EvalThreadsOption = None,
    dtype: EvalDtypeOption = "fp32",
    as_json: JsonOption = False,
) -> None:
    """Show the share of generated texts that end in endless repetition, by prompt set and temperature.

    A text counts if it ends in at least 4 exact repeats that take at least 60 characters, with a period of 1 to 1024
    characters. Sampling is by temperature alone: what the folder says of penalties or top-k is left aside.
    """
    from edgeprof.cli.eval_options import opened
    from edgeprof.cli.render_doom_loop import show
    from edgeprof.train.evaluate.prompts import built_in_prompts, read_prompts

    temperatures = parse_temperatures(temperature)
    chosen = [p for path in prompts for p in read_prompts(path)] if prompts else built_in_prompts()
    loaded = opened(model, device=device, dtype=dtype, threads=threads, chat=chat)
    outcomes: list[Outcome] = []
    try:
        _judge_all(loaded, chosen, temperatures, _generator(loaded, samples, max_tokens, seed), outcomes)
    except KeyboardInterrupt:
        if outcomes:
            show(loaded, outcomes, max_tokens=max_tokens, seed=seed, complete=False, as_json=as_json)
        raise KeyboardInterrupt(f"{len(outcomes)} texts were generated, and are all that is shown") from None
    show(loaded, outcomes, max_tokens=max_tokens, seed=seed, complete=True, as_json=as_json)


def _generator(
    model: "LanguageModel", samples: int, max_tokens: int, seed: int
) -> Callable[["Prompt", float], "list[Generation]"]:
    from edgeprof.models.generate import Sampling
    from edgeprof.train.evaluate.generation import generate_texts

    def generate(prompt: "Prompt", temperature: float) -> "list[Generation]":
        sampling = Sampling(temperature=temperature, seed=seed)
        return generate_texts(model, prompt.text, count=samples, sampling=sampling, max_tokens=max_tokens)

    return generate


def _judge_all(
    model: "LanguageModel",
    prompts: "Sequence[Prompt]",
    temperatures: Sequence[float],
    generate: Callable[["Prompt", float], "list[Generation]"],
    outcomes: "list[Outcome]",
) -> None:
    """Fills ``outcomes``, which keeps what is done when it is interrupted."""
    from edgeprof.cli.progress import ProgressReporter
    from edgeprof.train.evaluate.doom_loop import judge

    with ProgressReporter() as progress:
        progress.stage(f"generate with {model.name}", len(prompts) * len(temperatures))
        loops = 0
        for prompt in prompts:
            for temperature in temperatures:
                found = list(judge(generate, [prompt], [temperature]))
                outcomes += found
                loops += sum(o.loop is not None for o in found)
                progress.step(f"{prompt.prompt_set} at {temperature:g}: {loops} loops in {len(outcomes)}")
