"""Making a data set: whole or recognisably unfinished, the same bytes every time, and what is there is never spoilt."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

import edgeprof
from edgeprof.core.errors import UsageError
from edgeprof.train.data import prepare as prepare_module
from edgeprof.train.data.dataset import DataSet, open_data
from edgeprof.train.data.prepare import Order, prepare
from edgeprof.train.data.shards import SplitWriter
from edgeprof.train.data.sources import Reading
from edgeprof.train.data.stats import data_stats
from edgeprof.train.data.tokenizer import Specials, load_tokenizer

Make = Callable[..., DataSet]
Orders = Callable[..., Order]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, but for the lock."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".lock"}


def split_texts(data: DataSet, name: Any) -> list[str]:
    """The documents of a split as text."""
    split, backend = data.split(name), load_tokenizer(data.folder, Specials(), vocab=None).backend
    tokens, starts = split.read(0, split.tokens), [0, *split.ends[:-1]]
    return [backend.decode(tokens[a:b].tolist()) for a, b in zip(starts, split.ends, strict=True)]


@pytest.fixture
def tiny_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal after every few documents."""
    monkeypatch.setattr(prepare_module, "BATCH_CHARS", 300)
    monkeypatch.setattr(prepare_module, "COMMIT_CHARS", 600)


def test_every_document_is_in_one_split_in_its_order(dataset: Make, texts: list[str]) -> None:
    data = dataset()
    train, held_out = split_texts(data, "train"), split_texts(data, "held_out")
    assert [t for t in texts if t in train] == train
    assert [t for t in texts if t in held_out] == held_out
    assert sorted(train + held_out) == sorted(texts)


def test_documents_end_with_the_end_token_and_begin_with_what_the_model_wants(dataset: Make) -> None:
    split = dataset(specials=Specials(eos=7, bos=1, pad=0)).split("train")
    tokens = split.read(0, split.tokens)
    assert np.flatnonzero(tokens == 7).tolist() == [end - 1 for end in split.ends]
    assert np.flatnonzero(tokens == 1).tolist() == [0, *split.ends[:-1]]


def test_a_shard_is_full_before_the_next_begins(dataset: Make) -> None:
    index = dataset(shard_tokens=100).index
    assert len(index.train.shards) > 3
    assert {shard.tokens for shard in index.train.shards[:-1]} == {100}


def test_the_held_out_share_is_of_the_text(dataset: Make) -> None:
    data = dataset(held_out=0.2)
    held, train = (data.index.held_out, data.index.train)
    assert held is not None
    assert held.text_bytes / (held.text_bytes + train.text_bytes) == pytest.approx(0.2, abs=0.05)


def test_the_smallest_share_holds_out_one_document_and_none_holds_out_none(dataset: Make, tmp_path: Path) -> None:
    data = dataset(held_out=1e-9)
    assert data.index.held_out is not None
    assert data.index.held_out.documents == 1
    none = dataset(held_out=0.0, out=tmp_path / "none")
    assert none.index.held_out is None
    with pytest.raises(UsageError, match="nothing is held out"):
        none.split("held_out")


def test_equal_documents_are_on_the_same_side(dataset: Make, jsonl: Callable[..., Path], texts: list[str]) -> None:
    data = dataset(sources=[str(jsonl(texts * 3))])
    assert not set(split_texts(data, "train")) & set(split_texts(data, "held_out"))


def test_one_document_cannot_be_held_out(order: Orders, jsonl: Callable[..., Path], silent: Any) -> None:
    with pytest.raises(UsageError, match="there is only one document"):
        prepare(order(sources=[str(jsonl(["just one"]))]), silent)


def test_data_without_text_are_refused(order: Orders, jsonl: Callable[..., Path], silent: Any) -> None:
    wanted = order(sources=[str(jsonl(["", "  \n"]))])
    with pytest.raises(UsageError, match="no document with text"):
        prepare(wanted, silent)
    assert not wanted.out.exists()


def test_documents_without_text_are_left_out_and_counted(
    dataset: Make, jsonl: Callable[..., Path], texts: list[str]
) -> None:
    data = dataset(sources=[str(jsonl(["", *texts, " \n"]))])
    assert data.index.empty_documents == 2
    assert data_stats(data)["documents"] == len(texts)


