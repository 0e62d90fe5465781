"""Generation: a prompt is prefilled, whole or in chunks, then tokens are decoded one by one, greedily or sampled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from edgeprof.models.module import Model
    from edgeprof.operators.module import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen: the likeliest at ``temperature`` 0, else drawn by ``seed``.

    ``top_k`` keeps the k likeliest tokens, ``top_p`` the fewest that hold p of the probability (nucleus sampling, Holtzman
    et al., arXiv 1904.09751); both after the temperature, top_k first.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def check(self) -> None:
        """Checks the ranges.

        Raises:
            UsageError: names the field and what it may be.
        """
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature: {self.temperature} is none; use 0 (the likeliest token) or more")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k: {self.top_k} keeps no token; use 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top_p: {self.top_p} is no share; use more than 0 and at most 1")


GREEDY = Sampling()


def generate(
    model: "Model",
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    eos: int | None = None,
    prefill_chunk: int | None = None,
) -> Iterator[int]:
    """Yields new tokens as they are decoded, up to ``max_new_tokens`` or to ``eos``, which is yielded, too.

    The prompt is prefilled in one call, or ``prefill_chunk`` tokens at a time.

    Raises:
        UsageError: the prompt is empty or holds an id outside the vocabulary, or an option is out of range. At once, not at
            the first token.
    """
    vocab = model.spec.vocab_size()
    if not prompt:
        raise UsageError("prompt: is empty; give at least one token, such as the model's bos_token")
    for token in prompt:
        if not 0 <= token < vocab:
            raise UsageError(
                f"prompt: token {token} is outside the vocabulary of {vocab}; use the model's own tokenizer"
            )
    for name, value in (("max_new_tokens", max_new_tokens), ("prefill_chunk", prefill_chunk)):
        if value is not None and value < 1:
            raise UsageError(f"{name}: {value} is no number of tokens; use 1 or more")
    sampling.check()
    return _tokens(model, prompt, max_new_tokens, sampling, eos, prefill_chunk)


def _tokens(
    model: "Model", prompt: Sequence[int], count: int, sampling: Sampling, eos: int | None, chunk: int | None
) -> Iterator[int]:
    import torch

    state = model.init_state(1, len(prompt) + count)
    generator = torch.Generator().manual_seed(sampling.seed)
    logits = prefill(model, torch.tensor([prompt]), state, chunk=chunk)
    for pos in range(len(prompt), len(prompt) + count):
        token = choose(logits, sampling, generator)
        chosen = int(token)
        yield chosen
        if chosen == eos or pos + 1 == len(prompt) + count:
            return
        logits = decode(model, token, state, pos)


def prefill(model: "Model", ids_BT: "Tensor", state: "State", *, pos: int = 0, chunk: int | None = None) -> "Tensor":
    """Runs a prompt whose first token has position ``pos``, ``chunk`` tokens a call; the last token's logits (B, V)."""
    import torch

    total = ids_BT.shape[1]
    size = chunk or total
    with torch.inference_mode():
        for begin in range(0, total, size):
            logits: Tensor = model(ids_BT[:, begin : begin + size], state, pos + begin)
        return logits[:, -1]


def decode(model: "Model", token_B: "Tensor", state: "State", pos: int) -> "Tensor":
    """Runs one token a sequence at position ``pos``; its logits (B, V)."""
    import torch

    with torch.inference_mode():
        logits: Tensor = model(token_B[:, None], state, pos)
        return logits[:, -1]


def choose(logits_BV: "Tensor", sampling: Sampling, generator: "Generator") -> "Tensor":
    """The next token of each sequence, (B)."""
    import torch

    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    probabilities = torch.softmax(warp(logits_BV, sampling), -1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def warp(logits_BV: "Tensor", sampling: Sampling) -> "Tensor":
    """Logits over the temperature in fp32, minus infinity for tokens that top_k and top_p drop."""
    import torch

    logits = logits_BV.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # what likelier tokens hold; 0 for the likeliest, which stays
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, before >= sampling.top_p)
        logits = logits.masked_fill(dropped, float("-inf"))
    return logits
