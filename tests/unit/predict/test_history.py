"""What verified rows say of the next prediction, and the file that they are kept in."""

import json
import random
from dataclasses import asdict, replace
from math import exp, log

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.predict.history import (
    HISTORY_FILE,
    append_history,
    error_model,
    new_rows,
    read_history,
    with_known_terms,
)
from edgeprof.predict.types import TermError

TERM = TermError(label="head", count=1, predicted_ns=2.0, traced_ns=1.0, share_of_error=1.0)
KIND = {"runtime": "torch_eager", "dtype": "fp32", "phase": "decode", "paired": False}


def test_without_history_the_prior_speaks() -> None:
    model = error_model([], **KIND)
    assert (model.shift, model.n_rows, model.n_models, model.p90_ratio) == (0.0, 0, 0, None)
    assert 0.10 < model.half < 0.20
    assert error_model([], **(KIND | {"paired": True})).half < model.half


def test_a_mean_error_is_corrected_the_more_models_show_it(make_row) -> None:
    shifts = [
        error_model([make_row(0.08, config_hash=str(i)) for i in range(n)], **KIND).shift for n in (0, 1, 4, 12, 400)
    ]
    assert shifts == sorted(shifts)
    assert shifts[1] == pytest.approx(0.08 / 5)
    assert shifts[2] == pytest.approx(0.08 * 4 / 8)
    assert shifts[-1] == pytest.approx(0.08, rel=0.02)


def test_the_history_learns_from_what_was_predicted_before_correction(make_row) -> None:
    """A correction that works makes later rows look right; the mean error must not be forgotten for that."""
    rows = [make_row(0.08, config_hash=str(i), predicted_ns=1e6 * exp(0.08)) for i in range(40)]
    assert error_model(rows, **KIND).shift == pytest.approx(0.08 * 40 / 44)


def test_without_correction_the_mean_error_widens_the_interval(make_row) -> None:
    rows = [make_row(0.08, config_hash=str(i)) for i in range(40)]
    plain, corrected = (error_model(rows, **KIND, corrected=c) for c in (False, True))
    assert plain.shift == 0.0
    assert plain.half > 0.08 + corrected.half / 2


def test_rows_of_one_model_count_as_one(make_row) -> None:
    once = error_model([make_row(0.06)], **KIND)
    often = error_model([make_row(0.06, context=n) for n in range(50)], **KIND)
    assert (often.shift, often.half) == (pytest.approx(once.shift), pytest.approx(once.half))
    assert (often.n_rows, often.n_models) == (50, 1)


def test_spread_within_a_model_is_not_averaged_away(make_row) -> None:
    def half(*errors: float) -> float:
        return error_model([make_row(e, config_hash=str(i)) for i in range(20) for e in errors], **KIND).half

    assert half(-0.2, 0.2) > 2 * half(0.0, 0.0)


@pytest.mark.parametrize(
    "other", [{"runtime": "onnxruntime"}, {"dtype": "bf16"}, {"phase": "prefill"}, {"paired": True}]
)
def test_rows_of_another_kind_say_nothing(make_row, other: dict) -> None:
    assert error_model([make_row(0.5, **other)], **KIND) == error_model([], **KIND)


def test_a_models_own_rows_can_be_left_out(make_row) -> None:
    rows = [make_row(0.1, config_hash="a"), make_row(0.02, config_hash="b")]
    assert error_model(rows, **KIND, without="a") == error_model(rows[1:], **KIND)


def test_p90_is_told_from_three_models_on_and_by_those_that_know_it(make_row) -> None:
    def ratio(*ratios: float | None) -> float | None:
        rows = [make_row(config_hash=str(i), p90_ratio=r) for i, r in enumerate(ratios)]
        return error_model(rows, **KIND).p90_ratio

    assert ratio(1.1, 1.2) is None
    assert ratio(1.1, 1.2, None, None) is None
    assert ratio(1.1, 1.3, None, 1.2) == 1.2


