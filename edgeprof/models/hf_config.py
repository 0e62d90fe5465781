"""Reads a Hugging Face config.json as an architecture, from the plain JSON: transformers is not needed."""

from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from edgeprof.core.errors import UsageError
from edgeprof.models.config import CONFIG_SCHEMA_VERSION, ArchConfig, from_file
from edgeprof.models.hf_families import ACTIVATIONS, FAMILIES, HfConfig, check_table
from edgeprof.models.schema import MAX_NAME, clipped, first_error, parse_document, read_document


def read_hf_config(path: Path) -> ArchConfig:
    """The architecture of a Hugging Face folder, or of the config.json itself.

    Raises:
        UsageError: there is none, the family is another one, or a field cannot be expressed: names it.
    """
    file, hf = parse_hf_config(path)
    try:
        return _to_config(hf, name=file.resolve().parent.name, label=str(file))
    except UsageError as error:
        message = str(error)
        raise UsageError(message if message.startswith(str(file)) else f"{file}: {message}") from None


def parse_hf_config(path: Path) -> tuple[Path, HfConfig]:
    """The config.json that ``path`` is or holds, and its content.

    Raises:
        UsageError: there is none, the family is another one, or a field is wrong.
    """
    file = path / "config.json" if path.is_dir() else path
    data = read_document(file, "name a Hugging Face folder or its config.json")
    if not isinstance(data, dict):
        raise UsageError(f"{file}: not a table of fields")
    try:
        return file, _family(data).model_validate(_text_model(data))
    except ValidationError as error:
        raise UsageError(f"{file}: {first_error(error)}") from None
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None


def family_of(hf: HfConfig) -> str:
    """The ``model_type`` of a parsed configuration."""
    return next(name for name, kind in FAMILIES.items() if kind is type(hf))


def _family(data: dict[str, Any]) -> type[HfConfig]:
    kind = data.get("model_type")
    if kind is None:
        raise UsageError("model_type: is missing; is it a Hugging Face configuration?")
    if data.get("quantization_config"):
        raise UsageError("quantization_config: quantised weights cannot be read; name the model in full precision")
    known = "gemma3_text" if kind == "gemma3" else kind
    if not isinstance(known, str) or known not in FAMILIES:
        raise UsageError(f"model_type: {clipped(kind)}: unsupported family; supported: gemma3, {', '.join(FAMILIES)}")
    return FAMILIES[known]


def _text_model(data: dict[str, Any]) -> dict[str, Any]:
    """The text model's fields: all, or in a multimodal file ``text_config`` with the tying that is said outside."""
    if data["model_type"] != "gemma3":
        return data
    text = data.get("text_config")
    check_table("text_config", text)
    tied = {"tie_word_embeddings": data["tie_word_embeddings"]} if "tie_word_embeddings" in data else {}
    return cast(dict[str, Any], text) | tied


def _to_config(hf: HfConfig, *, name: str, label: str) -> ArchConfig:
    hf.check()
    field, activation = hf.activation()
    if activation not in ACTIVATIONS:
        raise UsageError(f"{field}: {clipped(activation)} cannot be expressed; supported: {', '.join(ACTIVATIONS)}")
    ffn = {"op": ACTIVATIONS[activation], "d_ff": hf.d_ff()}
    document: dict[str, Any] = {
        "schema_version": CONFIG_SCHEMA_VERSION,
        "name": name[:MAX_NAME] or "model",
        "d_model": hf.hidden_size,
        "vocab": hf.vocab_size,
        "tied": hf.tied(),
        "norm_eps": hf.eps(),
        "embedding_scale": hf.embedding_scale(),
        "sandwich_norm": hf.sandwich_norm(),
        "max_context": hf.max_position_embeddings,
        "bos_token": hf.bos_token_id,
        "eos_token": hf.eos_token_id[0] if isinstance(hf.eos_token_id, list) and hf.eos_token_id else hf.eos_token_id,
        "pad_token": hf.pad_token_id,
        "layers": [{"mixer": hf.mixer(layer_type), "ffn": ffn} for layer_type in hf.layers()],
    }
    return from_file(parse_document(document, label), label, default_name="model")
