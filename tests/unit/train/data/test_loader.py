"""Batches: what a row holds, and a position from which training goes on exactly."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from edgeprof.core.errors import UsageError
from edgeprof.train.data.dataset import DataSet, TokenSplit
from edgeprof.train.data.loader import IGNORED, Batches, in_order, make_batch

T = 16


@pytest.fixture
def split(dataset: Callable[..., DataSet]) -> TokenSplit:
    return dataset(shard_tokens=100).split("train")


def batches(split: TokenSplit, **changes: Any) -> Batches:
    return Batches(split, **({"batch": 4, "seq_len": T, "seed": 1} | changes))


def naive_rows(split: TokenSplit) -> list[tuple[list[int], list[int], list[int]]]:
    """Every sample, token by token."""
    tokens, ends = split.read(0, split.tokens).tolist(), split.ends.tolist()
    of_document = np.repeat(np.arange(len(ends)), np.diff([0, *ends])).tolist()
    rows = []
    for start in range(0, split.tokens - T, T):
        at = range(start, start + T)
        targets = [tokens[p + 1] if of_document[p] == of_document[p + 1] else IGNORED for p in at]
        rows.append(([tokens[p] for p in at], targets, [of_document[p] - of_document[start] for p in at]))
    return rows


def test_rows_hold_tokens_next_tokens_and_documents(split: TokenSplit) -> None:
    expected = naive_rows(split)
    found = make_batch(split, list(range(len(expected))), T)
    assert {t.dtype for t in found} == {torch.int64}
    assert [list(row) for row in zip(*(t.tolist() for t in found), strict=True)] == [list(r) for r in expected]
    assert any(documents[-1] > 0 for _, _, documents in expected)  # else nothing about documents was shown


def test_the_end_of_a_document_is_predicted_and_the_beginning_of_the_next_is_not(split: TokenSplit) -> None:
    rows = make_batch(split, list(range((split.tokens - 1) // T)), T)
    at_end = rows.ids == 0
    assert at_end.any()
    assert (rows.targets[at_end] == IGNORED).all()
    assert (rows.targets[~at_end] != IGNORED).all()
    assert (rows.targets == 0).any()


def test_an_epoch_visits_every_sample_once_and_the_next_in_another_order(split: TokenSplit) -> None:
    loader = batches(split)
    n = loader.n_samples
    first, second = loader.samples(0, n), loader.samples(n, n)
    assert sorted(first) == sorted(second) == list(range(n))
    assert first != second
    assert first != list(range(n))
    assert batches(split, seed=2).samples(0, n) != first
    assert batches(split).samples(0, n) == first


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_together_see_what_one_sees(split: TokenSplit, world_size: int) -> None:
    one = batches(split)
    each = [batches(split, rank=r, world_size=world_size) for r in range(world_size)]
    for _ in range(2 * one.n_samples // 4):
        whole, parts = next(one), [next(loader) for loader in each]
        for field in range(3):
            together = torch.empty_like(whole[field])
            for rank, part in enumerate(parts):
                together[rank::world_size] = part[field]
            assert torch.equal(together, whole[field])


def test_a_restored_loader_goes_on_exactly_also_with_other_processes_and_batches(split: TokenSplit) -> None:
    loader = batches(split)
    for _ in range(7):
        next(loader)
    state = json.loads(json.dumps(loader.state()))
    expected = torch.cat([next(loader).ids for _ in range(2)])
    same, larger = batches(split), batches(split, batch=8)
    halves = [batches(split, batch=8, rank=r, world_size=2) for r in range(2)]
    for other in (same, larger, *halves):
        other.restore(state)
    assert torch.equal(torch.cat([next(same).ids, next(same).ids]), expected)
    assert torch.equal(next(larger).ids, expected)
    assert torch.equal(torch.stack([next(h).ids for h in halves], dim=1).reshape(8, T), expected)
    assert same.state() == larger.state() == halves[0].state()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 9}, "seed: was 9 and is 1 now"),
        ({"seq_len": 8}, "seq_len: was 8 and is 16 now"),
        ({"data": "0" * 32}, "data: was 0000"),
        ({"split": "held_out"}, "split: was held_out and is train now"),
        ({"position": -1}, "its position in the data cannot be read"),
        ({"position": "3"}, "its position in the data cannot be read"),
        ({"version": 2}, "its position in the data cannot be read"),
    ],
)
def test_a_state_of_something_else_is_refused(split: TokenSplit, change: dict[str, Any], said: str) -> None:
    loader = batches(split)
    with pytest.raises(UsageError, match=said):
        loader.restore(loader.state() | change)
    assert loader.position == 0


def test_the_epoch_counts_how_often_the_data_were_seen(split: TokenSplit) -> None:
    loader = batches(split)
    loader.position = 3 * loader.n_samples // 2
    assert loader.epoch == pytest.approx(1.5, abs=0.05)


def test_too_few_tokens_and_uneven_batches_are_refused(split: TokenSplit) -> None:
    with pytest.raises(UsageError, match=r"tokens are too few for one sequence of 100,000"):
        batches(split, seq_len=100_000)
    with pytest.raises(UsageError, match="batch: 4 rows cannot be shared by 3 processes"):
        batches(split, world_size=3)


def test_a_sequence_may_be_as_long_as_the_data_allow(split: TokenSplit) -> None:
    loader = batches(split, seq_len=split.tokens - 1, batch=1)
    assert loader.n_samples == 1
    assert next(loader).ids[0].tolist() == split.read(0, split.tokens - 1).tolist()


def test_evaluation_takes_every_target_once_in_order(split: TokenSplit) -> None:
    found = list(in_order(split, batch=5, seq_len=T))
    assert [b.ids.shape[0] for b in found[:-1]] == [5] * (len(found) - 1)
    targets = torch.cat([b.targets.flatten() for b in found])
    assert (targets != IGNORED).sum() == split.tokens - split.documents
    tokens = split.read(0, split.tokens)
    first = np.zeros(split.tokens, dtype=bool)
    first[[0, *split.ends[:-1]]] = True
    assert targets[targets != IGNORED].tolist() == tokens[~first].tolist()


def test_what_fills_the_last_row_is_a_document_of_its_own(split: TokenSplit) -> None:
    assert (split.tokens - 1) % 30
    *_, last = in_order(split, batch=1, seq_len=30)
    filled = (split.tokens - 1) % 30
    assert (last.targets[0, filled:] == IGNORED).all()
    assert last.documents[0, filled] > last.documents[0, filled - 1]
    assert (last.documents.diff() >= 0).all()
