"""Hugging Face models in and out: logits, generation token by token, and folders that transformers itself loads."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig, config_from_json, config_of_pattern, config_to_json
from edgeprof.models.generate import generate
from edgeprof.models.hf import save_hf
from edgeprof.models.hf_config import read_hf_config
from edgeprof.models.model import model_of
from edgeprof.models.module import Model
from edgeprof.models.weights import load_weights
from edgeprof.operators.arrays import Weights, random_weights

FAMILIES = ["lfm2", "lfm3", "gemma3", "gemma3_multimodal", "qwen3", "llama"]
SLIDING_FAMILIES = ["lfm3", "gemma3", "qwen3"]
PROMPT_TOKENS = 29
"""Longer than the sliding window of 8, so that what it hides shows in the logits."""

SavedModel = tuple[Any, Path]
Save = Callable[[str], SavedModel]


def make(config: ArchConfig, weights: Weights, *, all_logits: bool = True) -> Model:
    model = Model(model_of(config, all_logits=all_logits))
    model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()}, assign=True)
    return model


def prompt() -> Tensor:
    return torch.randint(3, 40, (2, PROMPT_TOKENS), generator=torch.Generator().manual_seed(2))


def error(ours: Model, theirs: Any) -> float:
    """The largest difference of any logit."""
    x = prompt()
    with torch.no_grad():
        return float((ours(x, ours.init_state(2, PROMPT_TOKENS), 0) - theirs(input_ids=x).logits).abs().max())


def continuations(ours: Model, theirs: Any, count: int) -> tuple[list[int], list[int]]:
    x = prompt()[:1]
    theirs.generation_config.eos_token_id = None
    text = theirs.generate(input_ids=x, max_new_tokens=count, do_sample=False)
    return list(generate(ours, x[0].tolist(), max_new_tokens=count)), text[0, PROMPT_TOKENS:].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_greedy_tokens_are_those_of_transformers(saved_model: Save, family: str) -> None:
    theirs, folder = saved_model(family)
    config = read_hf_config(folder)
    weights = load_weights(folder, config)
    assert error(make(config, weights), theirs) < 1e-4
    ours, expected = continuations(make(config, weights, all_logits=False), theirs, 24)
    assert ours == expected


@pytest.mark.parametrize("family", SLIDING_FAMILIES)
@pytest.mark.parametrize("off", [-1, 1])
def test_a_window_of_one_token_more_or_less_would_show(saved_model: Save, family: str, off: int) -> None:
    theirs, folder = saved_model(family)
    config = read_hf_config(folder)
    weights = load_weights(folder, config)
    text = config_to_json(config)
    assert '"window":8' in text
    wrong = config_from_json(text.replace('"window":8', f'"window":{8 + off}'))
    assert error(make(wrong, weights), theirs) > 1e-2


DIMS = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "window": 8, "d_ff": 56, "kernel_size": 4}


def layout(pattern: str, **fields: Any) -> ArchConfig:
    sizes = {"d_model": 48, "vocab": 40, "bos_token": 1, "eos_token": 2, "pad_token": 0}
    return config_of_pattern(pattern, DIMS, name="tiny", **(sizes | fields))


WRITTEN = {
    "lfm2": layout("CGC"),
    "lfm2 untied": layout("CG", tied=False, norm_eps=1e-4, max_context=99),
    "convolutions only": layout("CC"),
    "attention only": layout("GG"),
    "no special tokens": layout("CG", bos_token=None, eos_token=None, pad_token=None),
    "lfm3": layout("CSGS"),
    "lfm3 in a sandwich": layout("CG", sandwich_norm=True),
    "sliding only": layout("S"),
}


@pytest.mark.parametrize("config", WRITTEN.values(), ids=WRITTEN)
def test_a_written_folder_is_loaded_by_transformers_with_the_same_logits(config: ArchConfig, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    weights = random_weights(model_of(config), 3)
    save_hf(config, weights, tmp_path)
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    family = "Lfm3ForCausalLM" if "S" in config.pattern or config.sandwich_norm else "Lfm2ForCausalLM"
    assert type(theirs).__name__ == family
    assert error(make(config, weights), theirs.eval()) < 1e-4
    ours, expected = continuations(make(config, weights, all_logits=False), theirs, 12)
    assert ours == expected


@pytest.mark.parametrize("config", WRITTEN.values(), ids=WRITTEN)
def test_a_written_folder_reads_as_the_model_that_it_was(config: ArchConfig, tmp_path: Path) -> None:
    weights = random_weights(model_of(config), 3)
    save_hf(config, weights, tmp_path / "tiny")
    assert read_hf_config(tmp_path / "tiny") == config
    again = load_weights(tmp_path / "tiny", config)
    assert set(again) == set(weights)
    assert all((again[name] == weights[name]).all() for name in weights)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"embedding_scale": 2.0}, "embedding_scale: 2.0"),
        ({"ffn": "geglu"}, r"layers\[0\].ffn.op: geglu"),
        ({"qk_norm": False}, r"layers\[1\].mixer.qk_norm: false"),
    ],
)
def test_what_the_families_do_not_have_is_refused(changes: dict[str, Any], field: str, tmp_path: Path) -> None:
    fields = {name: value for name, value in changes.items() if name != "qk_norm"}
    dims = DIMS | ({"qk_norm": False} if "qk_norm" in changes else {})
    config = config_of_pattern("CG", dims, name="x", d_model=48, vocab=40, **fields)
    refuse(config, field, tmp_path)


@pytest.mark.parametrize("name", ["d_ff", "kernel_size", "n_heads", "n_kv_heads", "head_dim", "window", "rope_theta"])
def test_what_the_families_have_once_may_not_differ_by_layer(name: str, tmp_path: Path) -> None:
    one = config_of_pattern("CSG", DIMS, name="x", d_model=48, vocab=40)
    other = config_of_pattern("CSG", DIMS | {name: 2 * DIMS.get(name, 1e4)}, name="x", d_model=48, vocab=40)
    refuse(replace(one, layers=one.layers + other.layers), f"layers: {name}: ", tmp_path)


def refuse(config: ArchConfig, field: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=field) as caught:
        save_hf(config, random_weights(model_of(config), 1), folder / "out")
    assert "\n" not in str(caught.value)
    assert not (folder / "out").exists()


def test_a_theta_for_each_kind_of_attention_is_kept(tmp_path: Path) -> None:
    base, slow = layout("S"), config_of_pattern("G", DIMS | {"rope_theta": 5e4}, name="tiny", d_model=48, vocab=40)
    config = replace(base, layers=base.layers + slow.layers)
    save_hf(config, random_weights(model_of(config), 1), tmp_path / "tiny")
    assert read_hf_config(tmp_path / "tiny") == config