def test_held_out_text_does_not_train_the_tokenizer(
    order: Orders, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = prepare_module.train_tokenizer

    def spy(texts: Any, *args: Any, **kwargs: Any) -> Any:
        return real((seen.append(t) or t for t in texts), *args, **kwargs)  # type: ignore[func-returns-value]

    monkeypatch.setattr(prepare_module, "train_tokenizer", spy)
    wanted = order()
    prepare(wanted, silent)
    assert seen == split_texts(open_data(wanted.out), "train")


def test_a_tokenizer_is_trained_on_a_sample_of_large_data(
    order: Orders, silent: Any, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    total = sum(len(t.encode()) for t in texts)
    monkeypatch.setattr(prepare_module, "SAMPLE_BYTES", total // 4)
    seen: list[str] = []
    real = prepare_module.train_tokenizer

    def spy(texts: Any, *args: Any, **kwargs: Any) -> Any:
        return real((seen.append(t) or t for t in texts), *args, **kwargs)  # type: ignore[func-returns-value]

    monkeypatch.setattr(prepare_module, "train_tokenizer", spy)
    prepare(order(), silent)
    assert 0 < sum(len(t.encode()) for t in seen) < total / 2


def test_the_same_order_again_changes_nothing(order: Orders, silent: Any) -> None:
    wanted = order()
    first = prepare(wanted, silent)
    before = {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in wanted.out.glob("[!.]*")}
    assert prepare(wanted, silent) == first
    assert {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in wanted.out.glob("[!.]*")} == before


@pytest.mark.parametrize(
    "change",
    [
        {"vocab": 310},
        {"held_out": 0.3},
        {"shard_tokens": 400},
        {"specials": Specials(eos=5)},
        {"reading": Reading(field="other")},
    ],
)
def test_a_folder_that_holds_another_data_set_is_kept(
    order: Orders, silent: Any, jsonl: Callable[..., Path], texts: list[str], change: dict[str, Any]
) -> None:
    wanted = order()
    prepare(wanted, silent)
    before = contents(wanted.out)
    if "reading" in change:
        change = change | {"sources": [str(jsonl([*texts, "more"], "other.jsonl", "other"))]}
    with pytest.raises(UsageError, match="holds another data set"):
        prepare(order(**change), silent)
    assert contents(wanted.out) == before


def test_a_folder_with_other_files_is_kept(order: Orders, silent: Any) -> None:
    wanted = order()
    wanted.out.mkdir()
    (wanted.out / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds other files \(thesis.txt\)"):
        prepare(wanted, silent)
    assert contents(wanted.out) == {"thesis.txt": b"years of work"}


def test_a_file_in_place_of_the_folder_is_kept(order: Orders, silent: Any) -> None:
    wanted = order()
    wanted.out.write_text("x")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        prepare(wanted, silent)


def test_two_at_once_are_refused(order: Orders, silent: Any) -> None:
    wanted = order()
    wanted.out.mkdir()
    with FileLock(wanted.out / ".lock"), pytest.raises(UsageError, match="another edgeprof data prepare is at work"):
        prepare(wanted, silent)


def test_a_damaged_data_set_is_made_again(order: Orders, silent: Any, caplog: pytest.LogCaptureFixture) -> None:
    wanted = order()
    prepare(wanted, silent)
    before = contents(wanted.out)
    path = wanted.out / "train-00001.bin"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(UsageError, match=r"train-00001\.bin: its checksum is not .*: the file is corrupt"):
        open_data(wanted.out)
    prepare(wanted, silent)
    assert "made again" in caplog.text
    assert contents(wanted.out) == before


def test_an_unfinished_data_set_is_told_from_a_finished_one(
    order: Orders, silent: Any, monkeypatch: pytest.MonkeyPatch, tiny_batches: None
) -> None:
    wanted = order()

    def fail(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SplitWriter, "entry", fail)
        with pytest.raises(KeyboardInterrupt):
            prepare(wanted, silent)
    with pytest.raises(UsageError, match="is unfinished; run its edgeprof data prepare again"):
        open_data(wanted.out)
    with pytest.raises(UsageError, match="holds another data set"):
        prepare(order(held_out=0.4), silent)


def test_an_order_of_which_nothing_was_done_makes_room_for_another(
    order: Orders, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(SplitWriter, "entry", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(order(), silent)
    prepare(order(vocab=310, held_out=0.0), silent)
    assert not list(order().out.glob("held_out*"))
    open_data(order().out)


def test_a_resumed_run_does_not_tokenise_again(
    order: Orders, silent: Any, monkeypatch: pytest.MonkeyPatch, tiny_batches: None
) -> None:
    wanted, added = order(), 0
    real = SplitWriter.add

    def add(self: SplitWriter, *args: Any, **kwargs: Any) -> None:
        nonlocal added
        added += 1
        if added == 40:
            raise KeyboardInterrupt
        real(self, *args, **kwargs)

    monkeypatch.setattr(SplitWriter, "add", add)
    with pytest.raises(KeyboardInterrupt):
        prepare(wanted, silent)
    pieces = json.loads((wanted.out / "prepare.json").read_text())["pieces"]
    assert 20 < pieces < 40
    added = 100
    prepare(wanted, silent)
    assert added - 100 == 60 - pieces


def test_a_file_that_lost_data_makes_the_work_begin_anew(
    order: Orders, silent: Any, monkeypatch: pytest.MonkeyPatch, tiny_batches: None, caplog: pytest.LogCaptureFixture
) -> None:
    whole = order(out=order().out.with_name("whole"))
    prepare(whole, silent)
    wanted = order()
    with monkeypatch.context() as patch:
        patch.setattr(SplitWriter, "entry", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(wanted, silent)
    (wanted.out / "train-00000.bin").write_bytes(b"")
    prepare(wanted, silent)
    assert "beginning anew" in caplog.text
    assert contents(wanted.out) == contents(whole.out)


def test_a_full_disk_is_one_line_and_what_is_done_stays(order: Orders, silent: Any, tiny_batches: None) -> None:
    """A limit on the size of files stands in for the disk."""
    whole = order(out=order().out.with_name("whole"), shard_tokens=10**6)
    prepare(whole, silent)
    tokenizer_bytes = (whole.out / "tokenizer.json").stat().st_size
    wanted = order(shard_tokens=10**6, sources=whole.sources, tokenizer=whole.out)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = order(sources=whole.sources).out.with_name("big.jsonl")
    lines = Path(whole.sources[0]).read_text().splitlines()
    big.write_text("\n".join(line.replace("the", f"{n} the") for n in range(20) for line in lines))
    wanted = order(sources=[str(big)], tokenizer=whole.out, shard_tokens=10**6)
    resource.setrlimit(resource.RLIMIT_FSIZE, (tokenizer_bytes + 10_000, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"out: cannot be written \(File too large\); free some space"):
            prepare(wanted, silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert json.loads((wanted.out / "prepare.json").read_text())["pieces"] > 100
    prepare(wanted, silent)
    fresh = order(sources=[str(big)], tokenizer=whole.out, shard_tokens=10**6, out=wanted.out.with_name("fresh"))
    prepare(fresh, silent)
    assert contents(wanted.out) == contents(fresh.out)


def test_data_that_change_while_they_are_read_are_refused(
    order: Orders, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = order()
    real = prepare_module.train_tokenizer

    def change(*args: Any, **kwargs: Any) -> Any:
        tokenizer = real(*args, **kwargs)
        with Path(wanted.sources[0]).open("a") as file:
            file.write('{"text": "late"}\n')
        return tokenizer

    monkeypatch.setattr(prepare_module, "train_tokenizer", change)
    with pytest.raises(UsageError, match="changed while they were read"):
        prepare(wanted, silent)
    assert not (wanted.out / "index.json").exists()


def test_progress_is_told_for_every_stage(order: Orders, silent: Any) -> None:
    prepare(order(), silent)
    assert [name for name, _ in silent.stages] == ["read", "train tokenizer", "tokenise"]
    assert silent.steps == sum(total for _, total in silent.stages)


KILLED = """
import os, signal, sys
from pathlib import Path
from edgeprof.train.data import prepare as p, shards
p.BATCH_CHARS, p.COMMIT_CHARS = 300, 600
place, number, source, out = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
calls = 0
def killing(real):
    def call(*args, **kwargs):
        global calls
        result = real(*args, **kwargs)
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call
if place == "add":
    shards.SplitWriter.add = killing(shards.SplitWriter.add)
else:
    p.replace_file = killing(p.replace_file)
class Silent:
    def stage(self, name, total): pass
    def step(self, label): pass
p.prepare(p.Order(sources=[source], out=out, vocab=300, shard_tokens=500, held_out=0.1), Silent())
"""


def test_kill_9_at_any_moment_leaves_what_a_second_run_completes_to_the_same_bytes(
    order: Orders, silent: Any, tmp_path: Path
) -> None:
    whole = order(out=tmp_path / "whole")
    prepare(whole, silent)
    moments = [("add", 33), ("file", 1), ("file", 2), ("file", 4), ("file", 9)]
    environment = {**os.environ, "PYTHONPATH": str(Path(edgeprof.__file__).parents[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED, *map(str, moment), whole.sources[0], str(tmp_path / f"killed{n}")],
            env=environment,
        )
        for n, moment in enumerate(moments)
    ]
    for n, process in enumerate(processes):
        assert process.wait(timeout=120) == -signal.SIGKILL
        killed = order(out=tmp_path / f"killed{n}")
        assert not (killed.out / "index.json").exists()
        prepare(killed, silent)
        assert contents(killed.out) == contents(whole.out)
