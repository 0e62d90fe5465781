"""Tiny random models of the Hugging Face families, as transformers saves them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SavedModel = tuple[Any, Path]
WINDOW = 8

SIZES = {
    "vocab_size": 128,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONV, SLIDING, FULL = "conv", "sliding_attention", "full_attention"


def rope(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


def lfm2() -> Any:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    return Lfm2ForCausalLM(Lfm2Config(**SIZES, layer_types=[CONV, FULL, CONV, FULL], conv_L_cache=4))


def lfm3() -> Any:
    from transformers import Lfm3Config, Lfm3ForCausalLM

    types, thetas = [CONV, SLIDING, FULL, SLIDING], {SLIDING: rope(1e4), FULL: rope(1e6)}
    special = {"use_attention_gate": False, "sliding_window": WINDOW, "head_dim": 16, "conv_L_cache": 3}
    return Lfm3ForCausalLM(Lfm3Config(**SIZES, layer_types=types, rope_parameters=thetas, **special))


def gemma3_config() -> Any:
    from transformers import Gemma3TextConfig

    special = {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 40}
    return Gemma3TextConfig(**SIZES, layer_types=[SLIDING, FULL, SLIDING, SLIDING], **special)


def gemma3() -> Any:
    from transformers import Gemma3ForCausalLM

    return Gemma3ForCausalLM(gemma3_config())


def gemma3_multimodal() -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=gemma3_config(), vision_config=vision, mm_tokens_per_image=1)
    )


def qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    special = {"head_dim": 16, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, **special, tie_word_embeddings=True))


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SIZES))


FAMILIES: dict[str, Callable[[], Any]] = {
    "lfm2": lfm2,
    "lfm3": lfm3,
    "gemma3": gemma3,
    "gemma3_multimodal": gemma3_multimodal,
    "qwen3": qwen3,
    "llama": llama,
}


def tiny(family: str) -> Any:
    """A model whose every weight is random: an initialiser's ones and zeros would hide what is not read."""
    torch.manual_seed(0)
    model = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model.eval()


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SavedModel]:
    """A family's tiny model and the folder that it was saved to; nobody may write there."""

    @functools.cache
    def make(family: str) -> SavedModel:
        model = tiny(family)
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        return model, folder

    return make
