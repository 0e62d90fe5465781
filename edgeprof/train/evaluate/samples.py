"""Texts that a model writes, to be read by people."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeprof.models.generate import Sampling
from edgeprof.train.evaluate.generation import generate_texts
from edgeprof.train.evaluate.language_model import LanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One text; ``tokens`` are those generated."""

    prompt: str
    temperature: float
    text: str
    tokens: int
    ended: bool


def draw_samples(
    model: LanguageModel, prompts: Sequence[str], temperatures: Sequence[float], *, max_tokens: int, seed: int = 0
) -> Iterator[Sample]:
    """One text for each prompt and temperature, which ``seed`` determines.

    Raises:
        UsageError: an option is out of range, or prompt and text exceed the model's context.
    """
    for prompt in prompts:
        for temperature in temperatures:
            sampling = Sampling(temperature=temperature, seed=seed)
            (one,) = generate_texts(model, prompt, count=1, sampling=sampling, max_tokens=max_tokens)
            yield Sample(prompt=prompt, temperature=temperature, text=one.text, tokens=one.tokens, ended=one.ended)
