"""What the config.json of each Hugging Face family says, with the library's own defaults and rules.

Source of the defaults and rules: the families' configuration classes in transformers 5.24 (``configuration_<family>.py``).
"""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from edgeprof.core.errors import UsageError
from edgeprof.models.config import MAX_LAYERS
from edgeprof.models.schema import Size, TokenId, clipped

ACTIVATIONS = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
"""The gated feed-forward of each activation. ``gelu`` itself is the exact one, which no operator here computes."""

LAYER_TYPES = ("conv", "sliding_attention", "full_attention")

FULL, SLIDING, CONV = "full_attention", "sliding_attention", "conv"


class HfConfig(BaseModel):
    """What all families' files have in common. Fields that decide nothing here are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    qk_norm: ClassVar[bool] = True
    sandwich: ClassVar[bool] = False
    types: ClassVar[tuple[str, ...]] = (FULL,)
    default_theta: ClassVar[dict[str, float]] = {FULL: 10_000.0, SLIDING: 10_000.0}
    must_be_off: ClassVar[tuple[str, ...]] = ("attention_bias",)

    hidden_size: Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=MAX_LAYERS)]
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    intermediate_size: Size
    vocab_size: Size
    max_position_embeddings: Size
    tie_word_embeddings: bool = True
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    bos_token_id: TokenId | None = None
    eos_token_id: Any = None
    pad_token_id: TokenId | None = None
    rope_theta: float | None = None
    rope_parameters: Any = None
    rope_scaling: Any = None
    partial_rotary_factor: float | None = None
    sliding_window: Size | None = None
    layer_types: Any = None
    attention_bias: bool = False

    def eps(self) -> float:
        """Every norm's epsilon."""
        return self.rms_norm_eps

    def d_ff(self) -> int:
        """Width of the feed-forward."""
        return self.intermediate_size

    def activation(self) -> tuple[str, str]:
        """The field that says the gate's activation, and what it says."""
        return "hidden_act", self.hidden_act

    def tied(self) -> bool:
        """Whether the head's projection is the embedding's table."""
        return self.tie_word_embeddings

    def embedding_scale(self) -> float:
        """What an embedded token is multiplied with."""
        return 1.0

    def sandwich_norm(self) -> bool:
        """Whether mixer and feed-forward have a norm behind them."""
        return self.sandwich

    def default_types(self) -> list[str]:
        """The layers' types where the file lists none."""
        return [FULL] * self.num_hidden_layers

    def layers(self) -> list[str]:
        """The layers' types in order.

        Raises:
            UsageError: the list is wrong, or a type is none of this family's.
        """
        types = self.default_types() if self.layer_types is None else self.layer_types
        if not isinstance(types, list) or len(types) != self.num_hidden_layers:
            raise UsageError(
                f"layer_types: is no list of num_hidden_layers = {self.num_hidden_layers} types; correct one"
            )
        for index, name in enumerate(types):
            if name not in self.types:
                known = ", ".join(self.types)
                raise UsageError(f"layer_types[{index}]: {clipped(name)} cannot be expressed; supported: {known}")
        return types

    def rope_of(self, layer_type: str) -> dict[str, Any]:
        """The rotary embedding's parameters for a type of layer; a scaling in the old field replaces the new one."""
        rope = self.rope_scaling or self.rope_parameters or {}
        check_table("rope_parameters", rope)
        own = rope.get(layer_type) or {} if any(name in rope for name in LAYER_TYPES) else rope
        check_table(f"rope_parameters.{layer_type}", own)
        return {"rope_theta": self.rope_theta} | own

    def theta(self, layer_type: str) -> float:
        """The base of the rotary embedding's frequencies.

        Raises:
            UsageError: the frequencies are scaled, or turn a part of a head only.
        """
        rope = self.rope_of(layer_type)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise UsageError(f"rope_parameters.rope_type: {clipped(kind)} cannot be expressed; supported: 'default'")
        partial = rope.get("partial_rotary_factor", self.partial_rotary_factor)
        if partial not in (None, 1):
            raise UsageError(f"partial_rotary_factor: {clipped(partial)} cannot be expressed; supported: 1")
        theta = rope["rope_theta"]
        if theta is None:
            return self.default_theta[layer_type]
        if type(theta) not in (int, float):
            raise UsageError(f"rope_theta: {clipped(theta)} is not a number")
        return float(theta)

    def window(self) -> int:
        """Tokens that sliding attention sees, the current one included, as here.

        Raises:
            UsageError: there is none.
        """
        if self.sliding_window is None:
            raise UsageError("sliding_window: is missing; layer_types has sliding_attention")
        return self.sliding_window

    def mixer(self, layer_type: str) -> dict[str, Any]:
        """A layer's mixer as a part of a configuration file."""
        heads = self.num_attention_heads
        if self.head_dim is None and self.hidden_size % heads:
            raise UsageError(f"head_dim: is missing, and num_attention_heads = {heads} does not divide hidden_size")
        attention = {
            "n_heads": heads,
            "n_kv_heads": self.num_key_value_heads or heads,
            "head_dim": self.head_dim or self.hidden_size // heads,
            "qk_norm": self.qk_norm,
            "rope_theta": self.theta(layer_type),
        }
        if layer_type == SLIDING:
            return {"op": "swa", "window": self.window(), **attention}
        return {"op": "gqa", **attention}

    def check(self) -> None:
        """Checks that what cannot be expressed is off.

        Raises:
            UsageError: names the field.
        """
        for name in self.must_be_off:
            value = getattr(self, name)
            if value not in (None, False):
                raise UsageError(f"{name}: {value!r} cannot be expressed; only models without it can be read")


