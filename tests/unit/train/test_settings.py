import pytest

from edgeprof.core.errors import UsageError
from edgeprof.models.config import load_config
from edgeprof.train.settings import make_running, make_settings, setting_names
from edgeprof.train.settings_file import SettingsFile, check_given, read_settings


def test_the_budget_is_twenty_tokens_a_parameter_unless_told(config) -> None:
    from edgeprof.models.accounting import parameters

    assert make_settings(config, {}).tokens == 20 * parameters(config)
    assert make_settings(config, {"tokens": 999}).tokens == 999


def test_small_data_are_seen_twice_unless_told(config) -> None:
    assert make_settings(config, {}, data_tokens=500).tokens == 1000
    assert make_settings(config, {"tokens": 9999}, data_tokens=500).tokens == 9999
    assert make_settings(config, {}, data_tokens=10**9).tokens == make_settings(config, {}).tokens


def test_the_sequence_is_no_longer_than_the_models_context(config) -> None:
    assert make_settings(config, {}).seq_len == config.max_context == 64
    assert make_settings(load_config("tiny-hybrid"), {}).seq_len == 256


def test_larger_budgets_take_larger_batches_and_lower_rates() -> None:
    small = make_settings(load_config("tiny-hybrid"), {})
    large = make_settings(load_config("lfm2-350m"), {})
    assert large.step_tokens > small.step_tokens
    assert large.lr < small.lr


def test_the_last_step_may_go_beyond_the_budget(config) -> None:
    settings = make_settings(config, {"tokens": 101, "seq_len": 10, "batch": 5})
    assert settings.steps == 3


def test_what_decides_how_it_runs_is_apart_from_what_decides_the_result(config) -> None:
    given = {"keep": 5, "lr": 0.5}
    assert make_running(given).keep == 5
    assert make_settings(config, given).lr == 0.5


def test_a_file_and_options_share_one_check(tmp_path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('lr = 0.5\noptimiser = "adamw"\nkeep = 3\n')
    assert read_settings(path) == {"lr": 0.5, "optimiser": "adamw", "keep": 3}
    assert set(SettingsFile.model_fields) == set(setting_names())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"lr": 0}, "options: lr: 0 is too small"),
        ({"lr": float("nan")}, "options: lr: nan is not a finite number"),
        ({"optimiser": "sgd"}, "options: optimiser: 'sgd' is none; use 'muon' or 'adamw'"),
        ({"batch": 2.5}, "options: batch: 2.5 is not a whole number"),
        ({"lrr": 0.1}, "options: lrr: no such setting"),
        ({"warmup": 2.0}, "options: warmup: 2.0 is too large"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(given, told) -> None:
    with pytest.raises(UsageError, match=told) as error:
        check_given(given, "options")
    assert "\n" not in str(error.value)
