"""A teacher with random weights and the tokenizer of the student's data."""

from pathlib import Path

import pytest
import torch

from edgeprof.train.data.dataset import open_data


def save_teacher(folder: Path, tokenizer_of: Path, vocab: int = 320) -> Path:
    """An Lfm2 model that has more logits than the tokenizer has ids, as padded vocabularies do."""
    from transformers import Lfm2Config, Lfm2ForCausalLM

    torch.manual_seed(5)
    config = Lfm2Config(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
        block_auto_adjust_ff_dim=False,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    Lfm2ForCausalLM(config).save_pretrained(folder)
    for path in open_data(tokenizer_of).tokenizer_files:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="session")
def teacher_folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teacher") / "hf", data)
