"""Quality as held-out loss on the user's text."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeprof.core.errors import UsageError
from edgeprof.models.config import config_of_pattern
from edgeprof.search import perplexity as perplexity_module
from edgeprof.search.objective import Objective, Score, load_objective
from edgeprof.search.perplexity import PerplexityObjective
from edgeprof.search.twin import TwinReference
from edgeprof.search.twin_training import SEGMENTS

DIMS = {"n_heads": 16, "n_kv_heads": 8, "head_dim": 64, "window": 512, "d_ff": 4096}
CONFIG = config_of_pattern("C", DIMS, name="model", d_model=1024, vocab=65_536)
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda")


@pytest.fixture
def objective(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objective:
    path = tmp_path / "text.txt"
    path.write_text(" ".join(WORDS[(i * i + i // 7) % len(WORDS)] for i in range(12_000)))
    monkeypatch.setattr(perplexity_module, "RECIPE", replace(perplexity_module.RECIPE, steps=40))
    monkeypatch.setattr(perplexity_module, "HELD_OUT_BATCHES", 1)
    return load_objective(f"perplexity:{path}")


def score(objective: Objective, stage: str = "", seed: int = 0) -> Score:
    return objective.score(CONFIG, seed=seed, budget=objective.stage(stage), report=lambda _step, _value: None)


def test_a_text_that_is_learnt_has_a_smaller_loss(objective: Objective) -> None:
    assert objective.direction == "minimize"
    short, long = score(objective, "quick"), score(objective)
    assert long.value < short.value < math.log(512)


def test_the_parts_tell_the_loss_in_other_units(objective: Objective) -> None:
    found = score(objective)
    assert found.parts["perplexity"] == pytest.approx(math.exp(found.value))
    assert 0 < found.parts["bits_per_byte"] < found.value / math.log(2)


def test_what_is_scored_was_held_out(objective: Objective) -> None:
    """A held-out part that no training text foretells has a large loss, however well the rest is learnt."""
    assert isinstance(objective, PerplexityObjective)
    foreign = np.random.default_rng(0).integers(0, 512, len(objective.corpus.held_out))
    other = replace(objective, corpus=replace(objective.corpus, held_out=foreign))
    assert score(other).value > score(objective).value + 1


def test_a_seed_gives_the_same_score_again(objective: Objective) -> None:
    assert score(objective).value == score(objective).value != score(objective, seed=1).value


def test_the_noise_of_one_seed_is_unknown_and_of_two_is_theirs(objective: Objective) -> None:
    assert score(objective).se is None
    found = score(objective, "final")
    assert found.se is not None
    assert found.se > 0


def test_segments_are_reported_on_one_grid(objective: Objective) -> None:
    steps: list[int] = []
    objective.score(CONFIG, seed=0, budget=objective.final_stage, report=lambda step, _value: steps.append(step))
    assert steps == list(range(2 * SEGMENTS))


def test_the_name_tells_the_texts_content(objective: Objective, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("another text " * 5000)
    assert load_objective(f"perplexity:{tmp_path / 'text.txt'}").name != objective.name


def test_the_name_tells_the_reference_too(objective: Objective, tmp_path: Path) -> None:
    source = f"perplexity:{tmp_path / 'text.txt'}"
    assert load_objective(source, reference=TwinReference(context=9999)).name != objective.name


def test_there_are_three_stages(objective: Objective) -> None:
    assert [objective.stage(name).name for name in ("", "quick", "final")] == ["standard", "quick", "final"]
    with pytest.raises(UsageError, match="did you mean final"):
        objective.stage("finale")
