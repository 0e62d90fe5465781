"""An architecture: the configuration that is written, searched for, trained, predicted and exported.

In a file it is TOML or JSON: a few global fields, and ``[[layers]]``, each with a ``mixer`` and an ``ffn`` (an operator's name
as ``op`` and its own dimensions) and how many times in a row it comes (``count``).
"""

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprof.core.canonical import canonical_json
from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.core.toml import toml_value
from edgeprof.models.block import BlockSpec, block_of, describe_part, part_of
from edgeprof.operators.base import MAX_SIZE, NORM_EPSILON, Dims, OperatorSpec

if TYPE_CHECKING:
    from edgeprof.models.schema import ConfigFile

CONFIG_SCHEMA_VERSION = 1
"""Version of a configuration file."""

MAX_LAYERS = 1024
"""More blocks than this are a mistake: the deepest language models have a few hundred."""

LETTERS = {"short_conv": "C", "swa": "S", "gqa": "G"}
"""The mixers that a model may have, and the letters that stand for them in a pattern."""

MIXERS = tuple(LETTERS)
FFNS = ("swiglu", "geglu")

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchConfig:
    """A decoder: d_model, vocabulary and its tying, and the blocks in order.

    ``norm_eps`` is every norm's epsilon, ``embedding_scale`` what an embedded token is multiplied with (Gemma: the root of
    d_model), ``max_context`` the longest context that it is meant for. Token ids may be unknown.
    """

    name: str = "model"
    d_model: int
    vocab: int
    tied: bool = True
    norm_eps: float = NORM_EPSILON
    embedding_scale: float = 1.0
    sandwich_norm: bool = False
    max_context: int = 32_768
    bos_token: int | None = None
    eos_token: int | None = None
    pad_token: int | None = None
    layers: tuple[BlockSpec, ...]

    @property
    def pattern(self) -> str:
        """The mixers as letters: C short_conv, S swa, G gqa."""
        return "".join(LETTERS[layer.mixer.name] for layer in self.layers)


def make_layer(config_eps: float, sandwich: bool, mixer: OperatorSpec, ffn: OperatorSpec) -> BlockSpec:
    """A block whose QK-norms, if it has any, share the model's epsilon."""
    if mixer.dims().get("qk_norm"):
        mixer = part_of(mixer.width(), describe_part(mixer) | {"eps": config_eps})
    return block_of(mixer, ffn, eps=config_eps, sandwich=sandwich)


def load_config(source: str) -> ArchConfig:
    """The configuration in a ``.toml`` or ``.json`` file, or the preset of that name.

    Raises:
        UsageError: there is none, or it is wrong: names the field and the fix.
    """
    if source in preset_names():
        return read_config(PRESETS / f"{source}.toml")
    path = Path(source)
    if path.suffix not in (".toml", ".json") and not path.is_dir():
        meant = did_you_mean(source[:80], preset_names())
        raise UsageError(f"config {source[:80]!r}: no .toml or .json file, and no preset; {meant}")
    return read_config(path)


def read_config(path: Path) -> ArchConfig:
    """Reads and checks a configuration file.

    Raises:
        UsageError: it cannot be read, or a field is wrong.
    """
    from edgeprof.models.schema import parse_file

    return from_file(parse_file(path), path.name, default_name=path.stem)


def from_file(file: "ConfigFile", label: str, *, default_name: str) -> ArchConfig:
    """The configuration of a parsed file; operators' own checks come back with the field's path.

    Raises:
        UsageError: a dimension does not fit, a token is not in the vocabulary, or there are too many layers.
    """
    layers: list[BlockSpec] = []
    for index, layer in enumerate(file.layers):
        field = f"{label}: layers[{index}]"
        if len(layers) + layer.count > MAX_LAYERS:
            raise UsageError(f"{field}.count: makes more than {MAX_LAYERS} blocks in all; use a smaller one")
        mixer = _part(layer.mixer, MIXERS, file, f"{field}.mixer")
        ffn = _part(layer.ffn, FFNS, file, f"{field}.ffn")
        layers += [make_layer(file.norm_eps, file.sandwich_norm, mixer, ffn)] * layer.count
    for name in ("bos_token", "eos_token", "pad_token"):
        token = getattr(file, name)
        if token is not None and token >= file.vocab:
            raise UsageError(f"{label}: {name}: {token} is not below vocab = {file.vocab}; correct one of them")
    fields = file.model_dump(exclude={"schema_version", "layers", "name", "provenance"})
    return ArchConfig(name=file.name or default_name, layers=tuple(layers), **fields)