@pytest.mark.parametrize("n_models", [0, 2, 6, 20])
def test_the_next_model_lies_in_the_interval(make_row, n_models: int) -> None:
    """Errors around a shift common to all models, contexts of a model alike: 95 % is meant, and never much less."""
    chance, hits, worlds = random.Random(n_models), 0, 300

    def errors(shift: float) -> list[float]:
        model = chance.gauss(shift, 0.04)
        return [chance.gauss(model, 0.015) for _ in range(3)]

    for _ in range(worlds):
        shift = chance.gauss(0, 0.02)
        rows = [make_row(e, config_hash=str(i)) for i in range(n_models) for e in errors(shift)]
        known = error_model(rows, **KIND)
        hits += abs(errors(shift)[0] - known.shift) <= known.half
    assert hits / worlds >= 0.93


def test_rows_come_back_as_they_were_appended(make_row, tmp_path) -> None:
    rows = [make_row(0.01), make_row(-0.02, session_id="é", measured_ci95_ns=None, aa_spread=None, warnings=("w",))]
    append_history(tmp_path / "new", rows[:1])
    append_history(tmp_path / "new", rows[1:])
    assert read_history(tmp_path / "new") == rows
    assert read_history(tmp_path) == []


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("measured_ns", 0, "positive"),
        ("uncorrected_ns", -1, "positive"),
        ("phase", "training", "phase"),
        ("measured_ns", None, "measured_ns"),
        ("extra", 1, "extra"),
        ("schema_version", 0, "schema_version"),
        ("terms", [{"label": "head"}], "terms"),
        ("terms", [asdict(TERM) | {"extra": 1}], "terms"),
    ],
)
def test_a_corrupt_line_is_named_with_its_number(make_row, tmp_path, field: str, value: object, told: str) -> None:
    append_history(tmp_path, [make_row(), make_row()])
    with (tmp_path / HISTORY_FILE).open("a") as file:
        file.write(json.dumps(asdict(make_row()) | {field: value}) + "\n")
    with pytest.raises(UsageError, match=rf"{HISTORY_FILE}:3: not a verified row \(.*{told}"):
        read_history(tmp_path)


@pytest.mark.parametrize("line", [b"{", b"\xff\xfe", b"", b"null", b'{"measured_ns": NaN}', b"[]"])
def test_a_line_that_is_no_row_is_named_too(make_row, tmp_path, line: bytes) -> None:
    append_history(tmp_path, [make_row()])
    with (tmp_path / HISTORY_FILE).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(UsageError, match=rf"{HISTORY_FILE}:2: not a verified row"):
        read_history(tmp_path)


def test_a_measurement_is_told_once(make_row) -> None:
    row = make_row()
    again = make_row(0.5, at="2027-01-01T00:00:00+00:00")  # the same session looked at another day
    other = make_row(session_id="s2")
    assert new_rows([again, other], [row]) == [other]


def test_a_row_that_was_traced_later_takes_its_own_place(make_row, tmp_path) -> None:
    plain, other = make_row(), make_row(session_id="s2")
    traced = replace(plain, terms=(TERM,), blame="head")
    append_history(tmp_path, [plain, other])
    assert new_rows([traced, other], read_history(tmp_path)) == [traced]
    append_history(tmp_path, [traced])
    assert read_history(tmp_path) == [traced, other]
    assert new_rows([traced], read_history(tmp_path)) == []
    assert with_known_terms([plain, other], read_history(tmp_path)) == [traced, other]


def test_a_line_from_before_terms_were_traced_is_still_a_row(make_row, tmp_path) -> None:
    old = {n: v for n, v in asdict(make_row()).items() if n not in ("schema_version", "terms", "blame")}
    (tmp_path / HISTORY_FILE).write_text(json.dumps(old) + "\n")
    assert read_history(tmp_path) == [make_row()]


def test_a_line_of_a_newer_edgeprof_is_told_as_such(make_row, tmp_path) -> None:
    append_history(tmp_path, [make_row(schema_version=3)])
    with pytest.raises(UsageError, match=rf"{HISTORY_FILE}:1: schema_version 3 is of a newer edgeprof"):
        read_history(tmp_path)


def test_the_error_is_a_ratios_logarithm(make_row) -> None:
    row = make_row(0.1)
    assert log(row.measured_ns / row.uncorrected_ns) == pytest.approx(0.1)
    assert row.signed_error == pytest.approx(exp(-0.1) - 1)
    assert not make_row(0.2).covered
    assert make_row(0.05).covered
