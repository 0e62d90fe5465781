"""Writes a model as GGUF, the file that llama.cpp runs: tensors under its names, and metadata.

Matrices are stored in the format asked for, vectors in F32, and the projection onto the vocabulary of a Q4_0 file in Q8_0
(llama.cpp's own quantiser takes Q6_K there, which the gguf package cannot write).

Source: llama.cpp's converters (conversion/*.py); the GGUF specification in ggml's docs/gguf.md.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig
from edgeprof.models.gguf_architecture import GEMMA3, LFM2, LLAMA, Architecture, architecture
from edgeprof.models.gguf_tokenizer import vocabulary
from edgeprof.models.model import model_of
from edgeprof.operators.base import Weight

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

    from edgeprof.operators.arrays import Array, Weights

DTYPES = ("F16", "Q8_0", "Q4_0", "F32")
"""Formats of a file's matrices."""

_BLOCK = 32
"""Values that share a scale in Q8_0 and Q4_0: rows of other lengths stay in F16."""


def write_gguf(
    config: ArchConfig,
    weights: "Weights",
    path: Path,
    *,
    dtype: str = "F16",
    tokenizer: Path | None = None,
    on_tensor: Callable[[str], None] = lambda name: None,
) -> list[str]:
    """Writes the file and returns what there is to know about it, a sentence each.

    ``weights`` are fp32 in torch's layouts; ``tokenizer`` is the folder that may hold a tokenizer.json; ``on_tensor`` is told
    each tensor written. One tensor at a time is quantised, so memory stays near the weights' own.

    Raises:
        UsageError: llama.cpp cannot express the config, or a value is beyond the format's range.
    """
    from gguf import GGUFWriter

    arch = architecture(config)
    vocab = vocabulary(config, tokenizer)
    tensors = list(_tensors(config, arch))
    types = {t.name: _type(t, config, dtype) for t in tensors}
    writer = GGUFWriter(path, arch.name)
    try:
        _add_metadata(writer, config, arch, dtype)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(vocab.pre)
        writer.add_token_list(vocab.tokens)
        writer.add_token_types(vocab.types)
        writer.add_token_merges(vocab.merges)
        writer.add_add_bos_token(vocab.add_bos)
        for t in tensors:
            _announce(writer, t, types[t.name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for t in tensors:
            writer.write_tensor_data(_encode(t.take(weights), types[t.name], t.name))
            on_tensor(t.name)
    finally:
        writer.close()
    return [f"llama.cpp's architecture {arch.name}", vocab.note, *_notes(config, arch, dtype)]


def count_tensors(config: ArchConfig) -> int:
    """How many tensors the file of a config has.

    Raises:
        UsageError: llama.cpp cannot express the config.
    """
    return sum(1 for _ in _tensors(config, architecture(config)))


def effective_weights(config: ArchConfig, weights: "Weights", *, dtype: str) -> "Weights":
    """The weights that a file of format ``dtype`` computes with: each as it comes back from its format, fp32."""
    from gguf.quants import dequantize

    effective: Weights = {}
    for t in _tensors(config, architecture(config)):
        kind = _type(t, config, dtype)
        for source in t.sources:  # formats round row by row, so stacking and reordering rows changes nothing
            effective[source] = dequantize(_encode(weights[source], kind, source), kind)
    return effective


def _add_metadata(writer: "GGUFWriter", config: ArchConfig, arch: Architecture, dtype: str) -> None:
    """Everything but the vocabulary and the tensors."""
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    mixers = [layer.mixer.dims() | {"op": layer.mixer.name} for layer in config.layers]
    attention = next(m for m in mixers if m["op"] != "short_conv")
    kv_heads = [int(m.get("n_kv_heads", 0)) for m in mixers]
    writer.add_name(config.name)
    writer.add_file_type(LlamaFileType["ALL_F32" if dtype == "F32" else f"MOSTLY_{dtype}"])
    if dtype.startswith("Q"):
        writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab)
    writer.add_context_length(config.max_context)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(len(config.layers))
    writer.add_feed_forward_length(int(config.layers[0].ffn.dims()["d_ff"]))
    writer.add_head_count(int(attention["n_heads"]))
    writer.add_head_count_kv(kv_heads if arch is LFM2 else kv_heads[0])
    head_dim = int(attention["head_dim"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    _add_rope_and_windows(writer, arch, mixers)
    if arch is LFM2:
        writer.add_shortconv_l_cache(int(next(m["kernel_size"] for m in mixers if m["op"] == "short_conv")))
    if config.bos_token is not None:
        writer.add_bos_token_id(config.bos_token)
    if config.eos_token is not None:
        writer.add_eos_token_id(config.eos_token)
    if config.pad_token is not None:
        writer.add_pad_token_id(config.pad_token)


def _add_rope_and_windows(writer: "GGUFWriter", arch: Architecture, mixers: Sequence[dict[str, Any]]) -> None:
    theta = {m["op"]: float(m["rope_theta"]) for m in mixers if "rope_theta" in m}
    writer.add_rope_freq_base(theta.get("gqa", theta.get("swa", 0.0)))
    if "swa" in theta:
        writer.add_sliding_window(next(m["window"] for m in mixers if m["op"] == "swa"))
        if arch is GEMMA3:
            writer.add_rope_freq_base_swa(theta["swa"])
            writer.add_sliding_window_pattern([m["op"] == "swa" for m in mixers])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """One tensor of the file: ours stacked along rows, or transposed, or a head's rows in pairs."""

    name: str
    sources: tuple[str, ...]
    weight: Weight
    transposed: bool = False
    paired_heads: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        rows, *rest = self.weight.shape
        return (*rest, rows) if self.transposed else (rows * len(self.sources), *rest)

    def take(self, weights: "Weights") -> "Array":
        """Its values.

        llama.cpp's llama rotates neighbours where ours (as Hugging Face's) rotates a head's halves: value i of the first half
        moves to row 2i, of the second to row 2i + 1.
        """
        import numpy as np

        array = np.concatenate([weights[source] for source in self.sources])
        if self.paired_heads:
            halves = array.reshape(self.paired_heads, 2, -1, array.shape[-1])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        return np.ascontiguousarray(array.T if self.transposed else array)


_BLOCK_NAMES = {
    "mixer_norm.norm": "attn_norm",
    "mixer.w_q": "attn_q",
    "mixer.w_k": "attn_k",
    "mixer.w_v": "attn_v",
    "mixer.w_o": "attn_output",
    "mixer.q_norm": "attn_q_norm",
    "mixer.k_norm": "attn_k_norm",
    "mixer.w_b": "shortconv.in_proj",
    "mixer.kernel": "shortconv.conv",
    "mixer.w_out": "shortconv.out_proj",
    "mixer_post.norm": "post_attention_norm",
    "ffn_norm.norm": "ffn_norm",
    "ffn.w_gate": "ffn_gate",
    "ffn.w_up": "ffn_up",
    "ffn.w_down": "ffn_down",
    "ffn_post.norm": "post_ffw_norm",
}
"""Our names within a block and GGUF's; the three input projections of a short convolution are one matrix there."""


def _tensors(config: ArchConfig, arch: Architecture) -> Iterator[_Tensor]:
    weights = model_of(config).weights()
    ends = {"embedding.table": "token_embd", "head.norm": arch.final_norm, "head.w_vocab": "output"}
    for path, weight in weights.items():
        layer, _, rest = path.removeprefix("layers.").partition(".")
        if path in ends:
            yield _Tensor(name=f"{ends[path]}.weight", sources=(path,), weight=weight)
        elif rest in _BLOCK_NAMES:
            sources = (
                tuple(f"layers.{layer}.mixer.{n}" for n in ("w_b", "w_c", "w_h")) if rest == "mixer.w_b" else (path,)
            )
            heads = {"mixer.w_q": "n_heads", "mixer.w_k": "n_kv_heads"}.get(rest) if arch is LLAMA else None
            yield _Tensor(
                name=f"blk.{layer}.{_BLOCK_NAMES[rest]}.weight",
                sources=sources,
                weight=weight,
                transposed=rest == "mixer.kernel",
                paired_heads=int(config.layers[int(layer)].mixer.dims()[heads]) if heads else 0,
            )


def _type(tensor: _Tensor, config: ArchConfig, dtype: str) -> "GGMLQuantizationType":
    from gguf import GGMLQuantizationType

    if tensor.weight.kind == "vector":
        return GGMLQuantizationType.F32
    if dtype.startswith("Q") and tensor.weight.shape[-1] % _BLOCK:
        return GGMLQuantizationType.F16
    projection = "token_embd.weight" if config.tied else "output.weight"
    if dtype == "Q4_0" and tensor.name == projection:
        return GGMLQuantizationType.Q8_0
    return GGMLQuantizationType[dtype]


def _announce(writer: "GGUFWriter", tensor: _Tensor, kind: "GGMLQuantizationType") -> None:
    """Declares a tensor whose values come later."""
    import numpy as np
    from gguf import GGMLQuantizationType, quant_shape_to_byte_shape

    plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
    if kind in plain:
        dtype = np.dtype(plain[kind])
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, math.prod(tensor.shape) * dtype.itemsize)
    else:
        shape = quant_shape_to_byte_shape(tensor.shape, kind)
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=kind)


def _encode(array: "Array", kind: "GGMLQuantizationType", name: str) -> "Array":
    import numpy as np
    from gguf.quants import quantize

    try:
        with np.errstate(over="raise"):
            return quantize(np.ascontiguousarray(array, np.float32), kind)
    except FloatingPointError:
        raise UsageError(
            f"weights: {name}: {np.abs(array).max():g} is beyond {kind.name}'s range; use --dtype F32"
        ) from None


def _notes(config: ArchConfig, arch: Architecture, dtype: str) -> Iterator[str]:
    kinds = {t.name: _type(t, config, dtype).name for t in _tensors(config, arch) if t.weight.kind != "vector"}
    odd = sum(kind == "F16" for kind in kinds.values()) if dtype.startswith("Q") else 0
    if odd:
        yield f"{odd} of {len(kinds)} matrices stay in F16: their rows are no multiple of {_BLOCK} values"
    if dtype == "Q4_0" and "Q8_0" in kinds.values():
        yield "the projection onto the vocabulary is in Q8_0"
    if config.eos_token is None:
        yield "the config has no eos_token: llama.cpp takes token 11 for it"
    if any(layer.mixer.name == "swa" for layer in config.layers):
        yield "older versions of llama.cpp place the sliding windows otherwise, or ignore them"
