"""A model to evaluate: a run's, a folder in this project's form, or any causal language model of Hugging Face."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig, read_config
from edgeprof.models.generate import decode, prefill
from edgeprof.models.model import model_of
from edgeprof.models.module import Model
from edgeprof.models.schema import read_document
from edgeprof.models.weights import load_weights
from edgeprof.train.evaluate.causal_lm import (
    DocumentScorer,
    Dtype,
    Step,
    decoding,
    load_causal_lm,
    vocab_of,
)
from edgeprof.train.evaluate.text_codec import TextCodec
from edgeprof.train.loss import CrossEntropy
from edgeprof.train.network import Network
from edgeprof.train.run_folder import MODEL, RUN_FILE, read_run
from edgeprof.train.save_model import CONFIG_FILE

GENERATION_FILE = "generation_config.json"

DEFAULT_SEQ_LEN = 1024
"""Tokens of a sequence that held-out loss is taken over, where the run does not say and the context is not shorter."""


class LanguageModel(Protocol):
    """A model with its tokenizer.

    ``seq_len`` is what held-out loss is taken over unless told otherwise, ``device`` where prompts are to be.
    """

    name: str
    folder: Path
    text: TextCodec
    device: torch.device
    max_context: int | None
    seq_len: int

    def scorer(self) -> nn.Module:
        """Ids, targets and documents (B, T) to their summed cross-entropy, as ``held_out_loss`` calls it."""

    def decoding(self, ids_BT: Tensor, capacity: int) -> tuple[Tensor, Step]:
        """Prefills prompts: the logits after them (B, V), and what continues them, up to ``capacity`` tokens in all."""


class OwnModel:
    """A model in this project's form, computed by its own modules in fp32.

    Decoding holds its state on the CPU, as on the devices that models are made for; scoring runs where it is asked to.
    """

    def __init__(self, folder: Path, device: torch.device, *, chat: bool | None) -> None:
        config = read_config(folder / CONFIG_FILE)
        self.name, self.folder, self.device = config.name, folder, torch.device("cpu")
        self._scoring_device = device
        self.max_context: int | None = config.max_context
        self.seq_len = min(DEFAULT_SEQ_LEN, config.max_context)
        self.mask_documents = True
        self.text = TextCodec(folder, ends=_known([config.eos_token]), vocab=config.vocab, chat=chat)
        self.model = _load_own(folder, config)

    def scorer(self) -> nn.Module:
        """The network as it is trained, with plain cross-entropy."""
        network = Network(self.model, CrossEntropy(), mask_documents=self.mask_documents)
        on_cpu = self._scoring_device.type == "cpu"
        return network if on_cpu else copy.deepcopy(network).to(self._scoring_device)

    def decoding(self, ids_BT: Tensor, capacity: int) -> tuple[Tensor, Step]:
        """As generation runs it: state, and one token a call."""
        state = self.model.init_state(len(ids_BT), capacity)
        pos = ids_BT.shape[1] - 1

        def step(token_B: Tensor) -> Tensor:
            nonlocal pos
            pos += 1
            return decode(self.model, token_B, state, pos)

        return prefill(self.model, ids_BT, state), step


class HfModel:
    """A causal language model in a Hugging Face folder, run by transformers."""

    def __init__(self, folder: Path, device: torch.device, dtype: Dtype, *, chat: bool | None) -> None:
        self.name, self.folder, self.device = folder.resolve().name, folder, device
        self.model = load_causal_lm(folder, device, dtype)
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.max_context: int | None = context
        self.seq_len = min(DEFAULT_SEQ_LEN, context or DEFAULT_SEQ_LEN)
        self.text = TextCodec(folder, ends=_ends(folder, self.model), vocab=vocab_of(self.model), chat=chat)

    def scorer(self) -> nn.Module:
        """Each document by itself."""
        return DocumentScorer(self.model)

    def decoding(self, ids_BT: Tensor, capacity: int) -> tuple[Tensor, Step]:
        """With the model's own cache, which grows by itself."""
        return decoding(self.model, ids_BT)


def open_model(
    path: Path, device: torch.device, *, dtype: Dtype = "fp32", chat: bool | None = None
) -> OwnModel | HfModel:
    """The model of a run's folder, of a folder in this project's form (``config.toml``), or of a Hugging Face folder.

    Raises:
        UsageError: it is none of them, the run is unfinished, or what it holds cannot be loaded.
    """
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; name a run of edgeprof train, or a Hugging Face folder")
    if (path / RUN_FILE).is_file():
        return _of_run(path, device, dtype, chat=chat)
    if (path / CONFIG_FILE).is_file():
        _check_fp32(dtype)
        return OwnModel(path, device, chat=chat)
    return HfModel(path, device, dtype, chat=chat)


def _of_run(path: Path, device: torch.device, dtype: Dtype, *, chat: bool | None) -> OwnModel:
    if not (path / MODEL).is_dir():
        raise UsageError(f"{path}: the run has no {MODEL} folder yet; the same edgeprof train goes on and writes it")
    _check_fp32(dtype)
    run = read_run(path)
    assert run is not None
    model = OwnModel(path / MODEL, device, chat=chat)
    model.seq_len, model.mask_documents = run.settings.seq_len, run.settings.mask_documents
    return model


def _check_fp32(dtype: Dtype) -> None:
    if dtype != "fp32":
        raise UsageError(f"--dtype: {dtype}: models of this project are evaluated in fp32; leave the option out")


def _load_own(folder: Path, config: ArchConfig) -> Model:
    model = Model(model_of(config))
    weights = load_weights(folder, config)
    model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()}, assign=True)
    return model.requires_grad_(False).eval()


def _ends(folder: Path, model: Any) -> list[int]:
    """The tokens that end a text: those of generation_config.json, else of config.json."""
    path = folder / GENERATION_FILE
    document = read_document(path, "") if path.is_file() else {}
    for found in (document.get("eos_token_id") if isinstance(document, dict) else None, model.config.eos_token_id):
        known = _known(found if isinstance(found, list) else [found])
        if known:
            return known
    return []


def _known(tokens: Iterable[Any]) -> list[int]:
    return [token for token in tokens if type(token) is int]
