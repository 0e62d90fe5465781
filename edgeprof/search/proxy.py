"""The built-in quality proxy: how fast a layout's shrunken twin learns text and in-context recall.

Each part is a short training, scored by its mean training loss: the area under the curve is smoother than the last loss and
rewards early learning. Losses are standardised with fixed centres and scales, so that a score does not depend on the other
candidates, and added up. Stages differ in the number of seeds. Only scores of layouts of one space mean anything against each
other, and those of the same seeds most.

Biases (docs/search.md has the figures):

- Layouts of attention alone hardly learn recall in so short a training; a longer one would treat them better.
- Layouts of convolutions alone are over-rated: text in windows of 128 tokens asks little of what is further back.
- Nothing tests contexts beyond a twin's sequence, which stands for the space's usual context.
- Order matters much: a convolution before the first attention is worth more than one behind it. That is what recall needs of a
  twin; larger models may need it less.
- Among the best few the order is weak.
"""

import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.models.config import ArchConfig
from edgeprof.search.objective import Direction, Report, Score, Stage, find_stage
from edgeprof.search.proxy_parts import PARTS, Part
from edgeprof.search.text import built_in_corpus
from edgeprof.search.twin import TwinReference
from edgeprof.search.twin_training import SEGMENTS, TwinTraining

VERSION = 3
"""Raised whenever the same layout would get another score."""

STAGES = (Stage(name="quick"), Stage(name="standard", seeds=4), Stage(name="final", seeds=16))
"""For every candidate, as a rule; for every candidate of a search that has the time; for the best few."""

MOST_TRIAL_SEEDS = max(stage.seeds for stage in STAGES[:-1])
"""Seeds of a trial at most; the final stage takes the ones after them."""

DEFAULT_WEIGHTS: Mapping[str, float] = {"text": 1.0, "recall": 1.0, "copying": 0.0}
"""How much each kind counts. Text and recall disagree (Kendall's tau 0.28 and 0.37 in the truths of benchmarks/proxy_truth.py):
the weight between them is a decision, not a fact. Copying is held against no longer training yet, and counts when asked for.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyObjective:
    """Standardised mean training losses, added up with the weights of their kinds."""

    reference: TwinReference
    weights: Mapping[str, float]
    direction: Direction = "maximize"

    @property
    def name(self) -> str:
        """Version, weights, the space's reference and the text's hash."""
        kinds = ",".join(f"{kind}={weight:g}" for kind, weight in self.weights.items() if weight)
        return f"proxy {VERSION}: {kinds}; {self.reference}; text {built_in_corpus().key}"

    @property
    def final_stage(self) -> Stage:
        """As thorough as it gets, on seeds that no trial had: those that chose the finalists were kind to them."""
        return STAGES[-1]

    def stage(self, name: str) -> Stage:
        """The stage called ``name``.

        Raises:
            UsageError: there is none.
        """
        return find_stage("proxy", name, STAGES)

    def score(self, config: ArchConfig, *, seed: int, budget: Stage, report: Report) -> Score:
        """Trains the parts, in turn segment by segment, so that what is reported early is of all of them.

        The mean of all reported values is the score. Values of one training are not independent: a pruner that tests them
        in pairs is surer than it should be.
        """
        begin = time.perf_counter()
        parts = [part for part in PARTS if self.weights[part.kind]]
        scores: list[float] = []
        losses: dict[str, list[float]] = {part.name: [] for part in parts}
        first = seed + MOST_TRIAL_SEEDS if budget == self.final_stage else seed
        for offset in range(budget.seeds):
            worth = []
            for step, (part, loss) in enumerate(self._segments(config, parts, first + offset)):
                losses[part.name].append(loss)
                worth.append(self.weights[part.kind] * part.worth(loss))
                report(offset * len(parts) * SEGMENTS + step, len(parts) * worth[-1])
            scores.append(sum(worth) / SEGMENTS)
        return Score(
            value=statistics.fmean(scores),
            se=self._standard_error(parts, budget.seeds),
            seconds=time.perf_counter() - begin,
            parts={name: statistics.fmean(values) for name, values in losses.items()},
        )

    def _segments(self, config: ArchConfig, parts: list[Part], seed: int) -> Iterator[tuple[Part, float]]:
        """Mean training losses of one seed's segments: the first of every part, the second of every part, and so on."""
        trainings = [
            TwinTraining(config, p.recipe, p.make_batch, reference=self.reference, name=p.name, seed=seed).segments()
            for p in parts
        ]
        for losses in zip(*trainings, strict=True):
            yield from zip(parts, losses, strict=True)

    def _standard_error(self, parts: list[Part], seeds: int) -> float:
        """As the layouts of the calibration spread over seeds. What a seed does to all layouts alike is no part of it."""
        return math.sqrt(sum((self.weights[part.kind] * part.worth_sd) ** 2 for part in parts) / seeds)


def load_proxy(weights: str, reference: TwinReference) -> ProxyObjective:
    """The proxy with the usual weights, or with those of a text such as ``text=1,recall=2,copying=0.5``; kinds left out are 0.

    Raises:
        UsageError: a kind is unknown, a weight no number of 0 or more, or all are 0.
    """
    if not weights:
        return ProxyObjective(reference=reference, weights=DEFAULT_WEIGHTS)
    found = dict.fromkeys(DEFAULT_WEIGHTS, 0.0)
    for item in weights.split(","):
        kind, _, number = item.strip().partition("=")
        if kind not in found:
            raise UsageError(f"objective proxy: {kind[:80]!r} is no part; {did_you_mean(kind[:80], [*found])}")
        found[kind] = _weight(kind, number)
    if not any(found.values()):
        raise UsageError("objective proxy: all weights are 0; give one that is more")
    return ProxyObjective(reference=reference, weights=found)


def _weight(kind: str, text: str) -> float:
    try:
        weight = float(text or "1")
    except ValueError:
        weight = -1.0
    if not 0 <= weight < math.inf:
        raise UsageError(f"objective proxy: {kind} = {text[:80]!r}: is no weight; use a number of 0 or more")
    return weight