class LlamaConfig(HfConfig):
    """``llama``: full attention without QK-norm."""

    qk_norm: ClassVar[bool] = False
    must_be_off: ClassVar[tuple[str, ...]] = ("attention_bias", "mlp_bias")

    max_position_embeddings: Size = 2048
    tie_word_embeddings: bool = False
    bos_token_id: TokenId | None = 1
    eos_token_id: Any = 2
    mlp_bias: bool = False

    def layers(self) -> list[str]:
        """Full attention throughout."""
        return self.default_types()


class Qwen3Config(HfConfig):
    """``qwen3``: full attention with QK-norm, the upper layers' sliding where it is switched on."""

    types: ClassVar[tuple[str, ...]] = (FULL, SLIDING)

    num_key_value_heads: Size | None = 32
    head_dim: Size | None = 128
    max_position_embeddings: Size = 32_768
    tie_word_embeddings: bool = False
    use_sliding_window: bool = False
    sliding_window: Size | None = 4096
    max_window_layers: Annotated[int, Field(ge=0)] = 28

    def default_types(self) -> list[str]:
        """Sliding from ``max_window_layers`` on, if at all."""
        slides = self.use_sliding_window and self.sliding_window is not None
        return [SLIDING if slides and i >= self.max_window_layers else FULL for i in range(self.num_hidden_layers)]

    def window(self) -> int:
        """The window, if it is switched on."""
        if not self.use_sliding_window:
            raise UsageError("use_sliding_window: is off, but layer_types has sliding_attention; correct one")
        return super().window()


class Gemma3Config(HfConfig):
    """``gemma3_text``: sliding and full attention with two thetas, sandwich norms, scaled embedding, GeGLU."""

    sandwich: ClassVar[bool] = True
    types: ClassVar[tuple[str, ...]] = (FULL, SLIDING)
    default_theta: ClassVar[dict[str, float]] = {FULL: 1_000_000.0, SLIDING: 10_000.0}
    must_be_off: ClassVar[tuple[str, ...]] = (
        "attention_bias",
        "final_logit_softcapping",
        "attn_logit_softcapping",
        "use_bidirectional_attention",
    )

    vocab_size: Size = 262_208
    num_attention_heads: Size = 8
    num_key_value_heads: Size | None = 4
    head_dim: Size | None = 256
    max_position_embeddings: Size = 131_072
    bos_token_id: TokenId | None = 2
    eos_token_id: Any = 1
    pad_token_id: TokenId | None = 0
    hidden_activation: str = "gelu_pytorch_tanh"
    sliding_window: Size | None = 4096
    sliding_window_pattern: Size = 6
    rope_local_base_freq: float | None = None
    query_pre_attn_scalar: Annotated[float, Field(gt=0)] = 256
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: float | None = None
    use_bidirectional_attention: bool | None = False

    def activation(self) -> tuple[str, str]:
        """Under a name of its own."""
        return "hidden_activation", self.hidden_activation

    def embedding_scale(self) -> float:
        """The root of the width."""
        return float(self.hidden_size**0.5)

    def default_types(self) -> list[str]:
        """Every ``sliding_window_pattern``-th layer attends to everything."""
        return [SLIDING if (i + 1) % self.sliding_window_pattern else FULL for i in range(self.num_hidden_layers)]

    def rope_of(self, layer_type: str) -> dict[str, Any]:
        """By layer type; in old files two thetas, and a scaling of the full layers."""
        rope = self.rope_parameters or {}
        scaling = self.rope_scaling or {}
        check_table("rope_parameters", rope)
        check_table("rope_scaling", scaling)
        own = rope.get(layer_type) or {}
        check_table(f"rope_parameters.{layer_type}", own)
        if layer_type == SLIDING:
            return {"rope_theta": self.rope_local_base_freq} | own
        return {"rope_theta": self.rope_theta} | own | scaling


