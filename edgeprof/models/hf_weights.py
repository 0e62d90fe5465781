"""Where a model's weights are in a Hugging Face checkpoint, family by family: names, layouts, and what is folded in.

Gemma norms by ``1 + weight`` and divides scores by the root of ``query_pre_attn_scalar``; both become part of the scales here.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from edgeprof.models.config import ArchConfig
from edgeprof.models.hf_families import Gemma3Config, HfConfig, Lfm2Config, Lfm3Config
from edgeprof.models.model import model_of
from edgeprof.operators.arrays import Array, Weights

PREFIXES = ("model.", "language_model.model.", "model.language_model.", "")
"""What the text model's names may begin with: alone, inside a multimodal model (saved or in memory), or without its head."""

NOT_TEXT = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
"""What the names of a multimodal model's other parts begin with."""

COMMON = {
    "embedding.table": "embed_tokens",
    "mixer.w_q": "self_attn.q_proj",
    "mixer.w_k": "self_attn.k_proj",
    "mixer.w_v": "self_attn.v_proj",
    "mixer.w_o": "self_attn.o_proj",
    "mixer.q_norm": "self_attn.q_norm",
    "mixer.k_norm": "self_attn.k_norm",
}

LLAMA = COMMON | {
    "mixer_norm.norm": "input_layernorm",
    "ffn_norm.norm": "post_attention_layernorm",
    "ffn.w_gate": "mlp.gate_proj",
    "ffn.w_up": "mlp.up_proj",
    "ffn.w_down": "mlp.down_proj",
    "head.norm": "norm",
}

GEMMA3 = LLAMA | {
    "mixer_post.norm": "post_attention_layernorm",
    "ffn_norm.norm": "pre_feedforward_layernorm",
    "ffn_post.norm": "post_feedforward_layernorm",
}

LFM3 = COMMON | {
    "mixer.w_b": "conv.in_proj",
    "mixer.w_c": "conv.in_proj",
    "mixer.w_h": "conv.in_proj",
    "mixer.kernel": "conv.conv",
    "mixer.w_out": "conv.out_proj",
    "mixer_norm.norm": "operator_norm",
    "mixer_post.norm": "post_operator_norm",
    "ffn_norm.norm": "ffn_norm",
    "ffn_post.norm": "post_ffn_norm",
    "ffn.w_gate": "feed_forward.w1",
    "ffn.w_up": "feed_forward.w3",
    "ffn.w_down": "feed_forward.w2",
    "head.norm": "embedding_norm",
}

LFM2 = LFM3 | {
    "mixer.w_o": "self_attn.out_proj",
    "mixer.q_norm": "self_attn.q_layernorm",
    "mixer.k_norm": "self_attn.k_layernorm",
}

THIRDS = {"mixer.w_b": 0, "mixer.w_c": 1, "mixer.w_h": 2}
"""Thirds of the short convolution's ``in_proj``, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A weight's tensor in a checkpoint, the shape that it must have, and how the weight comes from it.

    It is a ``third`` of the rows, or the axes are turned where it is a ``kernel``; then plus ``offset``, times ``scale``.
    """

    tensor: str
    shape: tuple[int, ...]
    third: int | None = None
    kernel: bool = False
    offset: float = 0.0
    scale: float = 1.0

    def rows(self) -> slice:
        """The tensor's rows that are this weight."""
        if self.third is None:
            return slice(None)
        size = self.shape[0] // 3
        return slice(self.third * size, (self.third + 1) * size)

    def weight(self, values: Array) -> Array:
        """The weight, from its rows of the tensor."""
        array = values[:, 0].T if self.kernel else values
        if self.offset or self.scale != 1:
            array = (array + np.float32(self.offset)) * np.float32(self.scale)
        return np.ascontiguousarray(array)


def text_prefix(names: Collection[str]) -> str:
    """What the text model's names begin with in a checkpoint that holds ``names``."""
    return next((p for p in PREFIXES if f"{p}embed_tokens.weight" in names), PREFIXES[0])


def sources(config: ArchConfig, hf: HfConfig, prefix: str = PREFIXES[0]) -> dict[str, Source]:
    """Where each of the model's weights is, by its name here."""
    table = _table(hf)
    found = {}
    for name, weight in model_of(config).weights().items():
        part, layer = name, ""
        if name.startswith("layers."):
            _, index, part = name.split(".", 2)
            layer = f"layers.{index}."
        inside = name != "head.w_vocab"
        tensor = f"{prefix}{layer}{table[part]}.weight" if inside else head_tensor(prefix)
        found[name] = _source(tensor, part, weight.shape, hf)
    return found


def head_tensor(prefix: str) -> str:
    """The projection onto the vocabulary, where it is not tied: beside the text model."""
    return "language_model.lm_head.weight" if prefix == "language_model.model." else "lm_head.weight"


def _table(hf: HfConfig) -> dict[str, str]:
    if isinstance(hf, Gemma3Config):
        return GEMMA3
    if isinstance(hf, Lfm3Config):
        return LFM3
    return LFM2 if isinstance(hf, Lfm2Config) else LLAMA


def _source(tensor: str, part: str, shape: tuple[int, ...], hf: HfConfig) -> Source:
    if part in THIRDS:
        return Source(tensor=tensor, shape=(3 * shape[0], shape[1]), third=THIRDS[part])
    if part == "mixer.kernel":
        return Source(tensor=tensor, shape=(shape[1], 1, shape[0]), kernel=True)
    if isinstance(hf, Gemma3Config) and part.endswith("norm"):
        head_dim = hf.head_dim or 0
        scale = math.sqrt(head_dim / hf.query_pre_attn_scalar) if part == "mixer.q_norm" else 1.0
        return Source(tensor=tensor, shape=shape, offset=1.0, scale=scale)
    return Source(tensor=tensor, shape=shape)


def from_hf(found: dict[str, Source], read: Callable[[str, slice], Array]) -> Weights:
    """The weights by their names here; ``read`` gives rows of a tensor in fp32."""
    return {name: source.weight(read(source.tensor, source.rows())) for name, source in found.items()}


def to_hf(found: dict[str, Source], weights: Weights) -> Weights:
    """The checkpoint's tensors; only for families in which nothing is folded in."""
    tensors = {}
    for tensor, group in groupby(found, key=lambda name: found[name].tensor):
        names = list(group)
        whole = np.concatenate([weights[name] for name in names])
        tensors[tensor] = whole.T[:, None] if found[names[0]].kernel else whole
    return tensors
