"""Text for twins: the one that comes with Python and the user's, tokenised the same way every time."""

import logging
from pathlib import Path

import numpy as np
import pytest

from edgeprof.core.errors import UsageError
from edgeprof.search import text as text_module
from edgeprof.search.text import MIN_CHARACTERS, PIECE, VOCAB, Corpus, built_in_corpus, corpus_of, read_corpus

WORDS = ("every", "block", "keeps", "its", "own", "state,", "and", "the", "window", "moves", "on;")
SAMPLE = " ".join(WORDS[i * i % len(WORDS)] + ("\n" if i % 13 == 0 else "") for i in range(16_000))


@pytest.fixture(autouse=True)
def _own_cache(cache: Path) -> None:
    built_in_corpus.cache_clear()


def same(one: Corpus, other: Corpus) -> bool:
    return np.array_equal(one.train, other.train) and np.array_equal(one.held_out, other.held_out)


def test_python_brings_enough_text_of_its_own() -> None:
    corpus = built_in_corpus()
    assert len(corpus.train) > 150_000
    assert len(corpus.held_out) > 10_000
    assert max(corpus.train.max(), corpus.held_out.max()) < VOCAB
    assert 1.5 < corpus.held_out_bytes / len(corpus.held_out) < 4


def test_tokens_are_the_same_every_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = corpus_of(SAMPLE)
    monkeypatch.setenv("EDGEPROF_CACHE", str(tmp_path / "another"))
    again = corpus_of(SAMPLE)
    assert same(first, again)
    assert first.key == again.key
    assert corpus_of(SAMPLE + "!").key != first.key


def test_a_text_is_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = corpus_of(SAMPLE)
    monkeypatch.setattr(text_module, "_tokenise", lambda *_: pytest.fail("tokenised again"))
    again = corpus_of(SAMPLE)
    assert same(first, again)
    assert again == Corpus(
        key=first.key, train=again.train, held_out=again.held_out, held_out_bytes=first.held_out_bytes
    )


def test_a_broken_cache_is_made_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = corpus_of(SAMPLE)
    (file,) = (cache / "text").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert same(corpus_of(SAMPLE), first)
    assert "tokenised again" in caplog.text
    assert same(corpus_of(SAMPLE), first)


def test_a_tenth_is_held_out_and_never_trained_on() -> None:
    letters = "".join(chr(ord("a") + i % 10) * PIECE for i in range(20))
    corpus = corpus_of(letters)
    assert corpus.held_out_bytes == len(corpus.held_out) == 2 * PIECE  # no merge was learnt from the held-out letter
    assert len(corpus.train) < 18 * PIECE / 10
    assert not set(corpus.train) & set(corpus.held_out)


def test_the_held_out_bytes_are_those_of_utf_8() -> None:
    assert corpus_of("é" * 10 * PIECE).held_out_bytes == 2 * PIECE


def test_a_file_and_a_folder_of_text_are_read(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    half = len(SAMPLE) // 2
    (tmp_path / "one.txt").write_text(SAMPLE[:half] + "\n\n" + SAMPLE[half:])
    (tmp_path / "texts" / "b.md").write_text(SAMPLE[half:])
    (tmp_path / "texts" / "a.txt").write_text(SAMPLE[:half])
    (tmp_path / "texts" / "image.bin").write_bytes(b"\xff\xfe")
    assert same(read_corpus(tmp_path / "one.txt"), read_corpus(tmp_path / "texts"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"short", f"has 5 characters; give a text of at least {MIN_CHARACTERS}"),
        (b"x" * 60_000 + b"\xff", "is no UTF-8 text"),
    ],
)
def test_a_text_that_cannot_be_used_says_why(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        read_corpus(path)
    assert str(path) in str(error.value)


def test_a_folder_without_text_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no file that ends in \.txt"):
        read_corpus(tmp_path)


def test_of_a_long_text_the_beginning_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "MAX_CHARACTERS", 60_000)
    (tmp_path / "a.txt").write_text(SAMPLE[:40_000])
    (tmp_path / "b.txt").write_text(SAMPLE[40_000:])
    (tmp_path / "c.txt").write_bytes(b"\xff never read")
    assert same(read_corpus(tmp_path), corpus_of(SAMPLE[:40_000] + "\n\n" + SAMPLE[40_000:60_000]))
