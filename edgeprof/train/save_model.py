"""The trained model as a folder that others load: Hugging Face's where it can express the model, with the tokenizer beside it."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig, to_toml
from edgeprof.models.hf import hf_document, save_hf
from edgeprof.models.weights import WEIGHTS_FILE, save_weights
from edgeprof.operators.arrays import Weights
from edgeprof.train.data.disk import replace_file, sync_folder, writing_to
from edgeprof.train.data.index import TokenizerEntry

CONFIG_FILE = "config.toml"


def whole_weights(weights: Mapping[str, Tensor]) -> Weights:
    """The weights in fp32 on the CPU, gathered where processes share them: all processes must call this together."""
    with torch.no_grad():
        whole = {n: w.full_tensor() if isinstance(w, DTensor) else w for n, w in weights.items()}
        return {name: w.detach().float().cpu().numpy() for name, w in whole.items()}


def with_tokens(config: ArchConfig, tokenizer: TokenizerEntry) -> ArchConfig:
    """The configuration with the tokenizer's special tokens: generation ends where the data's documents do."""
    pad = tokenizer.pad_token if tokenizer.pad_token is not None else config.pad_token
    bos = tokenizer.bos_token if tokenizer.bos_token is not None else config.bos_token
    return replace(config, eos_token=tokenizer.eos_token, bos_token=bos, pad_token=pad)


def save_model(config: ArchConfig, weights: Weights, tokenizer_files: Sequence[Path], folder: Path) -> str | None:
    """Writes the folder, whole or not at all; ``config.toml`` is in it in any case.

    Returns why Hugging Face's classes cannot express the model, where that is so.

    Raises:
        UsageError: the file system refuses.
    """
    scratch = folder.with_name(f".{folder.name}.new")
    with writing_to(folder.parent):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        why = _write(config, weights, scratch)
        replace_file(scratch / CONFIG_FILE, to_toml(config).encode())
        for path in tokenizer_files:
            shutil.copyfile(path, scratch / path.name)
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
        sync_folder(folder.parent)
    return why


def _write(config: ArchConfig, weights: Weights, folder: Path) -> str | None:
    try:
        hf_document(config)
    except UsageError as error:
        save_weights(weights, folder / WEIGHTS_FILE)
        return str(error)
    save_hf(config, weights, folder)
    return None
