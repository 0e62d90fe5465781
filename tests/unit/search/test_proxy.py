"""The quality proxy: deterministic, paired, standardised with fixed constants, and it knows its noise."""

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.search import proxy as proxy_module
from edgeprof.search.objective import Score, Stage, load_objective
from edgeprof.search.proxy import DEFAULT_WEIGHTS, STAGES, ProxyObjective, load_proxy
from edgeprof.search.proxy_parts import PARTS, Part
from edgeprof.search.twin import TwinReference
from edgeprof.search.twin_training import SEGMENTS

DIMS = {"n_heads": 16, "n_kv_heads": 8, "head_dim": 64, "window": 512, "d_ff": 4096}
REFERENCE = TwinReference(context=4096, d_ff_ratio=4.0)
PROXY = load_proxy("", REFERENCE)
QUICK = PROXY.stage("quick")


def arch(pattern: str) -> ArchConfig:
    return config_of_pattern(pattern, DIMS, name="model", d_model=1024, vocab=65_536)


@pytest.fixture(autouse=True)
def _few_steps(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of twenty steps: what is computed from losses is tested here, not how good they are."""

    def short(part: Part) -> Part:
        return replace(part, recipe=replace(part.recipe, steps=20))

    monkeypatch.setattr(proxy_module, "PARTS", tuple(map(short, PARTS)))


def score(pattern: str = "C", *, proxy: ProxyObjective = PROXY, seed: int = 0, stage: Stage = QUICK) -> Score:
    return proxy.score(arch(pattern), seed=seed, budget=stage, report=lambda _step, _value: None)


def reported(pattern: str = "C", *, stage: Stage = QUICK, proxy: ProxyObjective = PROXY) -> dict[int, float]:
    found: dict[int, float] = {}
    proxy.score(arch(pattern), seed=0, budget=stage, report=lambda step, value: found.update({step: value}))
    return found


def test_a_seed_gives_the_same_score_again_and_another_seed_another() -> None:
    first, same, other = score("CG"), score("CG"), score("CG", seed=1)
    assert (first.value, first.parts) == (same.value, same.parts)
    assert first.value != other.value


def test_a_score_is_the_weighted_sum_of_standardised_losses() -> None:
    proxy = load_proxy("text=2,recall=0.5,copying=3", REFERENCE)
    found = score(proxy=proxy)
    by_hand = sum(proxy.weights[part.kind] * (part.centre - found.parts[part.name]) / part.scale for part in PARTS)
    assert found.value == pytest.approx(by_hand)
    assert found.value == pytest.approx(
        sum(w * score(proxy=load_proxy(kind, REFERENCE)).value for kind, w in proxy.weights.items())
    )


def test_less_loss_is_a_better_score() -> None:
    assert PROXY.direction == "maximize"
    assert all(part.worth(1.0) > part.worth(2.0) for part in PARTS)


def test_a_score_does_not_depend_on_what_else_was_scored() -> None:
    alone = score("CG").value
    score("GG")
    assert score("CG").value == alone


def test_the_mean_of_what_is_reported_is_the_score() -> None:
    for stage in (QUICK, replace(QUICK, seeds=2)):
        assert statistics.fmean(reported(stage=stage).values()) == pytest.approx(score(stage=stage).value)


def test_every_layout_reports_on_the_same_grid() -> None:
    grids = [list(reported(pattern)) for pattern in ("C", "GSC")]
    assert grids[0] == grids[1] == list(range(SEGMENTS * len(score().parts)))


def test_what_is_reported_early_is_of_all_parts() -> None:
    """One step a part, then the next step of each: the first of each part is its first segment."""
    single = {kind: list(reported(proxy=load_proxy(kind, REFERENCE)).values()) for kind in ("text", "recall")}
    both = list(reported().values())
    assert both[:2] == pytest.approx([2 * single["text"][0], 2 * single["recall"][0]])


def test_a_report_may_end_the_scoring() -> None:
    seen = []

    def report(step: int, value: float) -> None:
        seen.append(step)
        if step == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        PROXY.score(arch("C"), seed=0, budget=QUICK, report=report)
    assert seen == [0, 1, 2, 3]


def test_two_seeds_are_averaged_and_halve_the_variance() -> None:
    one, other = score(seed=4), score(seed=5)
    both = score(seed=4, stage=replace(QUICK, seeds=2))
    assert both.value == pytest.approx((one.value + other.value) / 2)
    assert both.parts["text_64"] == pytest.approx((one.parts["text_64"] + other.parts["text_64"]) / 2)
    assert one.se is not None
    assert both.se == pytest.approx(one.se / math.sqrt(2))


def test_the_noise_grows_with_the_weights() -> None:
    single = {kind: score(proxy=load_proxy(kind, REFERENCE)).se for kind in ("text", "recall")}
    assert score().se == pytest.approx(math.hypot(*single.values()))
    assert score(proxy=load_proxy("text=3", REFERENCE)).se == pytest.approx(3 * single["text"])


def test_there_are_constants_for_a_part_of_every_kind() -> None:
    assert [part.kind for part in PARTS] == list(DEFAULT_WEIGHTS)
    for part in PARTS:
        assert part.seed_sd > 0
        assert 0 < part.scale < part.centre < math.log(part.recipe.size.vocab)


def test_the_final_stage_has_more_seeds_and_none_that_chose_the_finalists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PROXY.final_stage == PROXY.stage("final")
    seeds: dict[str, list[int]] = {}
    for stage in STAGES:
        tried = seeds.setdefault(stage.name, [])

        def segments(_self: object, _config: object, parts: list[Part], seed: int, tried: list[int] = tried) -> list:
            tried.append(seed)
            return [(part, 1.0) for part in parts]

        monkeypatch.setattr(ProxyObjective, "_segments", segments)
        score(seed=3, stage=stage)
    assert seeds["quick"] == [3]
    assert seeds["standard"] == [3, 4, 5, 6]
    assert len(set(seeds["final"])) == 16
    assert not {*seeds["quick"], *seeds["standard"]} & {*seeds["final"]}


def test_the_stage_for_every_candidate_is_the_standard_one() -> None:
    assert PROXY.stage("").name == "quick"
    with pytest.raises(UsageError, match="stage: 'quickly' is none of the objective proxy; did you mean quick"):
        PROXY.stage("quickly")


def test_equal_names_mean_comparable_scores() -> None:
    others = [
        load_proxy("text=1,recall=2", REFERENCE),
        load_proxy("", TwinReference(context=8192, d_ff_ratio=4.0)),
        load_proxy("", TwinReference(context=4096, d_ff_ratio=3.0)),
    ]
    names = [PROXY.name, *(proxy.name for proxy in others)]
    assert len(set(names)) == len(names)
    assert load_proxy("recall,text=1.0", REFERENCE).name == PROXY.name


def test_the_objective_takes_the_spaces_reference() -> None:
    other = TwinReference(context=512, d_ff_ratio=2.5)
    assert load_objective("proxy", reference=other).name == load_proxy("", other).name
    assert load_objective("proxy").name == load_proxy("", TwinReference()).name
