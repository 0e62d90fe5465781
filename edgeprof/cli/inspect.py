"""``edgeprof inspect``: what a model costs on paper, and the floor that memory sets for a token."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprof.cli.model_options import ConfigArgument
from edgeprof.cli.options import JsonOption, ResultsOption, completer, weight_dtypes
from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from edgeprof.cli.bandwidth import Bandwidth
    from edgeprof.cli.figures import Figure
    from edgeprof.models.accounting import TokenCost
    from edgeprof.models.config import ArchConfig

FLOOR = "Floor of a token"

NAME_WIDTH = 40
PATTERN_WIDTH = 60
"""Characters of a model's name and pattern for which a plot has room."""


def inspect(
    config: ConfigArgument,
    context: Annotated[
        list[str] | None,
        typer.Option(
            "--context", metavar="RANGE", help="Contexts in tokens. Default: 1k, 4k, 16k, to the model's longest."
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            help="Weight formats; WEIGHT/KV names the cache's too. Default: all.",
            autocompletion=completer(weight_dtypes),
        ),
    ] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option("--bandwidth", metavar="RATE", help="Memory bandwidth, as in 84.8GB/s.", rich_help_panel=FLOOR),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", metavar="ID", help="Take the measured roof of this stored device.", rich_help_panel=FLOOR
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, help="The roof measured with so many. Default: the fastest.", rich_help_panel=FLOOR
        ),
    ] = None,
    results: ResultsOption = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw state against context as .png, .svg or .html; replaced."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show parameters, embedding share, FLOPs, bytes and state of a model.

    Counted, not measured: FLOPs count a multiply-add as two, bytes are what a token must move at least once. The floor is
    these bytes over the memory bandwidth: given, or this device's measured roof where one is stored.
    """
    from edgeprof.cli.inspect_view import print_inspection
    from edgeprof.cli.output import print_json
    from edgeprof.models.config import load_config

    arch = load_config(config)
    contexts = _contexts(arch, context)
    costs = token_costs(arch, contexts, dtype)
    rate = _bandwidth(bandwidth, device, threads, results)
    if plot is not None:
        _draw(arch, plot)
    document = inspection(arch, costs, rate)
    if as_json:
        print_json(document)
    else:
        print_inspection(arch, document)


def _contexts(config: "ArchConfig", asked: list[str] | None) -> tuple[int, ...]:
    from edgeprof.core.ranges import parse_sizes
    from edgeprof.models.accounting import usual_contexts

    return usual_contexts(config) if asked is None else parse_sizes(asked, field="--context", what="context")


def token_costs(config: "ArchConfig", contexts: Sequence[int], asked: list[str] | None) -> "list[TokenCost]":
    """The cost of a token at each context in each format; all formats, or those asked for as WEIGHT or WEIGHT/KV.

    Raises:
        UsageError: a format is unknown.
    """
    from edgeprof.bench.plan import default_kv_dtype
    from edgeprof.bench.suite import split_dtype
    from edgeprof.core.ranges import split_list
    from edgeprof.models.accounting import token_cost

    names = weight_dtypes() if asked is None else dict.fromkeys(split_list(asked, field="--dtype"))
    pairs = [split_dtype(name) for name in names]
    return [
        token_cost(config, context=n, dtype=weight, kv_dtype=kv or default_kv_dtype(weight))
        for weight, kv in pairs
        for n in contexts
    ]


def _bandwidth(
    given: str | None, device: str | None, n_threads: int | None, results: Path | None
) -> "Bandwidth | None":
    from edgeprof.cli.bandwidth import given_bandwidth, measured_bandwidth
    from edgeprof.store import results_root

    if given is None:
        return measured_bandwidth(results_root(results), device, n_threads)
    if device is not None or n_threads is not None:
        raise UsageError("--bandwidth: contradicts --device and --threads, which name a measured roof; give one")
    return given_bandwidth(given)


def inspection(config: "ArchConfig", costs: "Sequence[TokenCost]", bandwidth: "Bandwidth | None") -> dict[str, Any]:
    """Everything that is shown, as one document; a floor is None where the bandwidth is not known."""
    from dataclasses import asdict

    from edgeprof.core.dtypes import KV_ITEMSIZE
    from edgeprof.models import accounting

    contexts = sorted({*accounting.usual_contexts(config, factor=2), *(c.context for c in costs)})
    return {
        "config": config.name,
        "pattern": config.pattern,
        "layers": len(config.layers),
        "d_model": config.d_model,
        "vocab": config.vocab,
        "tied": config.tied,
        "max_context": config.max_context,
        "parameters": accounting.parameters(config),
        "embedding_parameters": accounting.embedding_parameters(config),
        "embedding_share": accounting.embedding_share(config),
        "vocabulary_share": accounting.vocabulary_share(config),
        "parts": accounting.parameters_by_part(config),
        "weights": accounting.weight_costs(config),
        "tokens": [asdict(c) | _floor(c, bandwidth) for c in costs],
        "state": [_state(config, n, kv) for kv in KV_ITEMSIZE for n in contexts],
        "bandwidth": bandwidth,
    }


def _floor(cost: "TokenCost", bandwidth: "Bandwidth | None") -> dict[str, Any]:
    """The floor of a token, and whether all that it moves fits the device's cache, so that memory sets none."""
    from edgeprof.models.accounting import floor_ns

    if bandwidth is None:
        return {"floor_ns": None, "fits_cache": None}
    cache = bandwidth.cache_bytes
    return {
        "floor_ns": floor_ns(cost.bytes_moved, bandwidth.bytes_per_s),
        "fits_cache": None if cache is None else cost.bytes_moved <= cache,
    }


