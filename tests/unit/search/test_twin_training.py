"""A short training of a twin: paired over candidates, told in segments, and robust where it diverges."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.search.tasks import recall
from edgeprof.search.twin import TwinReference, TwinSize
from edgeprof.search.twin_training import SEGMENTS, WARM_UP_STEPS, Recipe, TwinTraining, batch_loss, learning_rate

DIMS = {"n_heads": 16, "n_kv_heads": 8, "head_dim": 64, "window": 512, "d_ff": 4096}
RECIPE = Recipe(
    size=TwinSize(d_model=16, vocab=8, tokens=16),
    batch=8,
    steps=25,
    learning_rate=8e-3,
    decay=0.2,
    embedding_sd=0.1,
)


def make_batch(rng):  # type: ignore[no-untyped-def]
    return recall(rng, batch=RECIPE.batch, tokens=16, n_keys=4)


def arch(pattern: str) -> ArchConfig:
    return config_of_pattern(pattern, DIMS, name="model", d_model=1024, vocab=65_536)


def training(pattern: str = "CG", *, recipe: Recipe = RECIPE, seed: int = 0, batches=make_batch) -> TwinTraining:  # type: ignore[no-untyped-def]
    return TwinTraining(arch(pattern), recipe, batches, reference=TwinReference(), name="task", seed=seed)


def test_losses_repeat_to_the_bit() -> None:
    first, same, other = (list(training(seed=seed).segments()) for seed in (3, 3, 4))
    assert first == same
    assert first != other


def test_a_seed_decides_data_and_weights() -> None:
    seen: dict[int, bytes] = {}

    def batches(rng):  # type: ignore[no-untyped-def]
        batch = make_batch(rng)
        seen.setdefault(len(seen), batch[0].tobytes())
        return batch

    weights = []
    for seed in (0, 1):
        started = training(seed=seed, batches=batches)
        weights.append(started.model.get_parameter("layers.0.mixer.w_b").detach().clone())
        next(started.segments())
    steps_a_segment = len(seen) // 2
    assert seen[0] != seen[steps_a_segment]
    assert not torch.equal(*weights)


def test_a_twin_learns() -> None:
    losses = list(training(recipe=replace(RECIPE, steps=200)).segments())
    assert losses[0] > 1.2
    assert losses[-1] < losses[0] / 2


def test_segments_cover_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(TwinTraining, "_step", lambda self, optimiser, step: steps.append(step) or float(step))
    losses = list(training().segments())
    assert steps == list(range(RECIPE.steps))
    assert len(losses) == SEGMENTS
    assert losses[0] == 1.0  # steps 0, 1, 2


def test_all_candidates_see_the_same_data() -> None:
    seen: dict[str, list[bytes]] = {}
    for pattern in ("CG", "SSC"):

        def batches(rng, pattern=pattern):  # type: ignore[no-untyped-def]
            batch = make_batch(rng)
            seen.setdefault(pattern, []).append(batch[0].tobytes())
            return batch

        list(training(pattern, batches=batches).segments())
    assert seen["CG"] == seen["SSC"]
    assert len(set(seen["CG"])) == RECIPE.steps


def test_candidates_start_alike_where_they_share_a_layer() -> None:
    one, other = training("CG").model, training("CS").model
    for name in ("embedding.table", "layers.0.mixer.w_b", "layers.1.mixer.w_q"):
        assert torch.equal(one.get_parameter(name), other.get_parameter(name))


def test_the_embedding_starts_with_the_recipes_spread() -> None:
    assert float(training().model.embedding.table.detach().std()) == pytest.approx(RECIPE.embedding_sd)


def test_a_training_that_diverges_has_learnt_nothing_from_there_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        TwinTraining, "_step", lambda self, optimiser, step: math.nan if step == 11 else 0.25 if step < 11 else 0.0
    )
    losses = list(training().segments())
    assert losses[:3] == [0.25] * 3
    assert losses[3:] == [math.log(8)] * 7


def test_the_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    recipe = replace(RECIPE, steps=1000)
    rates = [learning_rate(recipe, step) / recipe.learning_rate for step in range(1000)]
    assert rates[0] == pytest.approx(1 / WARM_UP_STEPS)
    assert rates[WARM_UP_STEPS - 1 : 800] == [1.0] * (801 - WARM_UP_STEPS)
    assert rates[900] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(1 / 200)


def test_a_short_training_warms_up_for_a_fifth() -> None:
    assert learning_rate(RECIPE, 4) == RECIPE.learning_rate > learning_rate(RECIPE, 3)


def test_positions_without_a_target_do_not_count() -> None:
    model = training().model
    inputs, targets = make_batch(np.random.default_rng(0))
    logits = torch.zeros(*inputs.shape, 8)
    model.forward = lambda *_: logits  # type: ignore[method-assign]
    assert batch_loss(model, (inputs, targets)).item() == pytest.approx(math.log(8))
