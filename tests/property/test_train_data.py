import contextlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprof.train.data import prepare as prepare_module
from edgeprof.train.data.dataset import open_data
from edgeprof.train.data.loader import Batches
from edgeprof.train.data.permutation import Permutation
from edgeprof.train.data.pieces import pieces_of
from edgeprof.train.data.prepare import Order, prepare
from edgeprof.train.data.shards import SplitWriter
from edgeprof.train.data.tokenizer import Specials, load_tokenizer

TEXTS = st.lists(st.text(min_size=1, max_size=60).filter(str.strip), min_size=2, max_size=12, unique=True)
FEW = settings(max_examples=20, deadline=None)


class StoppedError(Exception):
    pass


class Silent:
    def stage(self, name, total):
        pass

    def step(self, label):
        pass


def make(folder, texts, **changes):
    source = Path(folder) / "data.jsonl"
    source.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    fields = {"sources": [str(source)], "out": Path(folder) / "out", "vocab": 270, "shard_tokens": 16, "held_out": 0.2}
    order = Order(**(fields | changes))
    prepare(order, Silent())
    return open_data(order.out)


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


@FEW
@given(TEXTS, st.integers(1, 50))
def test_shards_one_after_another_are_the_tokenised_documents_in_order(texts, shard_tokens):
    with tempfile.TemporaryDirectory() as folder:
        data = make(folder, texts, shard_tokens=shard_tokens, held_out=0.0)
        tokenizer = load_tokenizer(data.folder, Specials(), vocab=None)
        expected = [[*ids.tolist(), tokenizer.eos] for ids in tokenizer.encode(texts)]
        raw = b"".join((data.folder / f"train-{n:05d}.bin").read_bytes() for n in range(len(data.index.train.shards)))
        assert np.frombuffer(raw, "<u2").tolist() == [i for ids in expected for i in ids]
        split = data.split("train")
        assert split.read(0, split.tokens).tolist() == np.frombuffer(raw, "<u2").tolist()
        assert np.diff(split.ends, prepend=0).tolist() == [len(ids) for ids in expected]


@settings(FEW, max_examples=8)  # each commits, and so syncs, many times
@given(TEXTS, st.integers(1, 30), st.integers(1, 4))
def test_a_run_that_is_broken_off_anywhere_is_completed_to_the_same_bytes(texts, stop_at, committed_every):
    real, calls = SplitWriter.add, 0

    def add(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise StoppedError
        real(self, *args, **kwargs)

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        (Path(folder) / "a").mkdir()
        (Path(folder) / "b").mkdir()
        patch.setattr(prepare_module, "BATCH_CHARS", 1)
        patch.setattr(prepare_module, "COMMIT_CHARS", 20 * committed_every)
        whole = make(folder, texts, out=Path(folder) / "whole")
        patch.setattr(SplitWriter, "add", add)
        for _ in range(2):
            with contextlib.suppress(StoppedError):
                resumed = make(folder, texts)
        assert files(resumed.folder) == files(whole.folder)


@given(st.integers(1, 5000), st.integers(0, 2**64), st.integers(0, 1000))
def test_a_permutation_has_every_item_once(n, seed, epoch):
    order = Permutation(n, seed=seed, epoch=epoch)(np.arange(n))
    assert sorted(order.tolist()) == list(range(n))


@given(st.integers(1, 2**45), st.integers(0, 2**32), st.data())
def test_a_permutation_of_any_size_stays_inside_and_never_doubles(n, seed, data):
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20, unique=True)))
    items = Permutation(n, seed=seed, epoch=0)(positions).tolist()
    assert len(set(items)) == len(items)
    assert min(items) >= 0
    assert max(items) < n


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    texts = [f"document {n} " + "word " * (n % 7) for n in range(80)]
    return make(tmp_path_factory.mktemp("loader"), texts, shard_tokens=100).split("train")


@FEW
@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 40), st.integers(0, 100), st.integers(0, 40))
def test_all_processes_see_the_global_order_from_any_position(split, rows, world_size, seq_len, seed, position):
    batch = rows * world_size
    whole = Batches(split, batch=batch, seq_len=seq_len, seed=seed)
    whole.position = position
    state = whole.state()
    ranks = [
        Batches(split, batch=batch, seq_len=seq_len, seed=seed, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    for rank in ranks:
        rank.restore(state)
    for _ in range(3):
        expected = next(whole).ids.tolist()
        parts = [next(rank).ids.tolist() for rank in ranks]
        assert [parts[i % world_size][i // world_size] for i in range(batch)] == expected


@given(st.text(alphabet="ab \n\r", max_size=400), st.integers(1, 50), st.integers(2, 60))
def test_pieces_make_up_the_document(text, block, piece_chars):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeprof.train.data.pieces.PIECE_CHARS", piece_chars)
        blocks = [(text[i : i + block], i) for i in range(0, len(text), block)]
        pieces = list(pieces_of(blocks))
        assert [p.text for p in pieces] == [p.text for p in pieces_of([(text, 0)])]
    assert "".join(p.text for p in pieces) == text
    assert [p.begins for p in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [p.ends for p in pieces] == [False] * (len(pieces) - 1) + [True]
