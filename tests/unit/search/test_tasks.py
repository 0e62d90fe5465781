"""The tasks that twins are trained on: what is asked can be answered from the sequence, and data depend on the seed only."""

from collections.abc import Callable

import numpy as np
import pytest

from edgeprof.search.tasks import IGNORED, Batch, recall, selective_copying, text_windows

STREAM = np.arange(1000)
TASKS: dict[str, Callable[[np.random.Generator], Batch]] = {
    "recall": lambda rng: recall(rng, batch=3, tokens=32, n_keys=6),
    "copying": lambda rng: selective_copying(rng, batch=3, tokens=32, n_copied=5, n_symbols=7),
    "text": lambda rng: text_windows(rng, STREAM, batch=3, tokens=32),
}
EVERY_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@EVERY_TASK
def test_data_depend_on_the_seed_only(task: Callable[[np.random.Generator], Batch]) -> None:
    first, same, other = (task(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not np.array_equal(first[0], other[0])


@EVERY_TASK
def test_every_step_brings_fresh_data_of_the_same_shape(task: Callable[[np.random.Generator], Batch]) -> None:
    rng = np.random.default_rng(0)
    one, two = task(rng), task(rng)
    assert not np.array_equal(one[0], two[0])
    assert {a.shape for batch in (one, two) for a in batch} == {(3, 32)}


def test_recall_asks_for_the_value_that_the_key_had_before() -> None:
    inputs, targets = recall(np.random.default_rng(0), batch=20, tokens=40, n_keys=5)
    for row, asked in zip(inputs, targets, strict=True):
        known: dict[int, int] = {}
        for position in range(0, 40, 2):
            key, value = row[position], row[position + 1]
            assert 0 <= key < 5 <= value < 10
            assert asked[position] == known.get(key, IGNORED)
            assert known.setdefault(key, value) == value
            assert asked[position + 1] == IGNORED


def test_the_same_key_has_other_values_in_other_sequences() -> None:
    inputs, _ = recall(np.random.default_rng(0), batch=20, tokens=40, n_keys=5)
    pairs = {(int(k), int(v)) for row in inputs for k, v in zip(row[::2], row[1::2], strict=True)}
    assert len(pairs) > 15


def test_copying_asks_for_the_symbols_in_their_order() -> None:
    inputs, targets = selective_copying(np.random.default_rng(0), batch=20, tokens=30, n_copied=6, n_symbols=9)
    for row, asked in zip(inputs, targets, strict=True):
        mark = int(np.flatnonzero(row == 10)[0])
        symbols = row[row < 9]
        assert mark == 30 - 7
        assert len(symbols) == 6
        assert np.array_equal(asked[mark:-1], symbols)
        assert set(asked[:mark]) | {asked[-1]} == {IGNORED}
        assert set(row[mark + 1 :]) == {9}


def test_symbols_to_copy_lie_anywhere_before_the_mark() -> None:
    inputs, _ = selective_copying(np.random.default_rng(0), batch=200, tokens=30, n_copied=6, n_symbols=9)
    assert ((inputs < 9)[:, :23].mean(0) > 0.1).all()


def test_text_asks_for_the_next_token() -> None:
    inputs, targets = text_windows(np.random.default_rng(0), STREAM, batch=50, tokens=30)
    assert np.array_equal(targets, inputs + 1)
    assert len(set(inputs[:, 0])) > 25


def test_the_last_token_of_a_text_is_a_target_too() -> None:
    _, targets = text_windows(np.random.default_rng(0), np.arange(12), batch=50, tokens=10)
    assert targets.max() == 11
