"""``edgeprof predict``: what a model will take on a device, from cells that were measured there."""

import logging
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprof.cli.model_options import ConfigArgument
from edgeprof.cli.options import (
    EffortOption,
    JsonOption,
    ResultsOption,
    VerboseOption,
    completer,
    registered_runtimes,
    weight_dtypes,
)
from edgeprof.cli.targets import one_size
from edgeprof.core.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from edgeprof.cli.targets import Place
    from edgeprof.predict.types import ModelCall, Prediction
    from edgeprof.store import Store

logger = logging.getLogger(__name__)


OneRuntimeOption = Annotated[
    str,
    typer.Option("--runtime", metavar="RUNTIME", help="Runtime.", autocompletion=completer(registered_runtimes)),
]
OneDTypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="Weight format; WEIGHT/KV names the cache's too.",
        autocompletion=completer(weight_dtypes),
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """What is asked for: a token at ``context``, and a prompt in chunks, or None."""

    context: int
    prompt: int | None
    chunk: int | None

    @property
    def calls(self) -> "tuple[ModelCall, ...]":
        """The model's calls."""
        from edgeprof.predict.plan import decode_call, prefill_calls

        prefill = () if self.prompt is None else prefill_calls(self.prompt, self.chunk)
        return (decode_call(self.context), *prefill)


def predict(
    config: ConfigArgument,
    runtime: OneRuntimeOption = "onnxruntime",
    dtype: OneDTypeOption = "fp32",
    context: Annotated[
        str, typer.Option("--context", metavar="TOKENS", help="Context of a generated token, itself included.")
    ] = "1024",
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TOKENS", help="Tokens of the prompt; 0 leaves TTFT out.")
    ] = "256",
    prefill_chunk: Annotated[
        str | None,
        typer.Option(
            "--prefill-chunk", metavar="TOKENS", help="Take the prompt in calls of so many tokens.", show_default="all"
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=1, max=1024, help="Threads.")] = 1,
    device: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="local, or the id of a device with results.")
    ] = "local",
    measure: Annotated[bool, typer.Option("--measure", help="Measure the cells that are missing, only those.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before measuring.")] = False,
    effort: EffortOption = "quick",
    correction: Annotated[
        bool, typer.Option("--correction/--no-correction", help="Take off the mean error of verified models.")
    ] = True,
    results: ResultsOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Predict TTFT, TPOT and peak memory of a model from measured cells.

    Every distinct block, the embedding and the head are cells; what each of them takes at the model's own working set is added
    up. Cells that were not measured are an error (exit 5): --measure measures them.
    """
    from edgeprof.cli.output import print_json, start_logging
    from edgeprof.cli.render_predict import missing_json, prediction_json, print_missing, print_prediction
    from edgeprof.cli.targets import find_place, knowledge_of, make_target, why_not
    from edgeprof.models.config import load_config
    from edgeprof.predict.predict import predict as predict_target
    from edgeprof.store import Store, results_root

    if verbose:
        start_logging(verbose)
    lengths = parse_lengths(context, prompt, prefill_chunk)
    target = make_target(load_config(config), runtime, dtype, threads)
    if reason := why_not(target, lengths.calls):
        raise UsageError(f"{target.config.name} in {runtime} {dtype}: {reason}")
    store = Store(results_root(results))
    place = find_place(device, store)

    def predicted() -> "Prediction":
        known = knowledge_of(place, store, corrected=correction)
        return predict_target(target, known, context=lengths.context, prompt=lengths.prompt, chunk=lengths.chunk)

    found = predicted()
    if found.missing and measure:
        _measure(found, place, store, effort=effort, ask=not yes)
        found = predicted()
    if found.missing:
        command = _command(config, runtime, dtype, lengths, threads, results)
        print_json(missing_json(found, command)) if as_json else print_missing(found, command)
        raise typer.Exit(ExitCode.BASELINE)
    print_json(prediction_json(found, lengths)) if as_json else print_prediction(found, lengths)


def parse_lengths(context: str, prompt: str, chunk: str | None) -> Lengths:
    """The lengths that the options give.

    Raises:
        UsageError: one is no length, or the prompt would be an absurd number of calls.
    """
    from edgeprof.predict.plan import MAX_CHUNKS

    found = Lengths(
        context=one_size(context, field="--context", what="length"),
        prompt=None if prompt == "0" else one_size(prompt, field="--prompt", what="length"),
        chunk=None if chunk is None else one_size(chunk, field="--prefill-chunk", what="length"),
    )
    if found.prompt and found.chunk and found.prompt > MAX_CHUNKS * found.chunk:
        raise UsageError(
            f"--prefill-chunk: {found.chunk} makes more than {MAX_CHUNKS} calls of a prompt of {found.prompt}; use a larger one"
        )
    return found


def _measure(found: "Prediction", place: "Place", store: "Store", *, effort: str, ask: bool) -> None:
    """Measures the rings of what is missing; every load is stored at once, so an interruption keeps what it has.

    Raises:
        UsageError: the device is not at hand, or its user does not want to.
    """
    from edgeprof.bench.protocol import protocol_for
    from edgeprof.bench.run import run_rings
    from edgeprof.cli.progress import ProgressReporter

    protocol = protocol_for(effort)
    if place.device is None:
        raise UsageError(f"--measure: {place.device_id} is known from its results only; measure on the device itself")
    if ask and sys.stdin.isatty():
        what = f"{len(found.missing)} cells in {len(found.rings)} rings, {protocol.rounds} processes"
        typer.confirm(f"Measure {what}?", abort=True, err=True)
    with ProgressReporter() as reporter:
        run = run_rings(found.rings, device=place.device, store=store, protocol=protocol, reporter=reporter)
    for reason in dict.fromkeys(run.failed.values()):
        logger.warning("not measured: %s", reason)


def _command(config: str, runtime: str, dtype: str, lengths: Lengths, threads: int, results: Path | None) -> str:
    """The command that measures what is missing."""
    parts = ["edgeprof", "predict", config, "--runtime", runtime, "--dtype", dtype, "--context", str(lengths.context)]
    parts += ["--prompt", str(lengths.prompt or 0)]
    parts += ["--prefill-chunk", str(lengths.chunk)] if lengths.chunk is not None else []
    parts += ["--threads", str(threads)] if threads != 1 else []
    parts += ["--results", str(results)] if results is not None else []
    return shlex.join([*parts, "--measure"])
