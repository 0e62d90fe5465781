"""Small models with random weights: one trained by this project, others saved by transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeprof.models.config import ArchConfig
from edgeprof.models.initialise import initialise
from edgeprof.models.model import model_of
from edgeprof.models.module import Model
from edgeprof.train.data.dataset import open_data
from edgeprof.train.save_model import save_model, whole_weights, with_tokens

TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "initializer_range": 0.5,
}


def save_hf_model(folder: Path, data: Path, kind: str = "llama", **changes: Any) -> Path:
    """A random model of transformers with the tokenizer of a data set."""
    from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**TINY | changes))
    else:
        own = {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}
        model = Lfm2ForCausalLM(Lfm2Config(**TINY | own | changes))
    model.save_pretrained(folder)
    for path in open_data(data).tokenizer_files:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="session")
def hf_folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random model of a family; each is made once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_hf_model(tmp_path_factory.mktemp("hf") / kind, data, kind)
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def own_folder(config: ArchConfig, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of this project with random weights, as training saves one."""
    opened = open_data(data)
    model = Model(model_of(config))
    initialise(model, 1)
    weights = whole_weights(dict(model.named_parameters()))
    sharp = {name: w * np.float32(4) if w.ndim > 1 else w for name, w in weights.items()}
    folder = tmp_path_factory.mktemp("own") / "model"
    save_model(with_tokens(config, opened.index.tokenizer), sharp, opened.tokenizer_files, folder)
    return folder
