"""Hugging Face configurations read from plain JSON: published models, the library's defaults and rules, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig, config_to_json, load_config
from edgeprof.models.hf_config import read_hf_config
from edgeprof.models.model import model_of

LFM2_350M: dict[str, Any] = {
    "architectures": ["Lfm2ForCausalLM"], "block_auto_adjust_ff_dim": True, "block_dim": 1024, "block_ff_dim": 6656,
    "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256, "block_norm_eps": 1e-05, "bos_token_id": 1,
    "conv_L_cache": 3, "conv_bias": False, "conv_dim": 1024, "eos_token_id": 7,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14], "hidden_size": 1024, "max_position_embeddings": 32768,
    "model_type": "lfm2", "norm_eps": 1e-05, "num_attention_heads": 16, "num_heads": 16, "num_hidden_layers": 16,
    "num_key_value_heads": 8, "pad_token_id": 0, "rope_theta": 1000000.0, "use_pos_enc": True, "vocab_size": 65536,
}  # fmt: skip
GEMMA_3_270M: dict[str, Any] = {
    "_sliding_window_pattern": 6, "architectures": ["Gemma3ForCausalLM"], "attention_bias": False,
    "attn_logit_softcapping": None, "bos_token_id": 2, "eos_token_id": 1, "final_logit_softcapping": None,
    "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 640, "intermediate_size": 2048,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3, "max_position_embeddings": 32768,
    "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 18, "num_key_value_heads": 1,
    "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0,
    "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": 512, "use_bidirectional_attention": False,
    "vocab_size": 262144,
}  # fmt: skip
QWEN3_06B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "bos_token_id": 151643, "eos_token_id": 151645,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
    "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16,
    "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip
LFM2_700M = LFM2_350M | {"hidden_size": 1536, "block_ff_dim": 10240, "num_attention_heads": 24}
LFM2_1200M = LFM2_350M | {"hidden_size": 2048, "block_ff_dim": 12288, "num_attention_heads": 32}

PUBLISHED = {
    "lfm2-350m": (LFM2_350M, 354_483_968),
    "lfm2-700m": (LFM2_700M, 742_489_344),
    "lfm2-1.2b": (LFM2_1200M, 1_170_340_608),
    "gemma-3-270m": (GEMMA_3_270M, 268_098_176),
    "qwen3-0.6b": (QWEN3_06B, 596_049_920),
}

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99,
    "intermediate_size": 64,
}  # fmt: skip
LFM2 = LLAMA | {"model_type": "lfm2", "num_key_value_heads": 2}
LFM3 = LFM2 | {
    "model_type": "lfm3", "use_attention_gate": False, "vocab_size": 128_000, "num_hidden_layers": 9,
    "rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
}  # fmt: skip
QWEN3 = LLAMA | {"model_type": "qwen3", "num_key_value_heads": 2}
GEMMA3 = {"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 13}


def read(folder: Path, document: Any) -> ArchConfig:
    (folder / "config.json").write_text(json.dumps(document))
    return read_hf_config(folder)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_the_presets(name: str, tmp_path: Path) -> None:
    document, parameters = PUBLISHED[name]
    config = read(tmp_path, document)
    assert config_to_json(config) == config_to_json(load_config(name))
    assert model_of(config).params() == parameters


def test_the_special_tokens_and_the_context_are_read_and_the_folder_names_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "my-gemma"
    folder.mkdir()
    config = read(folder, GEMMA_3_270M | {"eos_token_id": [1, 106]})
    assert (config.bos_token, config.eos_token, config.pad_token) == (2, 1, 0)
    assert config.max_context == 32_768
    assert config.name == "my-gemma"
    assert read_hf_config(folder / "config.json") == config


@pytest.mark.parametrize(
    "document",
    [
        LLAMA,
        LLAMA | {"head_dim": 10},
        LFM2 | {"num_hidden_layers": 5},
        LFM2 | {"full_attn_idxs": [1]},
        LFM2 | {"full_attn_idxs": [0], "layer_types": ["conv", "full_attention"]},
        LFM3,
        QWEN3,
        QWEN3 | {"use_sliding_window": True, "max_window_layers": 1, "head_dim": 12},
        GEMMA3,
        GEMMA3 | {"sliding_window_pattern": 3},
        LLAMA | {"rope_theta": 5e5},
        LLAMA | {"rope_scaling": {"type": "default"}, "rope_theta": 5e5},
        LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        GEMMA3 | {"rope_theta": 5e5, "rope_local_base_freq": 5e3},
        LFM2 | {"tie_embedding": False},
    ],
)
def test_what_a_file_leaves_out_is_what_transformers_would_take(document: dict[str, Any], tmp_path: Path) -> None:
    """Reads the short file, and the one that transformers writes after filling in all defaults."""
    from transformers import AutoConfig

    short = read(tmp_path, document)
    AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert len(json.loads((tmp_path / "config.json").read_text())) > len(document) + 5
    assert read_hf_config(tmp_path) == short


@pytest.mark.parametrize("width", [96, 100, 6656, 12288])
@pytest.mark.parametrize("rule", [{}, {"block_ffn_dim_multiplier": 1.3}, {"block_multiple_of": 24}, None])
def test_lfm2s_feed_forward_is_as_wide_as_in_transformers(
    width: int, rule: dict[str, float] | None, tmp_path: Path
) -> None:
    from transformers import Lfm2Config
    from transformers.models.lfm2.modeling_lfm2 import Lfm2MLP

    document = LFM2 | {"intermediate_size": width} | ({"block_auto_adjust_ff_dim": False} if rule is None else rule)
    with torch.device("meta"):
        theirs = Lfm2MLP(Lfm2Config(**{n: v for n, v in document.items() if n != "model_type"})).w1.out_features
    assert read(tmp_path, document).layers[0].ffn.dims()["d_ff"] == theirs


def test_a_multimodal_gemma_is_read_as_its_text_model(tmp_path: Path) -> None:
    text = read(tmp_path, GEMMA_3_270M)
    assert read(tmp_path, {"model_type": "gemma3", "text_config": GEMMA_3_270M, "vision_config": {}}) == text
    untied = read(tmp_path, {"model_type": "gemma3", "text_config": GEMMA_3_270M, "tie_word_embeddings": False})
    assert not untied.tied


SCALED = {"rope_type": "linear", "factor": 8.0}
REFUSED = [
    ([], "not a table"),
    ({}, "model_type: is missing"),
    ({"model_type": "mamba"}, "model_type: 'mamba': unsupported family; supported: gemma3, lfm2, lfm3"),
    ({"model_type": ["llama"]}, "model_type: .*unsupported family"),
    ({"model_type": "llama"}, "hidden_size: is missing"),
    ({"model_type": "gemma3"}, "text_config: None is not a table"),
    (LLAMA | {"hidden_size": "48"}, "hidden_size: '48' is not a whole number"),
    (LLAMA | {"hidden_size": 0}, "hidden_size: 0 is too small"),
    (LLAMA | {"num_hidden_layers": 10**9}, "num_hidden_layers: 1000000000 is too large"),
    (LLAMA | {"num_attention_heads": 5}, "head_dim: is missing, and num_attention_heads = 5"),
    (LLAMA | {"num_key_value_heads": 3}, "n_kv_heads: 3 does not divide"),
    (LLAMA | {"hidden_act": "gelu"}, "hidden_act: 'gelu' cannot be expressed"),
    (LLAMA | {"attention_bias": True}, "attention_bias: True cannot be expressed"),
    (LLAMA | {"mlp_bias": True}, "mlp_bias: True"),
    (LLAMA | {"rope_scaling": SCALED}, "rope_type: 'linear'"),
    (LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type: 'dynamic'"),
    (LLAMA | {"rope_parameters": SCALED | {"rope_type": "llama3"}}, "rope_type: 'llama3'"),
    (LLAMA | {"rope_parameters": 7}, "rope_parameters: 7 is not a table"),
    (LLAMA | {"rope_parameters": {"rope_theta": "big"}}, "rope_theta: 'big' is not a number"),
    (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5"),
    (LLAMA | {"quantization_config": {"bits": 4}}, "quantization_config: quantised"),
    (LLAMA | {"eos_token_id": "</s>"}, "eos_token: '</s>' is not a whole number"),
    (LFM2 | {"conv_bias": True}, "conv_bias: True"),
    (LFM2 | {"layer_types": ["conv", "sliding_attention"]}, r"layer_types\[1\]: 'sliding_attention'.*conv, full"),
    (LFM2 | {"layer_types": ["conv"]}, "layer_types: is no list of num_hidden_layers = 2"),
    (LFM2 | {"layer_types": "conv"}, "layer_types: is no list"),
    (LFM2 | {"layer_types": [{}, {}]}, r"layer_types\[0\]: {} cannot"),
    (LFM2 | {"full_attn_idxs": 3}, "full_attn_idxs: is no list"),
    (LFM2 | {"conv_L_cache": 0}, "conv_L_cache: 0 is too small"),
    (LFM3 | {"use_attention_gate": True}, "use_attention_gate: True"),
    (LFM3 | {"rope_parameters": None}, "rope_parameters: is missing, which stands for 'proportional'"),
    (LFM3 | {"rope_parameters": {"full_attention": {"rope_type": "proportional"}}}, "rope_type: 'proportional'"),
    (QWEN3 | {"layer_types": ["sliding_attention"] * 2}, "use_sliding_window: is off"),
    (GEMMA3 | {"sliding_window": None}, "sliding_window: is missing"),
    (GEMMA3 | {"rope_scaling": SCALED}, "rope_type: 'linear'"),
    (GEMMA3 | {"final_logit_softcapping": 30.0}, "final_logit_softcapping: 30.0"),
    (GEMMA3 | {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping: 50.0"),
    (GEMMA3 | {"use_bidirectional_attention": True}, "use_bidirectional_attention: True"),
    (GEMMA3 | {"hidden_activation": "gelu"}, "hidden_activation: 'gelu' cannot be expressed"),
]


@pytest.mark.parametrize(("document", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_expressed_is_refused_by_its_field(document: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read(tmp_path, document)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "config.json"))
    assert text.count(str(tmp_path)) == 1
    assert "\n" not in text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"config\.json: "):
        read_hf_config(tmp_path)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file; name a Hugging Face folder or its config"):
        read_hf_config(tmp_path)


def test_reading_needs_neither_transformers_nor_torch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LFM2_350M))
    code = (
        "import sys, pathlib; from edgeprof.models.hf_config import read_hf_config;"
        "read_hf_config(pathlib.Path(sys.argv[1])); print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
