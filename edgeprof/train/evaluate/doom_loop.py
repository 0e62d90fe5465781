"""Endless repetition in generated text: what counts as one, and how often a model falls into it.

Source: the rule of Liquid AI's Antidoom, as reported second-hand: at least 4 exact repeats and 60 repeated characters with a
period of 1 to 1024 characters; it begins with the second occurrence. That the repetition must last to the end of the text is
what ``endless`` is taken to mean here: a ruled line or a table within a text is none.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.stats import binomtest

from edgeprof.stats.quantiles import Quantiles, quantiles
from edgeprof.train.evaluate.prompts import Prompt

if TYPE_CHECKING:
    from edgeprof.train.evaluate.generation import Generation

MIN_REPEATS, MIN_CHARS, MAX_PERIOD = 4, 60, 1024

CONFIDENCE = 0.95

ALL = "all"
"""Name of the rows over all prompt sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A repetition that lasts to the end of a text. ``onset`` is the position of the second occurrence, in characters.

    ``repeats`` counts whole occurrences of ``period`` characters, the first included.
    """

    onset: int
    period: int
    repeats: int


def find_loop(text: str) -> Loop | None:
    """The longest repetition in which a text ends, with its shortest period; None where there is none.

    Takes time in proportion to the text.
    """
    shared = _self_match(text[::-1], MAX_PERIOD)
    best_length, best_period = 0, 0
    for period, matched in enumerate(shared, 1):
        length = period + matched
        if length >= max(MIN_CHARS, MIN_REPEATS * period) and length > best_length:
            best_length, best_period = length, period
    if not best_length:
        return None
    start = len(text) - best_length
    return Loop(onset=start + best_period, period=best_period, repeats=best_length // best_period)


def _self_match(text: str, most: int) -> list[int]:
    """For each shift from 1 to ``most``, how many characters of the shifted text equal the text's own from its start.

    Source: the Z algorithm, Gusfield, Algorithms on Strings, Trees and Sequences, 1997, section 1.4.
    """
    n = len(text)
    z = [0] * min(n, most + 1)
    left = right = 0
    for i in range(1, len(z)):
        k = min(right - i, z[i - left]) if i < right else 0
        while i + k < n and text[k] == text[i + k]:
            k += 1
        z[i] = k
        if i + k > right:
            left, right = i, i + k
    return z[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One generation, judged. ``sample`` numbers those of one prompt and temperature."""

    prompt: Prompt
    temperature: float
    sample: int
    generation: "Generation"
    loop: Loop | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRow:
    """The doom-loop ratio of a prompt set at a temperature, with its Wilson interval over generations.

    ``ended`` of the generations came to an end by themselves. ``onset`` is in characters of the generated text, over the loops;
    None where there are none.
    """

    prompt_set: str
    temperature: float
    n: int
    loops: int
    ended: int
    ratio: float
    ci95: tuple[float, float]
    onset: Quantiles | None


def judge(
    generate: Callable[[Prompt, float], Sequence["Generation"]],
    prompts: Sequence[Prompt],
    temperatures: Sequence[float],
) -> Iterator[Outcome]:
    """Generates from each prompt at each temperature, and looks for loops."""
    for prompt in prompts:
        for temperature in temperatures:
            for sample, generation in enumerate(generate(prompt, temperature)):
                loop = find_loop(generation.text)
                yield Outcome(prompt=prompt, temperature=temperature, sample=sample, generation=generation, loop=loop)


def doom_loop_ratio(outcomes: Sequence[Outcome]) -> list[LoopRow]:
    """A row for each prompt set and temperature, in the order that they came, and one a temperature over all sets."""
    sets = list(dict.fromkeys(o.prompt.prompt_set for o in outcomes))
    temperatures = list(dict.fromkeys(o.temperature for o in outcomes))
    rows = []
    for temperature in temperatures:
        here = [o for o in outcomes if o.temperature == temperature]
        of_set = {name: [o for o in here if o.prompt.prompt_set == name] for name in sets}
        rows += [_row(name, temperature, found) for name, found in of_set.items() if found]
        if len(sets) > 1:
            rows.append(_row(ALL, temperature, here))
    return rows


def _row(name: str, temperature: float, outcomes: Sequence[Outcome]) -> LoopRow:
    onsets = [o.loop.onset for o in outcomes if o.loop is not None]
    low, high = wilson(len(onsets), len(outcomes))
    return LoopRow(
        prompt_set=name,
        temperature=temperature,
        n=len(outcomes),
        loops=len(onsets),
        ended=sum(o.generation.ended for o in outcomes),
        ratio=len(onsets) / len(outcomes),
        ci95=(low, high),
        onset=quantiles(onsets) if onsets else None,
    )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The Wilson interval of a share. Source: Wilson, JASA 22, 1927, pages 209-212."""
    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)
