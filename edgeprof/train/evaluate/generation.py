"""Texts that a model generates from a prompt: several at once, each token chosen by this project's own sampling.

What a folder says about generation (penalties, top-k) is left aside, so that all models are compared alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from edgeprof.core.errors import UsageError
from edgeprof.models.generate import Sampling, choose
from edgeprof.train.evaluate.language_model import LanguageModel

CUT_CHARACTER = "\ufffd"
"""What the bytes of an unfinished character decode to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A generated text, without its prompt; ``ended`` says that the model ended it, before ``max_tokens``."""

    text: str
    tokens: int
    ended: bool


def generate_texts(
    model: LanguageModel, prompt: str, *, count: int, sampling: Sampling, max_tokens: int
) -> list[Generation]:
    """``count`` texts that continue a prompt; at temperature 0 there is only one.

    Raises:
        UsageError: an option is out of range, or prompt and text exceed the model's context.
    """
    sampling.check()
    if max_tokens < 1 or count < 1:
        raise UsageError(f"--max-tokens: {max_tokens}, --samples: {count}: use 1 or more")
    ids = model.text.encode_prompt(prompt)
    if model.max_context is not None and len(ids) + max_tokens > model.max_context:
        raise UsageError(
            f"--max-tokens: a prompt of {len(ids)} tokens and {max_tokens} more exceed the context of {model.max_context} "
            f"of {model.name}; use {max(1, model.max_context - len(ids))} or less, or a shorter prompt"
        )
    rows = torch.tensor([ids] * (1 if sampling.temperature == 0 else count), device=model.device)
    drawn = torch.stack(list(islice(tokens(model, rows, sampling, max_tokens), max_tokens)), 1).tolist()
    return [_text(model, row) for row in drawn]


def tokens(model: LanguageModel, ids_BT: Tensor, sampling: Sampling, max_tokens: int) -> Iterator[Tensor]:
    """Tokens (B) that continue prompts of one length, on the CPU, until every sequence has ended.

    Raises:
        UsageError: the model computes no numbers.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    logits, step = model.decoding(ids_BT, ids_BT.shape[1] + max_tokens)
    going = torch.ones(len(ids_BT), dtype=torch.bool)
    ends = torch.tensor(sorted(model.text.ends), dtype=torch.long)
    for left in range(max_tokens, 0, -1):
        if logits.isnan().any():
            raise UsageError(
                f"{model.folder}: its logits are not numbers: its weights are damaged, or training diverged"
            )
        token = choose(logits.cpu(), sampling, generator)
        yield token
        going &= ~torch.isin(token, ends)
        if left == 1 or not going.any():
            return
        logits = step(token.to(ids_BT.device))


def _text(model: LanguageModel, drawn: list[int]) -> Generation:
    end = next((i for i, token in enumerate(drawn) if token in model.text.ends), None)
    kept = drawn if end is None else drawn[:end]
    text = model.text.decode(kept)
    if end is None:  # a character that the limit cut in two would hide a repetition from the detector
        text = text.removesuffix(CUT_CHARACTER)
    return Generation(text=text, tokens=len(kept), ended=end is not None)