class Lfm2Config(HfConfig):
    """``lfm2``: short convolutions and full attention."""

    types: ClassVar[tuple[str, ...]] = (CONV, FULL)
    default_theta: ClassVar[dict[str, float]] = {FULL: 1_000_000.0, SLIDING: 1_000_000.0}
    must_be_off: ClassVar[tuple[str, ...]] = ("conv_bias",)

    intermediate_size: Size = 12_288
    num_key_value_heads: Size | None = 8
    max_position_embeddings: Size = 128_000
    norm_eps: float = 1e-5
    bos_token_id: TokenId | None = 1
    eos_token_id: Any = 2
    pad_token_id: TokenId | None = 0
    kernel_size: Annotated[Size, Field(alias="conv_L_cache")] = 3
    conv_bias: bool = False
    tie_embedding: bool | None = None
    block_ff_dim: Size | None = None
    block_multiple_of: Size = 256
    block_ffn_dim_multiplier: Annotated[float, Field(gt=0)] | None = 1.0
    block_auto_adjust_ff_dim: bool = True
    full_attn_idxs: Any = None

    def eps(self) -> float:
        """Under a name of its own."""
        return self.norm_eps

    def tied(self) -> bool:
        """The older name wins."""
        return self.tie_word_embeddings if self.tie_embedding is None else self.tie_embedding

    def d_ff(self) -> int:
        """Two thirds of what is written, times the multiplier and rounded up, unless that is switched off.

        Source: ``Lfm2MLP`` in transformers 5.24, modeling_lfm2.py.
        """
        width = self.block_ff_dim or self.intermediate_size
        if self.block_auto_adjust_ff_dim:
            width = int(2 * width / 3)
            if self.block_ffn_dim_multiplier is not None:
                width = int(self.block_ffn_dim_multiplier * width)
                width = -(-width // self.block_multiple_of) * self.block_multiple_of
        return width

    def default_types(self) -> list[str]:
        """Attention at ``full_attn_idxs``; everywhere if that is absent, too."""
        indices = self.full_attn_idxs
        if indices is None:
            return [FULL] * self.num_hidden_layers
        if not isinstance(indices, list) or any(type(i) is not int for i in indices):
            raise UsageError("full_attn_idxs: is no list of layers' numbers")
        return [FULL if i in indices else CONV for i in range(self.num_hidden_layers)]

    def mixer(self, layer_type: str) -> dict[str, Any]:
        """A short convolution, or attention."""
        if layer_type == CONV:
            return {"op": "short_conv", "kernel_size": self.kernel_size}
        return super().mixer(layer_type)


class Lfm3Config(Lfm2Config):
    """``lfm3``: short convolutions, sliding and full attention; gated attention cannot be expressed."""

    types: ClassVar[tuple[str, ...]] = (CONV, SLIDING, FULL)
    must_be_off: ClassVar[tuple[str, ...]] = ("conv_bias", "attention_bias", "use_attention_gate")

    intermediate_size: Size = 7680
    num_key_value_heads: Size | None = 4
    head_dim: Size | None = 128
    bos_token_id: TokenId | None = 124_894
    eos_token_id: Any = 124_900
    pad_token_id: TokenId | None = 124_893
    kernel_size: Annotated[Size, Field(alias="conv_L_cache")] = 7
    sliding_window: Size | None = 256
    use_sandwich_norm: bool = True
    use_attention_gate: bool = True

    def d_ff(self) -> int:
        """As written."""
        return self.intermediate_size

    def sandwich_norm(self) -> bool:
        """Where it is not switched off."""
        return self.use_sandwich_norm

    def default_types(self) -> list[str]:
        """A period of four: full attention at 2, sliding at 0 but for the first layer."""
        period = (SLIDING, CONV, FULL, CONV)
        return [CONV, *(period[i % 4] for i in range(1, self.num_hidden_layers))]

    def rope_of(self, layer_type: str) -> dict[str, Any]:
        """By layer type; where it is absent the full layers turn half of a head, which cannot be expressed."""
        if not (self.rope_parameters or self.rope_scaling):
            raise UsageError("rope_parameters: is missing, which stands for 'proportional'; supported: 'default'")
        return super().rope_of(layer_type)


FAMILIES: dict[str, type[HfConfig]] = {
    "lfm2": Lfm2Config,
    "lfm3": Lfm3Config,
    "gemma3_text": Gemma3Config,
    "qwen3": Qwen3Config,
    "llama": LlamaConfig,
}
"""The families by ``model_type``; a multimodal ``gemma3`` is read as the text model in it."""


def check_table(name: str, value: Any) -> None:
    """Refuses what is no table.

    Raises:
        UsageError: names the field.
    """
    if not isinstance(value, dict):
        raise UsageError(f"{name}: {clipped(value)} is not a table")
