"""Which of llama.cpp's architectures computes what a config says, or the field that none of them has.

Each is a fixed form with numbers; they are tried by what the layers are made of, and checked field by field.

Source: llama.cpp's src/models/{lfm2,qwen3,llama,gemma3}.cpp.
"""

import math
from dataclasses import dataclass
from typing import Any

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig
from edgeprof.operators.base import OperatorSpec

MAX_LAYERS = 512
"""Source: ``LLAMA_MAX_LAYERS`` in llama.cpp's llama-hparams.h."""

GEMMA_27B_LAYERS = 62
"""llama.cpp takes a gemma3 of this depth for the 27B model, whose attention scale is another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What one of llama.cpp's architectures fixes, and what it calls the final norm."""

    name: str
    mixers: tuple[str, ...]
    ffn: str = "swiglu"
    qk_norm: bool = True
    sandwich: bool = False
    scaled: bool = False
    final_norm: str = "output_norm"


LFM2 = Architecture(name="lfm2", mixers=("short_conv", "gqa", "swa"), final_norm="token_embd_norm")
QWEN3 = Architecture(name="qwen3", mixers=("gqa",))
LLAMA = Architecture(name="llama", mixers=("gqa",), qk_norm=False)
GEMMA3 = Architecture(name="gemma3", mixers=("gqa", "swa"), ffn="geglu", sandwich=True, scaled=True)


def architecture(config: ArchConfig) -> Architecture:
    """The architecture of llama.cpp that computes what the config says.

    Raises:
        UsageError: there is none: names the first field in the way.
    """
    mixers = {layer.mixer.name for layer in config.layers}
    if "short_conv" in mixers:
        arch = LFM2
    elif config.sandwich_norm or config.embedding_scale != 1 or any(b.ffn.name == "geglu" for b in config.layers):
        arch = GEMMA3
    elif all(b.mixer.dims()["qk_norm"] for b in config.layers):
        arch = QWEN3
    else:
        arch = LLAMA
    _check_model(config, arch)
    _check_layers(config, arch)
    return arch


def _refuse(arch: Architecture, field: str, reason: str) -> UsageError:
    return UsageError(f"config: {field}: {reason} in llama.cpp's {arch.name}; change it, or export to hf, onnx or pte")


def _check_model(config: ArchConfig, arch: Architecture) -> None:
    scale = math.sqrt(config.d_model) if arch.scaled else 1.0
    if not math.isclose(config.embedding_scale, scale, rel_tol=1e-6):
        raise _refuse(arch, "embedding_scale", f"is {config.embedding_scale:g}, and must be {scale:g}")
    if config.sandwich_norm != arch.sandwich:
        raise _refuse(arch, "sandwich_norm", f"must be {str(arch.sandwich).lower()}")
    if len(config.layers) > MAX_LAYERS:
        raise _refuse(arch, "layers", f"{len(config.layers)} blocks are more than the {MAX_LAYERS} that fit")
    if arch is GEMMA3 and len(config.layers) == GEMMA_27B_LAYERS:
        raise _refuse(arch, "layers", f"{GEMMA_27B_LAYERS} blocks mean another attention scale")
    if arch is LFM2 and all(layer.mixer.name == "short_conv" for layer in config.layers):
        raise _refuse(arch, "layers", "no layer attends, and one must")


def _check_layers(config: ArchConfig, arch: Architecture) -> None:
    for i, layer in enumerate(config.layers):
        if layer.mixer.name not in arch.mixers:
            raise _refuse(arch, f"layers[{i}].mixer.op", f"{layer.mixer.name} has no form")
        if layer.ffn.name != arch.ffn:
            raise _refuse(arch, f"layers[{i}].ffn.op", f"{layer.ffn.name} has no form")
        if layer.mixer.dims().get("qk_norm", arch.qk_norm) != arch.qk_norm:
            raise _refuse(arch, f"layers[{i}].mixer.qk_norm", f"must be {str(arch.qk_norm).lower()}")
    _one(config, arch, "ffn", "d_ff")
    heads, size = (_one(config, arch, "mixer", name) for name in ("n_heads", "head_dim"))
    if arch is not LFM2:
        _one(config, arch, "mixer", "n_kv_heads")
        for mixer in arch.mixers:
            _one(config, arch, "mixer", "rope_theta", of=mixer)
        _one(config, arch, "mixer", "window")
        return
    _one(config, arch, "mixer", "rope_theta")
    if heads * size != config.d_model:
        i = next(i for i, layer in enumerate(config.layers) if layer.mixer.name != "short_conv")
        raise _refuse(arch, f"layers[{i}].mixer.n_heads", f"n_heads times head_dim must be d_model = {config.d_model}")
    if _one(config, arch, "mixer", "kernel_size") < 2:
        raise _refuse(arch, "layers.mixer.kernel_size", "1 is too short")
    _check_window(config, arch)


def _check_window(config: ArchConfig, arch: Architecture) -> None:
    """In lfm2 one window holds for all attention."""
    windows = {i: layer.mixer.dims().get("window") for i, layer in enumerate(config.layers) if _attends(layer.mixer)}
    first = next(iter(windows.values()))
    for i, window in windows.items():
        if window != first:
            what = "op" if None in (window, first) else "window"
            raise _refuse(
                arch, f"layers[{i}].mixer.{what}", "all attention layers must be gqa, or swa with one window,"
            )


def _one(config: ArchConfig, arch: Architecture, part: str, name: str, *, of: str | None = None) -> Any:
    """The value of a dimension that all layers which have it must share (0 if none has it).

    Raises:
        UsageError: two layers differ.
    """
    first: Any = None
    for i, layer in enumerate(config.layers):
        spec: OperatorSpec = getattr(layer, part)
        value = spec.dims().get(name) if of in (None, spec.name) else None
        if value is not None and first is not None and value != first:
            raise _refuse(
                arch, f"layers[{i}].{part}.{name}", f"is {value} after {first}, and one must serve all layers"
            )
        first = value if first is None else first
    return first or 0


def _attends(mixer: OperatorSpec) -> bool:
    return mixer.name != "short_conv"