def _state(config: "ArchConfig", context: int, kv_dtype: str) -> dict[str, Any]:
    from edgeprof.models.accounting import state_by_mixer

    by_mixer = state_by_mixer(config, context=context, kv_dtype=kv_dtype)
    return {"context": context, "kv_dtype": kv_dtype, "state_bytes": sum(by_mixer.values()), "by_mixer": by_mixer}


def _draw(config: "ArchConfig", out: Path) -> None:
    from edgeprof.cli.files import check_target, write_whole
    from edgeprof.cli.plot import drawn, format_of

    file_format = format_of(out, field="--plot")
    check_target(out, field="--plot", force=True)
    figure = model_state_figure(config)
    write_whole(out, drawn(figure, file_format), field="--plot")
    typer.echo(f"{out}: {figure.title}", err=True)


def model_state_figure(config: "ArchConfig") -> "Figure":
    """The state of the whole model and of each kind of mixer against the context, an fp32 cache.

    Raises:
        UsageError: no mixer carries state.
    """
    from edgeprof.cli.figures import GREY, Figure, Panel, Series, byte_ticks, op_color, op_marker, token_ticks
    from edgeprof.cli.inspect_view import short_pattern
    from edgeprof.cli.model_options import printable
    from edgeprof.models.accounting import state_by_mixer, usual_contexts

    contexts = usual_contexts(config, factor=2)
    states = [state_by_mixer(config, context=n, kv_dtype="fp32") for n in contexts]
    totals = [sum(state.values()) for state in states]
    if not all(totals):
        raise UsageError("--plot: no mixer of this model carries state; there is nothing to draw")
    series = [
        Series(
            label=f"{op} x {sum(layer.mixer.name == op for layer in config.layers)}",
            kind="line",
            x=contexts,
            y=[state[op] for state in states],
            color=op_color(op),
            marker=op_marker(op),
        )
        for op in states[0]
        if states[0][op]
    ]
    if len(series) > 1:
        series.append(Series(label="all layers", kind="line", x=contexts, y=totals, color=GREY, marker="cross"))
    return Figure(
        title=f"State that {printable(config.name)[:NAME_WIDTH]} carries from token to token",
        subtitle=f"counted from the dimensions, not measured; batch 1, KV fp32; {short_pattern(config.pattern)[:60]}",
        x_label="context (tokens)",
        y_label="state (bytes)",
        panels=(Panel(title="", series=tuple(series)),),
        x_ticks=token_ticks(contexts),
        y_ticks=byte_ticks(series),
    )
