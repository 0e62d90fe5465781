import json

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.models.accounting import LARGE_SHARE, parameters
from edgeprof.models.config import load_config
from edgeprof.train.amounts import check_hours, format_count, format_time, parse_tokens
from edgeprof.train.measure import MeasuredStep
from edgeprof.train.plan import make_plan, over_training, plan_for, plan_json, smaller_vocabulary
from edgeprof.train.scaling import CHINCHILLA, batch_tokens, learning_rate, optimal_tokens
from edgeprof.train.settings import make_settings, training_flops

STEP = MeasuredStep(precision="fp32", micro_batch=2, gradient_s=0.5, update_s=0.25, peak_bytes=10**9, choice="fp32")


def test_the_fit_is_that_of_the_replication() -> None:
    """Chinchilla itself, 70B parameters and 1.4T tokens: 482.01/70e9^0.3478 = 0.0815, 2085.43/1.4e12^0.3658 = 0.0752."""
    assert CHINCHILLA.loss(70e9, 1.4e12) == pytest.approx(1.8172 + 0.0815 + 0.0752, abs=2e-4)


def test_compute_optimal_is_twenty_tokens_a_parameter() -> None:
    assert optimal_tokens(1_000_000) == 20_000_000


def test_the_rate_and_the_batch_are_deepseeks_at_their_own_scale() -> None:
    """At 1e20 FLOPs: 0.3118 * 1e20^-0.125 = 9.86e-4, and 0.2920 * 1e20^0.3271 = 1.02M tokens."""
    assert learning_rate(1e20) == pytest.approx(9.86e-4, rel=1e-3)
    assert batch_tokens(1e20) == pytest.approx(1.019e6, rel=2e-3)


def test_a_compute_optimal_run_is_its_own_equal() -> None:
    found = over_training(10**9, optimal_tokens(10**9))
    assert found.ratio == 1
    assert found.equal_parameters == pytest.approx(10**9, rel=1e-6)
    assert found.training_cost == pytest.approx(1, rel=1e-6)


def test_over_training_buys_a_smaller_model_for_more_compute() -> None:
    """LFM2-350M on 28T tokens, as its makers tell."""
    found = over_training(354_483_968, 28 * 10**12)
    assert found.ratio == pytest.approx(3949, rel=1e-3)
    assert found.inference_saving > 3
    assert found.training_cost > 1
    equal = found.equal_parameters
    assert CHINCHILLA.loss(equal, 20 * equal) == pytest.approx(found.loss, abs=1e-6)
    assert found.in_range


def test_a_model_far_below_the_fit_is_said_to_be_outside(config) -> None:
    assert not over_training(parameters(config), 10**6).in_range


def test_time_adds_up_from_micro_batches_and_updates(config) -> None:
    settings = make_settings(config, {"tokens": 1000, "seq_len": 10, "batch": 10})
    plan = make_plan(config, settings, STEP)
    assert plan.step_s == 5 * 0.5 + 0.25
    assert plan.hours == pytest.approx(10 * 2.75 / 3600)
    assert plan.tokens_per_s == pytest.approx(100 / 2.75)


def test_a_large_vocabulary_is_warned_of_with_one_that_fits() -> None:
    config = load_config("gemma-3-270m")
    found = smaller_vocabulary(config)
    assert found.vocab < config.vocab
    assert found.share <= LARGE_SHARE < 2 * found.share
    assert found.saved_parameters == (config.vocab - found.vocab) * config.d_model
    assert smaller_vocabulary(load_config("lfm2-1.2b")) is None


def test_training_takes_about_six_flops_a_parameter_and_token() -> None:
    config = load_config("lfm2-350m")
    assert training_flops(config, 256) / parameters(config) == pytest.approx(6, rel=0.1)


def test_a_plan_is_measured_on_this_machine_and_is_json(config) -> None:
    plan = plan_for(config, {"batch": 2, "micro_batch": 2, "precision": "fp32"}, hours=None, device="cpu", threads=None)
    document = json.loads(json.dumps(plan_json(plan), allow_nan=False))
    assert plan.step.gradient_s > 0
    assert plan.step.peak_bytes > plan.state_bytes
    assert document["over_training"]["source"].startswith("Besiroglu")
    assert document["settings"]["tokens"] == document["optimal_tokens"]


def test_a_budget_in_hours_becomes_one_in_tokens(config, monkeypatch) -> None:
    monkeypatch.setattr("edgeprof.train.plan.measure_step", lambda *_: STEP)
    plan = plan_for(config, {"batch": 4}, hours=2.0, device="cpu", threads=None)
    assert plan.hours == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "tokens"), [("20M", 20_000_000), ("1.5b", 1_500_000_000), ("3", 3), ("500k", 500_000)]
)
def test_tokens_are_decimal(text, tokens) -> None:
    assert parse_tokens(text, field="--tokens") == tokens


@pytest.mark.parametrize("text", ["", "0", "-1", "20X", "1e6", "9999T", "nan"])
def test_no_number_of_tokens(text) -> None:
    with pytest.raises(UsageError, match=r"--tokens: .* is no number of tokens; write 500k, 20M or 1.5B"):
        parse_tokens(text, field="--tokens")


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan"), float("inf")])
def test_no_number_of_hours(hours) -> None:
    with pytest.raises(UsageError, match="--hours"):
        check_hours(hours, field="--hours")


def test_amounts_are_said_shortly() -> None:
    assert [format_count(n) for n in (999, 189_440, 3_788_800, 1.2e9)] == ["999", "189K", "3.79M", "1.2B"]
    assert [format_time(s) for s in (3.21, 45, 200, 18_600, 180_000)] == [
        "3.2 s", "45 s", "3 min 20 s", "5 h 10 min", "2 d 2 h",
    ]  # fmt: skip
