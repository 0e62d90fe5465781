"""Weight files: read in every format by their own names or a Hugging Face folder's, and refused in one line when wrong."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.models.hf_config import read_hf_config
from edgeprof.models.model import model_of
from edgeprof.models.weights import check_weights, load_weights, save_weights
from edgeprof.operators.arrays import Weights, random_weights

DIMS = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "window": 6, "d_ff": 48}
CONFIG = config_of_pattern("CSG", DIMS, name="tiny", d_model=32, vocab=40)
WEIGHTS = random_weights(model_of(CONFIG), 5)

Saved = tuple[Any, Path]
Save = Callable[[str], Saved]


def refuse(path: Path, config: ArchConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_weights(path, config)
    assert "\n" not in str(caught.value)


@pytest.fixture
def native(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_weights(WEIGHTS, path)
    return path


@pytest.fixture
def hf(saved_model: Save, tmp_path: Path) -> Path:
    """A copy of the lfm3 folder to spoil."""
    return shutil.copytree(saved_model("lfm3")[1], tmp_path / "hf")


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_what_is_saved_is_loaded_again_from_the_file_and_from_its_folder(native: Path) -> None:
    assert same(load_weights(native, CONFIG), WEIGHTS)
    assert same(load_weights(native.parent, CONFIG), WEIGHTS)


def test_arrays_that_are_views_are_saved_in_their_own_order(tmp_path: Path) -> None:
    """A transposed view shares its memory with an array of another order."""
    name = "layers.0.ffn.w_down"
    save_weights(WEIGHTS | {name: np.asfortranarray(WEIGHTS[name])}, tmp_path / "deep" / "x.safetensors")
    assert same(load_weights(tmp_path / "deep" / "x.safetensors", CONFIG), WEIGHTS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_float_format_is_widened_or_narrowed_to_fp32(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(w).to(dtype) for name, w in WEIGHTS.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    loaded = load_weights(tmp_path / "x.safetensors", CONFIG)
    assert {w.dtype for w in loaded.values()} == {np.dtype(np.float32)}
    assert same(loaded, {name: t.float().numpy() for name, t in tensors.items()})


def test_loaded_weights_live_in_memory_of_their_own(native: Path) -> None:
    """They outlive the file, which may be written again."""
    loaded = load_weights(native, CONFIG)
    size = native.stat().st_size
    with native.open("r+b") as file:
        file.write(b"\0" * size)
    assert same(loaded, WEIGHTS)


def spoil(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = {name: t.clone() for name, t in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_missing_superfluous_and_misshaped_weights_are_named(native: Path) -> None:
    spoil(native, lambda t: t.update(extra=torch.zeros(1)))
    refuse(native, CONFIG, "'extra': is no weight of this model")
    spoil(native, lambda t: t.update({"layers.1.mixer.w_q": torch.zeros(32, 31)}))
    refuse(native, CONFIG, r"layers.1.mixer.w_q: shape \(32, 31\); the model needs \(32, 32\)")
    spoil(native, lambda t: t.pop("layers.1.mixer.w_q"))
    refuse(native, CONFIG, r"layers.1.mixer.w_q: is missing; the model needs it, shape \(32, 32\)")


def test_weights_of_another_format_than_floats_are_refused(native: Path) -> None:
    spoil(native, lambda t: t.update({"head.norm": torch.ones(32, dtype=torch.int8)}))
    refuse(native, CONFIG, "head.norm: format I8 cannot be read; use F32, BF16")


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_truncated_file_is_refused(native: Path, keep: int) -> None:
    native.write_bytes(native.read_bytes()[:keep])
    refuse(native, CONFIG, "cannot be read as safetensors")


@pytest.mark.parametrize("content", [b"\xff" * 64, b'\x08\0\0\0\0\0\0\0{"a": 1}', b"not a model"])
def test_a_corrupt_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    refuse(tmp_path / "x.safetensors", CONFIG, "cannot be read as safetensors")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("pytorch_model.bin", "x.pt", "x.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        refuse(tmp_path / name, CONFIG, "is a pickle, which can run code; convert it to safetensors")
    refuse(tmp_path, CONFIG, "holds pickled weights only, which can run code; convert them to model.safetensors")
    shutil.copy(tmp_path / "x.pt", tmp_path / "model.safetensors")
    refuse(tmp_path, CONFIG, "cannot be read as safetensors")
    assert not (tmp_path / "sprung").exists()


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    refuse(tmp_path / "none.safetensors", CONFIG, "none.safetensors: no such file or folder")
    refuse(tmp_path, CONFIG, "holds no model.safetensors")


def test_weights_that_cannot_be_written_are_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        save_weights(WEIGHTS, tmp_path / "file" / "x.safetensors")
    with pytest.raises(UsageError, match="cannot be written"):
        save_weights(WEIGHTS, tmp_path)


def test_given_weights_are_checked_as_read_ones_are() -> None:
    check_weights(WEIGHTS, CONFIG)
    for wrong, message in [
        ({n: w for n, w in WEIGHTS.items() if n != "head.norm"}, "head.norm: is missing"),
        (WEIGHTS | {"head.w_vocab": WEIGHTS["embedding.table"]}, "head.w_vocab: is no weight"),
        (WEIGHTS | {"head.norm": np.ones(3, np.float32)}, r"head.norm: shape \(3,\); the model needs \(32,\)"),
    ]:
        with pytest.raises(UsageError, match=message):
            check_weights(wrong, CONFIG)


def test_shards_are_read_by_their_index(saved_model: Save, hf: Path) -> None:
    model, whole = saved_model("lfm3")
    (hf / "model.safetensors").unlink()
    model.save_pretrained(hf, max_shard_size="30kB")
    assert len(list(hf.glob("model-*.safetensors"))) > 2
    config = read_hf_config(whole)
    assert same(load_weights(hf, replace(config, name="hf")), load_weights(whole, config))
    lost = max(hf.glob("model-*.safetensors"))
    lost.unlink()
    refuse(hf, config, rf"{lost.name}: cannot be read as safetensors")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "model.bin", "", 7, ["a"]])
def test_an_index_may_only_name_safetensors_in_its_folder(hf: Path, name: Any) -> None:
    (hf / "model.safetensors").unlink()
    index = hf / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    refuse(hf, read_hf_config(hf), "weight_map: .* is no safetensors file in this folder")
    for document in ({}, [], {"weight_map": []}):
        index.write_text(json.dumps(document))
        refuse(hf, read_hf_config(hf), "weight_map: is no table")


def test_a_folder_whose_weights_do_not_fit_its_configuration_is_refused(hf: Path) -> None:
    config, file = read_hf_config(hf), hf / "model.safetensors"
    spoil(file, lambda t: t.update({"model.layers.1.self_attn.q_proj.bias": torch.zeros(64)}))
    refuse(hf, config, "'model.layers.1.self_attn.q_proj.bias': is no weight of this model")
    spoil(file, lambda t: t.update({"model.layers.0.conv.conv.weight": torch.zeros(48, 1, 5)}))
    refuse(hf, config, r"model.layers.0.conv.conv.weight: shape \(48, 1, 5\); the model needs \(48, 1, 3\)")
    spoil(file, lambda t: t.pop("model.layers.0.conv.in_proj.weight"))
    refuse(hf, config, "model.layers.0.conv.in_proj.weight: is missing")


def test_a_stored_projection_of_a_tied_model_must_be_the_embedding(hf: Path) -> None:
    config, file = read_hf_config(hf), hf / "model.safetensors"
    before = load_weights(hf, config)
    spoil(file, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert same(load_weights(hf, config), before)
    spoil(file, lambda t: t["lm_head.weight"].add_(1))
    refuse(hf, config, "lm_head.weight: differs from model.embed_tokens.weight, but tie_word_embeddings is true")


def test_a_hugging_face_checkpoint_without_its_configuration_is_refused(hf: Path) -> None:
    config = read_hf_config(hf)
    refuse(hf / "model.safetensors", config, "has Hugging Face's names; name the folder")
    (hf / "config.json").unlink()
    refuse(hf, config, "has Hugging Face's names; name the folder that holds it with its config.json")


def test_weights_of_another_model_than_the_configuration_are_refused(hf: Path) -> None:
    config = read_hf_config(hf)
    load_weights(hf, replace(config, name="other", max_context=9, eos_token=5))  # does not change what is computed
    for change, message in [
        ({"norm_eps": 1e-3}, "norm_eps: 1e-05, but the configuration says 0.001"),
        ({"tied": False}, "tied: True"),
        ({"layers": config.layers[:2]}, "layers: 4, but the configuration says 2"),
        ({"layers": (*config.layers[:3], config.layers[0])}, r"layers\[3\].mixer: swa .* says short_conv"),
    ]:
        refuse(hf, replace(config, **change), message)