def _part(described: Dims, allowed: tuple[str, ...], file: "ConfigFile", field: str) -> OperatorSpec:
    """The operator that a ``mixer`` or ``ffn`` table describes.

    Raises:
        UsageError: it is none of the allowed, or a dimension is unknown, missing or does not fit.
    """
    op = described.get("op")
    if op is None:
        raise UsageError(f"{field}.op: is missing; name {' or '.join(allowed)}")
    if op not in allowed:
        raise UsageError(f"{field}.op: {op!r:.80} is none; {did_you_mean(f'{op!s:.80}', list(allowed))}")
    for name in ("d_model", "eps"):
        if name in described:
            raise UsageError(
                f"{field}.{name}: is the whole model's; write {'norm_eps' if name == 'eps' else name} at the top"
            )
    for name, value in described.items():
        if isinstance(value, int) and not -MAX_SIZE <= value <= MAX_SIZE:
            raise UsageError(f"{field}.{name}: is not a size; use 1 to {MAX_SIZE}")
    try:
        return part_of(file.d_model, described)
    except UsageError as error:
        raise UsageError(f"{field}{str(error).removeprefix(str(op)):.200}") from None


def to_document(config: ArchConfig) -> dict[str, Any]:
    """The configuration as a file's content: equal neighbours are one layer with a count; what has its default is left out."""
    document: dict[str, Any] = {"schema_version": CONFIG_SCHEMA_VERSION, "name": config.name}
    document |= {"d_model": config.d_model, "vocab": config.vocab, "tied": config.tied}
    plain = ArchConfig(d_model=1, vocab=1, layers=())
    for name in ("norm_eps", "embedding_scale", "sandwich_norm", "max_context", "bos_token", "eos_token", "pad_token"):
        if getattr(config, name) != getattr(plain, name):
            document[name] = getattr(config, name)
    document["layers"] = list(_layer_documents(config.layers))
    return document


def _layer_documents(layers: tuple[BlockSpec, ...]) -> Iterator[dict[str, Any]]:
    for layer, same in groupby(layers):
        count = len(list(same))
        mixer = {n: v for n, v in describe_part(layer.mixer).items() if n != "eps"}
        yield ({"count": count} if count > 1 else {}) | {"mixer": mixer, "ffn": describe_part(layer.ffn)}


def config_to_json(config: ArchConfig) -> str:
    """The canonical JSON of what a configuration computes: without its name, its token ids and its longest context."""
    ignored = ("name", "max_context", "bos_token", "eos_token", "pad_token")
    return canonical_json({n: v for n, v in to_document(config).items() if n not in ignored})


@lru_cache(maxsize=256)
def config_from_json(text: str) -> ArchConfig:
    """The configuration that ``config_to_json`` wrote, named by its default.

    Raises:
        UsageError: the text is no configuration.
    """
    from edgeprof.models.schema import parse_document

    return from_file(parse_document(json.loads(text), "config"), "config", default_name="model")


def config_text(config: ArchConfig, path: Path) -> str:
    """The configuration as TOML or JSON, as the file's suffix asks.

    Raises:
        UsageError: the suffix is another one.
    """
    if path.suffix == ".toml":
        return to_toml(config)
    if path.suffix == ".json":
        return json.dumps(to_document(config), indent=2) + "\n"
    raise UsageError(f"{path}: a configuration's name ends in .toml or .json")


