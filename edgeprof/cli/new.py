"""``edgeprof new``: a configuration from a pattern of layers, or from a Hugging Face model's."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprof.cli.model_options import ConfigJsonOption, ConfigOutOption, ForceOption
from edgeprof.cli.options import completer
from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from edgeprof.models.config import ArchConfig
    from edgeprof.operators.base import Dims

LAYERS, MODEL = "Layers", "The whole model"

FLAGS = {
    "pattern": "--pattern",
    "n_heads": "--heads",
    "n_kv_heads": "--kv-heads",
    "head_dim": "--head-dim",
    "window": "--window",
    "kernel_size": "--kernel-size",
    "rope_theta": "--rope-theta",
    "qk_norm": "--qk-norm",
    "d_ff": "--d-ff",
    "ffn": "--ffn",
    "d_model": "--d-model",
    "vocab": "--vocab",
    "tied": "--tied",
    "norm_eps": "--norm-eps",
    "sandwich_norm": "--sandwich-norm",
    "max_context": "--max-context",
    "name": "--name",
}
"""The option that gives each field of a configuration."""

MIXER_FIELDS = ("n_heads", "n_kv_heads", "head_dim", "window", "kernel_size", "rope_theta", "qk_norm")

_FIELD = re.compile(r"(?:model: )?(?:layers\[[0-9]+\]\.\w+\.)?(\w+): (.*)")


def _field(flag: str, help_text: str, panel: str = LAYERS, metavar: str | None = None, **more: Any) -> Any:
    """An option that gives a field of the configuration."""
    return typer.Option(flag, help=help_text, rich_help_panel=panel, metavar=metavar, show_default=False, **more)


def _size(flag: str, help_text: str, panel: str = LAYERS) -> Any:
    return _field(flag, help_text, panel, "N")


Size = str | None
FfnOption = _field(
    "--ffn",
    "Feed-forward. Default: swiglu.",
    metavar="swiglu|geglu",
    autocompletion=completer(lambda: ["swiglu", "geglu"]),
)


def new(
    pattern: Annotated[str | None, _field("--pattern", "C short_conv, S swa, G gqa; repeats as in (CCG)x4.")] = None,
    d_model: Annotated[Size, _size("--d-model", "Width of the residual stream.", MODEL)] = None,
    vocab: Annotated[Size, _size("--vocab", "Tokens in the vocabulary.", MODEL)] = None,
    d_ff: Annotated[
        list[str] | None, _field("--d-ff", "Width of the feed-forwards, one or one a layer.", metavar="N[,N...]")
    ] = None,
    heads: Annotated[Size, _size("--heads", "Query heads of S and G.")] = None,
    kv_heads: Annotated[Size, _size("--kv-heads", "Key and value heads of S and G.")] = None,
    head_dim: Annotated[Size, _size("--head-dim", "Width of a head.")] = None,
    window: Annotated[Size, _size("--window", "Tokens that S sees.")] = None,
    kernel_size: Annotated[Size, _size("--kernel-size", "Taps of C. Default: 3.")] = None,
    rope_theta: Annotated[float | None, _field("--rope-theta", "Base of RoPE. Default: 1e6.", metavar="X")] = None,
    qk_norm: Annotated[bool | None, _field("--qk-norm/--no-qk-norm", "Norm queries and keys. Default: on.")] = None,
    ffn: Annotated[str | None, FfnOption] = None,
    tied: Annotated[
        bool | None, _field("--tied/--untied", "The head is the embedding's table. Default: tied.", MODEL)
    ] = None,
    norm_eps: Annotated[float | None, _field("--norm-eps", "Epsilon of the norms. Default: 1e-5.", MODEL, "X")] = None,
    sandwich_norm: Annotated[
        bool | None, _field("--sandwich-norm", "Norms behind mixer and feed-forward too.", MODEL)
    ] = None,
    max_context: Annotated[
        Size, _size("--max-context", "Longest context it is meant for. Default: 32k.", MODEL)
    ] = None,
    name: Annotated[str | None, _field("--name", "What it is called. Default: as the file.", MODEL)] = None,
    from_hf: Annotated[
        Path | None,
        typer.Option("--from-hf", metavar="DIR|config.json", help="Read a Hugging Face model's configuration."),
    ] = None,
    out: ConfigOutOption = None,
    force: ForceOption = False,
    as_json: ConfigJsonOption = False,
) -> None:
    """Write a configuration, from a pattern of layers or a Hugging Face model's.

    Prints TOML without --out. "edgeprof inspect" tells what the model costs on paper.
    """
    from edgeprof.cli.model_options import hand_over, tell_size

    given: dict[str, Any] = {
        "pattern": pattern,
        "d_model": d_model,
        "vocab": vocab,
        "d_ff": d_ff,
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "head_dim": head_dim,
        "window": window,
        "kernel_size": kernel_size,
        "rope_theta": rope_theta,
        "qk_norm": qk_norm,
        "ffn": ffn,
        "tied": tied,
        "norm_eps": norm_eps,
        "sandwich_norm": sandwich_norm,
        "max_context": max_context,
    }
    given = {field: value for field, value in given.items() if value is not None}
    if from_hf is not None:
        config = converted(from_hf, given, name)
    else:
        stem = "model" if out is None else out.stem
        config = built(given, stem if name is None else name)
    hand_over(config, out, force=force, as_json=as_json)
    tell_size(config, config.name if out is None else str(out))


def converted(source: Path, given: dict[str, Any], name: str | None) -> "ArchConfig":
    """A Hugging Face model's configuration, under its own name or another.

    Raises:
        UsageError: it cannot be read, its family is unsupported, or an option contradicts it.
    """
    from edgeprof.models.config import from_file, to_document
    from edgeprof.models.hf_config import read_hf_config
    from edgeprof.models.schema import parse_document

    if given:
        raise UsageError(f"{FLAGS[next(iter(given))]}: --from-hf takes all of this from {source}; leave it out")
    config = read_hf_config(source)
    if name is None:
        return config
    try:
        return from_file(parse_document(to_document(config) | {"name": name}, "model"), "model", default_name=name)
    except UsageError as error:
        raise UsageError(_told_by_option(str(error))) from None


def built(given: dict[str, Any], name: str) -> "ArchConfig":
    """The configuration that the options describe.

    Raises:
        UsageError: names the option that is missing or wrong, and the fix.
    """
    from edgeprof.models.config import config_of_pattern, expand_pattern

    for field in ("pattern", "d_model", "vocab", "d_ff"):
        if field not in given:
            raise UsageError(f"{FLAGS[field]}: is missing; give it, or read a Hugging Face model with --from-hf")
    sized = {field: _sized(field, value) for field, value in given.items()}
    d_ffs = sized.pop("d_ff")
    dims: Dims = {field: sized.pop(field) for field in MIXER_FIELDS if field in sized}
    try:
        letters = expand_pattern(sized.pop("pattern"))
        _check_mixer_fields(letters, dims)
        if len(d_ffs) == 1:
            d_ffs *= len(letters)
        return config_of_pattern(letters, dims, d_ffs=d_ffs, name=name, **sized)
    except UsageError as error:
        raise UsageError(_told_by_option(str(error))) from None


def _sized(field: str, value: Any) -> Any:
    """An option's value as the configuration holds it: sizes as numbers, of the feed-forwards a list of them."""
    from edgeprof.cli.targets import one_size
    from edgeprof.core.ranges import split_list

    flag = FLAGS[field]
    if field == "d_ff":
        return [one_size(text, field=flag, what="size") for text in split_list(value, field=flag)]
    if isinstance(value, str) and field not in ("pattern", "ffn"):
        return one_size(value, field=flag, what="size")
    return value


def _check_mixer_fields(letters: str, dims: "Dims") -> None:
    """Checks that every dimension which a mixer needs is given, and each one given is some mixer's."""
    from dataclasses import MISSING, fields

    from edgeprof.models.config import LETTERS
    from edgeprof.operators.registry import OPERATORS

    mixers = {op: fields(OPERATORS.get(op)) for op, letter in LETTERS.items() if letter in letters}
    for op, own in mixers.items():
        for f in own:
            if f.default is MISSING and f.name != "d_model" and f.name not in dims:
                raise UsageError(f"{f.name}: is missing; {op} ({LETTERS[op]} in the pattern) needs it")
    for name in dims:
        if not any(f.name == name for own in mixers.values() for f in own):
            raise UsageError(f"{name}: no mixer of the pattern has it ({', '.join(mixers)}); leave it out")


def _told_by_option(message: str) -> str:
    """A message about a field of the configuration, as one about the option that gives it."""
    match = _FIELD.fullmatch(message)
    return f"{FLAGS[match[1]]}: {match[2]}" if match and match[1] in FLAGS else message
