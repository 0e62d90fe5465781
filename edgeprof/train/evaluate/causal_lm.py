"""A causal language model in a Hugging Face folder: local safetensors only, and no code of the folder's own.

Shape suffixes: B batch, T tokens, N tokens of several rows, V vocab.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from edgeprof.core.errors import UsageError
from edgeprof.models.schema import clipped, read_document
from edgeprof.models.weights import INDEX_FILE, WEIGHTS_FILE
from edgeprof.train.evaluate.hugging_face import transformers

Dtype = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

CONFIG_FILE = "config.json"

LOGITS_AT_ONCE = {"cpu": 2**25, "cuda": 2**28}
"""Logits that one call makes: 128 MiB of fp32, and 1 GiB on a GPU; one document takes more where it must."""

Step = Callable[[Tensor], Tensor]
"""One more token of each sequence (B) to the logits after it (B, V)."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face folder, in the order of their names.

    Raises:
        UsageError: it is no such folder, or its weights are pickles, which can run code.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise UsageError(f"{folder}: holds no {CONFIG_FILE}; name a Hugging Face folder of a causal language model")
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    files = sorted(folder.glob("*.safetensors")) if (folder / INDEX_FILE).is_file() else []
    if not files:
        raise UsageError(f"{folder}: holds no {WEIGHTS_FILE}; save the model again, as safetensors")
    return files


def load_causal_lm(folder: Path, device: torch.device, dtype: Dtype = "fp32") -> Any:
    """The model of a Hugging Face folder, to be evaluated.

    Raises:
        UsageError: transformers cannot load it without code of the folder's own, or the weights are incomplete.
    """
    weight_files(folder)
    read_document(folder / CONFIG_FILE, "name a Hugging Face folder")
    try:
        model, found = transformers().AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=DTYPES[dtype],
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises whatever its parts do
        raise UsageError(
            f"{folder}: transformers cannot load it as a causal language model: {clipped(error, 200)}"
        ) from None
    if missing := sorted(found["missing_keys"]):
        # transformers would go on with random weights in their place
        raise UsageError(f"{folder}: {clipped(missing[0])}: is missing from the weights; save the model again")
    return model.to(device).eval().requires_grad_(False)


def vocab_of(model: Any) -> int:
    """How many logits a token has."""
    return int(model.get_output_embeddings().weight.shape[0])


def decoding(model: Any, ids_BT: Tensor) -> tuple[Tensor, Step]:
    """Prefills prompts of one length: the logits after their last token (B, V), and what continues them."""
    cache = _new_cache(model)
    whole = ids_BT

    def step(token_B: Tensor) -> Tensor:
        nonlocal whole
        whole = torch.cat([whole, token_B[:, None]], 1)
        return _last_logits(model, token_B[:, None] if cache else whole, cache)

    return _last_logits(model, ids_BT, cache), step


def _last_logits(model: Any, ids_BT: Tensor, cache: dict[str, Any]) -> Tensor:
    with torch.inference_mode():
        return cast(Tensor, model(input_ids=ids_BT, **(cache or {"use_cache": False})).logits[:, -1])


def _new_cache(model: Any) -> dict[str, Any]:
    """An empty cache as the model takes it; nothing for one that has none, which reads the whole text for every token."""
    takes = inspect.signature(model.forward).parameters
    # transformers 5.24 renamed it, and some models have another kind
    name = next((name for name in ("cache", "past_key_values") if name in takes), None)
    if name is None or getattr(model.config, "use_cache", True) is False:
        return {}
    return {name: transformers().DynamicCache(config=model.config), "use_cache": True}


def document_logits(model: Any, ids_BT: Tensor, documents_BT: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The logits of every token of packed rows, each document read by itself: no token sees another document.

    Yields groups: positions (N) in the flattened rows, and their logits (N, V) in the model's dtype.
    """
    device = ids_BT.device
    vocab = vocab_of(model)
    for group in _groups(documents_BT, LOGITS_AT_ONCE[device.type] // vocab):
        length = group[0][1]
        # filled up to the right, where a causal model cannot look
        positions = torch.tensor([[begin + min(i, n - 1) for i in range(length)] for begin, n in group], device=device)
        real = torch.tensor([[i < n for i in range(length)] for _, n in group], device=device)
        with torch.no_grad():
            logits = model(input_ids=ids_BT.flatten()[positions], use_cache=False).logits
        yield positions[real], logits[real]


def _groups(documents_BT: Tensor, most_tokens: int) -> Iterator[list[tuple[int, int]]]:
    """Documents as (first position in the flattened rows, length), the longest first, in groups that fill a call."""
    tokens = documents_BT.shape[1]
    found = []
    for row, documents in enumerate(documents_BT.tolist()):
        begins = [0, *(i for i in range(1, tokens) if documents[i] != documents[i - 1]), tokens]
        found += [(row * tokens + a, b - a) for a, b in itertools.pairwise(begins)]
    found.sort(key=lambda document: -document[1])
    while found:
        count = max(1, most_tokens // found[0][1])
        yield found[:count]
        found = found[count:]


class DocumentScorer(nn.Module):
    """A causal model as held-out evaluation calls it: the summed cross-entropy of packed rows, in nats."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor) -> "Scored":
        """The sum over all targets that are scored."""
        total = torch.zeros((), dtype=torch.float64, device=ids_BT.device)
        for positions_N, logits_NV in document_logits(self.model, ids_BT, documents_BT):
            targets_N = targets_BT.flatten()[positions_N]
            total += nn.functional.cross_entropy(logits_NV.float(), targets_N, reduction="sum").double()
        return Scored(total)


class Scored:
    """What ``DocumentScorer`` finds."""

    def __init__(self, cross_entropy: Tensor) -> None:
        self.cross_entropy = cross_entropy
