"""Writes a model as a Hugging Face folder that ``AutoModelForCausalLM.from_pretrained`` loads: Lfm2, or Lfm3 where it must be."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig, config_to_json
from edgeprof.models.hf_config import parse_hf_config, read_hf_config
from edgeprof.models.hf_families import CONV, FULL, SLIDING
from edgeprof.models.hf_weights import sources, to_hf
from edgeprof.models.weights import WEIGHTS_FILE, check_weights, save_weights
from edgeprof.operators.arrays import Weights
from edgeprof.operators.base import OperatorSpec

LAYER_TYPES = {"short_conv": CONV, "swa": SLIDING, "gqa": FULL}


def save_hf(config: ArchConfig, weights: Weights, folder: Path) -> None:
    """Writes config.json and model.safetensors in fp32: an Lfm2 model, or Lfm3 with sliding attention or sandwich norms.

    Raises:
        UsageError: these families cannot express the model, the weights are another model's, or the folder cannot be written.
    """
    document = hf_document(config)
    check_weights(weights, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}") from None
    assert config_to_json(read_hf_config(folder)) == config_to_json(config), "what was written reads as another model"
    _, hf = parse_hf_config(folder)
    save_weights(to_hf(sources(config, hf), weights), folder / WEIGHTS_FILE)


def hf_document(config: ArchConfig) -> dict[str, Any]:
    """The config.json of a model.

    Raises:
        UsageError: names the field that the families cannot express, or have once for all layers.
    """
    _check_global(config)
    mixers = [layer.mixer for layer in config.layers]
    attention = [m for m in mixers if m.name != "short_conv"]
    heads = {
        "num_attention_heads": _shared("n_heads", attention, 1),
        "num_key_value_heads": _shared("n_kv_heads", attention, 1),
        "head_dim": _shared("head_dim", attention, config.d_model),
    }
    document = {
        "vocab_size": config.vocab,
        "hidden_size": config.d_model,
        "intermediate_size": _shared("d_ff", (layer.ffn for layer in config.layers), 0),
        "num_hidden_layers": len(config.layers),
        **heads,
        "max_position_embeddings": config.max_context,
        "norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "conv_bias": False,
        "conv_L_cache": _shared("kernel_size", (m for m in mixers if m.name == "short_conv"), 3),
        "layer_types": [LAYER_TYPES[m.name] for m in mixers],
        "bos_token_id": config.bos_token,
        "eos_token_id": config.eos_token,
        "pad_token_id": config.pad_token,
        "dtype": "float32",
        # transformers asks an attention layer how many tokens its cache holds; without one it must recompute.
        "use_cache": bool(attention),
    }
    thetas = {kind: _theta(mixers, op) for op, kind in LAYER_TYPES.items() if op != "short_conv"}
    if config.sandwich_norm or any(m.name == "swa" for m in mixers):
        return {"model_type": "lfm3", "architectures": ["Lfm3ForCausalLM"]} | document | _lfm3(config, mixers, thetas)
    lfm2 = {"block_auto_adjust_ff_dim": False, "rope_parameters": thetas[FULL]}
    return {"model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"]} | document | lfm2


def _lfm3(config: ArchConfig, mixers: list[OperatorSpec], thetas: dict[str, Any]) -> dict[str, Any]:
    return {
        "sliding_window": _shared("window", (m for m in mixers if m.name == "swa"), 1),
        "use_sandwich_norm": config.sandwich_norm,
        "use_attention_gate": False,
        "attention_bias": False,
        "rope_parameters": thetas,
    }


def _theta(mixers: list[OperatorSpec], op: str) -> dict[str, Any]:
    theta = _shared("rope_theta", (m for m in mixers if m.name == op), 1_000_000.0)
    return {"rope_type": "default", "rope_theta": theta}


def _check_global(config: ArchConfig) -> None:
    """Checks what the families have in one way only.

    Raises:
        UsageError: names the field.
    """
    if config.embedding_scale != 1:
        raise UsageError(f"embedding_scale: {config.embedding_scale}: Hugging Face's Lfm2 and Lfm3 do not scale; use 1")
    for index, layer in enumerate(config.layers):
        if layer.ffn.name != "swiglu":
            raise UsageError(f"layers[{index}].ffn.op: {layer.ffn.name}: Hugging Face's Lfm2 and Lfm3 have swiglu only")
        if layer.mixer.dims().get("qk_norm") is False:
            raise UsageError(
                f"layers[{index}].mixer.qk_norm: false: Hugging Face's Lfm2 and Lfm3 always norm; use true"
            )


def _shared(name: str, specs: Iterable[OperatorSpec], default: float) -> Any:
    """The dimension that all have in common; ``default`` where there are none.

    Raises:
        UsageError: they differ.
    """
    values = {spec.dims()[name] for spec in specs}
    if len(values) > 1:
        given = " and ".join(str(v) for v in sorted(values, key=float)[:2])
        raise UsageError(f"layers: {name}: {given}: Hugging Face's Lfm2 and Lfm3 have one for all layers; use one")
    return values.pop() if values else default
