"""``edgeprof presets``: the configurations that are shipped."""

from typing import Annotated, Any

import typer

from edgeprof.cli.model_options import ConfigOutOption, ForceOption
from edgeprof.cli.options import JsonOption, completer
from edgeprof.core.errors import UsageError


def _names() -> list[str]:
    from edgeprof.models.config import preset_names

    return preset_names()


def presets(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One preset, as TOML.", autocompletion=completer(_names))
    ] = None,
    out: ConfigOutOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the shipped configurations, or print one of them."""
    from edgeprof.cli.model_options import hand_over
    from edgeprof.cli.output import print_json
    from edgeprof.core.registry import did_you_mean
    from edgeprof.models.config import load_config

    if name is not None:
        if name not in _names():
            raise UsageError(f"unknown preset {name!r:.80}: {did_you_mean(name[:80], _names())}")
        hand_over(load_config(name), out, force=force, as_json=as_json)
        return
    if out is not None:
        raise UsageError("--out: name the preset to write, as in edgeprof presets lfm2-350m --out my.toml")
    rows = [describe(preset) for preset in _names()]
    if as_json:
        print_json({"presets": rows})
    else:
        _print(rows)


def describe(preset: str) -> dict[str, Any]:
    """A preset's layers and sizes."""
    from edgeprof.models.accounting import embedding_parameters, embedding_share, parameters
    from edgeprof.models.config import load_config

    config = load_config(preset)
    return {
        "name": preset,
        "pattern": config.pattern,
        "layers": len(config.layers),
        "d_model": config.d_model,
        "vocab": config.vocab,
        "parameters": parameters(config),
        "embedding_parameters": embedding_parameters(config),
        "embedding_share": embedding_share(config),
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from edgeprof.cli.output import make_table, print_table

    numbers = "layers d_model vocab parameters embedding"
    table = make_table("presets: C short_conv, S swa, G gqa", f"name pattern {numbers}", right=numbers)
    for row in rows:
        sizes = [f"{row[c]:,}" for c in ("layers", "d_model", "vocab", "parameters")]
        table.add_row(row["name"], row["pattern"], *sizes, f"{row['embedding_share']:.2%}")
    print_table(table)
