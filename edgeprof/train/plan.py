"""What a training run will take and what it buys: time and memory from a measured step, quality from published scaling laws."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from edgeprof.core.canonical import plain
from edgeprof.models.accounting import LARGE_SHARE, parameters, vocabulary_share
from edgeprof.models.config import ArchConfig
from edgeprof.train.distributed import find_device
from edgeprof.train.measure import MeasuredStep, measure_step
from edgeprof.train.scaling import CHINCHILLA, TOKENS_PER_PARAMETER, LossFit, optimal_tokens
from edgeprof.train.settings import Settings, make_running, make_settings

SMALLEST_VOCAB = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class OverTraining:
    """What more (or fewer) tokens than are compute-optimal do, by a published fit: predicted, for that fit's data and models.

    ``ratio`` is tokens over compute-optimal ones. A compute-optimal model of ``equal_parameters`` would reach the same ``loss``:
    it costs ``inference_saving`` times as much a token in use, and ``training_cost`` is this run's compute over its training's.
    None where no such model exists. Outside the sizes that were fitted (``in_range`` false) only the direction can be trusted.
    """

    ratio: float
    loss: float
    optimal_loss: float
    equal_parameters: int | None
    inference_saving: float | None
    training_cost: float | None
    in_range: bool
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallerVocabulary:
    """A vocabulary that would leave the layers enough: its share of the parameters, and how many parameters it saves."""

    vocab: int
    share: float
    saved_parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """The whole plan. ``state_bytes`` are weights, gradients and moments; ``step`` is what was measured."""

    config: ArchConfig
    parameters: int
    settings: Settings
    optimal_tokens: int
    over_training: OverTraining
    step: MeasuredStep
    step_s: float
    tokens_per_s: float
    hours: float
    state_bytes: int
    vocabulary_share: float
    smaller_vocabulary: SmallerVocabulary | None


def make_plan(config: ArchConfig, settings: Settings, step: MeasuredStep) -> TrainingPlan:
    """The plan of a run with these settings on the machine where the step was measured."""
    size, step_s = parameters(config), step.seconds(settings)
    moments = 2 if settings.optimiser == "adamw" else 1  # Muon keeps one for its matrices, nearly all of the weights
    return TrainingPlan(
        config=config,
        parameters=size,
        settings=settings,
        optimal_tokens=optimal_tokens(size),
        over_training=over_training(size, settings.tokens),
        step=step,
        step_s=step_s,
        tokens_per_s=settings.step_tokens / step_s,
        hours=settings.steps * step_s / 3600,
        state_bytes=4 * size * (2 + moments),
        vocabulary_share=vocabulary_share(config),
        smaller_vocabulary=smaller_vocabulary(config),
    )


def over_training(size: int, tokens: int, fit: LossFit = CHINCHILLA) -> OverTraining:
    """What training a model of ``size`` parameters on so many tokens buys."""
    loss, best = fit.loss(size, tokens), optimal_tokens(size)
    equal = _compute_optimal_size(loss, fit)
    return OverTraining(
        ratio=tokens / best,
        loss=loss,
        optimal_loss=fit.loss(size, best),
        equal_parameters=None if equal is None else round(equal),
        inference_saving=None if equal is None else equal / size,
        training_cost=None if equal is None else size * tokens / (equal * TOKENS_PER_PARAMETER * equal),
        in_range=fit.smallest <= size <= fit.largest,
        source=fit.source,
    )


def _compute_optimal_size(loss: float, fit: LossFit) -> float | None:
    """The size that reaches a loss with 20 tokens a parameter; None below the fit's limit or beyond a quadrillion."""
    low, high = 1.0, 1e15
    if fit.loss(high, TOKENS_PER_PARAMETER * high) > loss:
        return None
    for _ in range(200):
        middle = (low * high) ** 0.5
        if fit.loss(middle, TOKENS_PER_PARAMETER * middle) > loss:
            low = middle
        else:
            high = middle
    return high


def smaller_vocabulary(config: ArchConfig) -> SmallerVocabulary | None:
    """The largest halving of the vocabulary that takes at most a third of the parameters; None where it does already."""
    if vocabulary_share(config) <= LARGE_SHARE:
        return None
    vocab = config.vocab
    while vocab // 2 >= SMALLEST_VOCAB:
        vocab //= 2
        # special tokens may lie beyond a smaller vocabulary; they have no part in its size
        smaller = replace(config, vocab=vocab, bos_token=None, eos_token=None, pad_token=None)
        if vocabulary_share(smaller) <= LARGE_SHARE:
            saved = parameters(config) - parameters(smaller)
            return SmallerVocabulary(vocab=vocab, share=vocabulary_share(smaller), saved_parameters=saved)
    return None


def plan_json(plan: TrainingPlan) -> dict[str, Any]:
    """The plan as JSON takes it; predicted figures carry their source."""
    document = {name: value for name, value in plain(plan).items() if name != "config"}
    return {"config": plan.config.name, "pattern": plan.config.pattern, **document}


def plan_for(
    config: ArchConfig, given: Mapping[str, Any], *, hours: float | None, device: str, threads: int | None
) -> TrainingPlan:
    """Measures a step on this machine, and plans with it; a budget in hours becomes one in tokens.

    Raises:
        UsageError: there is no such device, or the memory is not enough.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    running, settings = make_running(given), make_settings(config, given)
    step = measure_step(config, settings, running, find_device(device))
    if hours is not None:
        rate = settings.step_tokens / step.seconds(settings)
        settings = make_settings(config, {**given, "tokens": max(1, round(hours * 3600 * rate))})
        settings = replace(settings, tokens=max(1, round(hours * 3600 * settings.step_tokens / step.seconds(settings))))
    return make_plan(config, settings, step)