def to_toml(config: ArchConfig) -> str:
    """The configuration as TOML, each layer's parts in a line of their own; read back to be sure."""
    document = to_document(config)
    lines = [f"{name} = {toml_value(value)}" for name, value in document.items() if name != "layers"]
    for layer in document["layers"]:
        lines += ["", "[[layers]]", *(f"{name} = {toml_value(value)}" for name, value in layer.items())]
    text = "\n".join(lines) + "\n"
    assert tomllib.loads(text) == document
    return text


def preset_names() -> list[str]:
    """Names of the shipped configurations."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


_PATTERN_ITEM = re.compile(r"(?P<open>\()|(?P<unit>[A-Z)])(?:x?(?P<count>[0-9]+))?|(?P<wrong>\S)")


def expand_pattern(pattern: str) -> str:
    """A pattern without its repeats: ``C2G``, ``Cx2G`` and ``(CCG)x4`` are written out.

    Raises:
        UsageError: it cannot be read, a letter is unknown, or it has no layers or too many.
    """
    if len(pattern) > 4 * MAX_LAYERS:
        raise UsageError(f"pattern: is longer than {4 * MAX_LAYERS} characters; write repeats as in (CCG)x4")
    groups = [""]
    for item in _PATTERN_ITEM.finditer(pattern):
        unit = item["unit"]
        if item["open"]:
            groups.append("")
            continue
        if unit == ")" and len(groups) == 1:
            raise UsageError("pattern: a ) has no (; correct it")
        if unit != ")" and unit not in LETTERS.values():
            wrong = unit or item["wrong"]
            raise UsageError(
                f"pattern: {wrong!r} is no mixer; write C for short_conv, S for swa, G for gqa, as in CCGCCSCG or (CCG)x4"
            )
        count = int(item["count"] or 1)
        layers = groups.pop() if unit == ")" else unit
        if count < 1 or len(groups[-1]) + len(layers) * count > MAX_LAYERS:
            raise UsageError(f"pattern: makes no layers, or more than {MAX_LAYERS}; correct the repeats")
        groups[-1] += layers * count
    if len(groups) > 1:
        raise UsageError("pattern: a ( has no ); correct it")
    if not groups[0]:
        raise UsageError("pattern: is empty; write C for short_conv, S for swa, G for gqa, as in CCGCCSCG")
    return groups[0]


def config_of_pattern(
    pattern: str, dims: Dims, *, name: str, ffn: str = "swiglu", d_ffs: Sequence[int] = (), **fields: Any
) -> ArchConfig:
    """The configuration of a pattern of letters, each mixer taking what it has of ``dims``.

    ``d_ff`` is in ``dims``, or ``d_ffs`` has one for each layer. ``fields`` are ArchConfig's own, d_model and vocab among them.

    Raises:
        UsageError: a letter is unknown, a dimension is missing or does not fit.
    """
    from edgeprof.models.schema import own_dims, parse_document

    letters = expand_pattern(pattern)
    if ffn not in FFNS:
        raise UsageError(f"ffn: {ffn!r:.80} is none; {did_you_mean(ffn[:80], list(FFNS))}")
    if d_ffs and len(d_ffs) != len(letters):
        raise UsageError(f"d_ff: {len(d_ffs)} values for {len(letters)} layers; give one, or one for each layer")
    by_letter = {letter: own_dims(mixer, dims) for mixer, letter in LETTERS.items()}
    feed_forwards = [own_dims(ffn, dims | {"d_ff": d_ff}) for d_ff in d_ffs] or [own_dims(ffn, dims)] * len(letters)
    layers = [{"mixer": by_letter[m], "ffn": f} for m, f in zip(letters, feed_forwards, strict=True)]
    document = {"schema_version": CONFIG_SCHEMA_VERSION, "name": name, **fields, "layers": layers}
    return from_file(parse_document(document, "model"), "model", default_name=name)
