"""The teacher: a causal language model in a Hugging Face folder that reads the student's tokens, and what it expects of each.

Shape suffixes: B batch, T tokens, N tokens of several rows, K kept tokens, V vocab.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeprof.core.canonical import short_hash
from edgeprof.core.errors import UsageError
from edgeprof.models.gguf_tokenizer import TOKENIZER_FILE
from edgeprof.train.data.dataset import DataSet
from edgeprof.train.data.index import file_sha256
from edgeprof.train.data.loader import Batch
from edgeprof.train.data.tokenizer import Specials, load_tokenizer
from edgeprof.train.distill.divergence import TOP_K, TopK
from edgeprof.train.evaluate.causal_lm import (
    CONFIG_FILE,
    Dtype,
    document_logits,
    load_causal_lm,
    vocab_of,
    weight_files,
)
from edgeprof.train.evaluate.same_tokenizer import first_difference

STORED = torch.float16
"""How log-probabilities are kept: their error is 0.05 % of their size, and none is large that matters."""

ROWS_AT_ONCE = 2**9
"""Tokens whose probabilities are taken at once."""


class Teacher:
    """A live teacher. It reads each document of a row by itself, as far as the row holds it."""

    def __init__(self, folder: Path, model: Any, *, n_ids: int, k: int = TOP_K) -> None:
        """``n_ids`` are the tokenizer's: a model may have more logits, which stand for nothing.

        Raises:
            UsageError: the model knows fewer tokens, or ``k`` is more than there are.
        """
        if vocab_of(model) < n_ids:
            raise UsageError(
                f"{folder}: the teacher knows {vocab_of(model):,} tokens, the data's tokenizer has {n_ids:,}; use another"
            )
        if not 1 <= k <= n_ids:
            raise UsageError(f"k: {k} tokens cannot be kept of {n_ids:,}; use 1 to {n_ids}")
        self.folder, self.model, self.n_ids, self.k = folder, model, n_ids, k

    def top_k(self, batch: Batch) -> TopK:
        """The distributions of all tokens of a batch, row after row, log-probabilities rounded as they are stored."""
        device = batch.ids.device
        if next(self.model.parameters()).device != device:
            self.model.to(device)
        count = batch.ids.numel()
        found = TopK(
            values=torch.empty(count, self.k, dtype=STORED, device=device),
            indices=torch.empty(count, self.k, dtype=torch.long, device=device),
            log_rest=torch.empty(count, dtype=STORED, device=device),
        )
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            for positions, logits in document_logits(self.model, batch.ids, batch.documents):
                for part in torch.split(torch.arange(len(positions), device=device), ROWS_AT_ONCE):
                    whole = top_k_of(logits[part, : self.n_ids].float(), self.k)
                    for target, values in zip(found, whole, strict=True):
                        target[positions[part]] = values.to(target.dtype)
        return found


def top_k_of(logits_NV: Tensor, k: int) -> TopK:
    """The k likeliest tokens of each distribution, and the log-probability of all others together."""
    normaliser = logits_NV.logsumexp(-1, keepdim=True)
    top = logits_NV.topk(k, dim=-1)
    rest = logits_NV.scatter(1, top.indices, -torch.inf)
    return TopK(values=top.values - normaliser, indices=top.indices, log_rest=rest.logsumexp(-1) - normaliser[:, 0])


def check_same_tokenizer(folder: Path, data: DataSet) -> None:
    """Checks that the teacher gives every text the ids that the data have.

    Raises:
        UsageError: it does not, and what differs first; or it has no tokenizer.json.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise UsageError(f"{folder}: the teacher has no {TOKENIZER_FILE}; save its fast tokenizer there")
    theirs = load_tokenizer(path, Specials(), vocab=None)
    ours = load_tokenizer(data.folder, Specials(), vocab=None)
    if difference := first_difference(ours, theirs):
        raise UsageError(
            f"{path}: the teacher has another tokenizer than {data.folder}, so its probabilities are of other tokens: "
            f"{difference}; prepare the data with --tokenizer {folder}, or choose a teacher of the data's tokenizer"
        )


def load_teacher(
    folder: Path, data: DataSet, *, device: torch.device, dtype: Dtype = "fp32", k: int = TOP_K
) -> Teacher:
    """The teacher of a student that is trained on ``data``.

    Raises:
        UsageError: it cannot be loaded, or its tokenizer is not the data's.
    """
    weight_files(folder)
    check_same_tokenizer(folder, data)
    return Teacher(folder, load_causal_lm(folder, device, dtype), n_ids=data.index.tokenizer.n_ids, k=k)


def teacher_fingerprint(folder: Path) -> str:
    """A hash of what decides the teacher's probabilities: its configuration and weights, all of which are read.

    Raises:
        UsageError: a file cannot be read.
    """
    files = [folder / CONFIG_FILE, *weight_files(folder)]
    try:
        return short_hash({path.name: file_sha256(path) for path in files}, length=32)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror}); correct its permissions") from None
