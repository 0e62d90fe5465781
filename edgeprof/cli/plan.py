"""``edgeprof plan``: what training a configuration takes on this machine, and what more tokens buy."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeprof.cli.model_options import ConfigArgument
from edgeprof.cli.options import JsonOption
from edgeprof.core.errors import UsageError


def plan(
    config: ConfigArgument,
    tokens: Annotated[
        str | None, typer.Option("--tokens", metavar="N", help="Budget, as in 20M. Default: 20 a parameter.")
    ] = None,
    hours: Annotated[float | None, typer.Option("--hours", metavar="H", help="Budget as time on this machine.")] = None,
    seq_len: Annotated[int | None, typer.Option("--seq-len", metavar="N", help="Tokens of a sequence.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", metavar="N", help="Sequences of a step.")] = None,
    micro_batch: Annotated[int | None, typer.Option("--micro-batch", metavar="N", help="Sequences at once.")] = None,
    optimiser: Annotated[str | None, typer.Option("--optimiser", metavar="muon|adamw", help="Of the matrices.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="auto|fp32|bf16", help="auto measures which is faster.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", metavar="FILE", help="A .toml as edgeprof train takes it.")
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to train.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", min=1, help="Threads.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a training step on random tokens, and say what the whole run takes and buys.

    Time and memory are measured. What over-training buys is predicted by a published fit, and says so.
    """
    from edgeprof.cli.output import print_json
    from edgeprof.cli.render_plan import print_plan
    from edgeprof.cli.train_options import given_settings
    from edgeprof.models.config import load_config
    from edgeprof.train.amounts import check_hours, parse_tokens
    from edgeprof.train.plan import plan_for, plan_json

    if tokens is not None and hours is not None:
        raise UsageError("--tokens, --hours: are two budgets; give one of them")
    options: dict[str, Any] = {
        "tokens": None if tokens is None else parse_tokens(tokens, field="--tokens"),
        "seq_len": seq_len, "batch": batch, "micro_batch": micro_batch, "optimiser": optimiser, "precision": precision,
    }  # fmt: skip
    found = plan_for(
        load_config(config),
        given_settings(settings, options),
        hours=None if hours is None else check_hours(hours, field="--hours"),
        device=device,
        threads=threads,
    )
    if as_json:
        print_json(plan_json(found))
    else:
        print_plan(found)
