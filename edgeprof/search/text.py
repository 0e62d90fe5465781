"""Text that twins are trained on: the one that comes with Python, or the user's, in a small byte-level vocabulary.

Tokenised texts are cached by a hash of their content.
"""

import ast
import logging
import sysconfig
import tempfile
import tokenize
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgeprof.core.canonical import short_hash
from edgeprof.core.errors import UsageError
from edgeprof.runtimes.artifact import cache_root
from edgeprof.search.tasks import Ids

logger = logging.getLogger(__name__)

VOCAB = 512
"""Tokens of the byte-level BPE: 256 bytes and as many merges. Larger ones make a twin's table its largest part."""

PIECE = 4096
"""Characters of a piece; every tenth piece is held out, so that what is held out is spread over the text."""

HELD_OUT_EVERY = 10

MIN_CHARACTERS, MAX_CHARACTERS = 50_000, 8_000_000
"""A text that is too short is learnt by heart; of a longer one the first 8 million characters are read."""

TEXT_SUFFIXES = (".txt", ".md", ".rst")

FORMAT = 1
"""Version of the cached file and of how a text is cut and tokenised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A tokenised text. ``key`` is the hash of what it was made from: equal keys mean equal tokens.

    ``held_out_bytes`` is the held-out part's length in UTF-8.
    """

    key: str
    train: Ids
    held_out: Ids
    held_out_bytes: int


@lru_cache(maxsize=1)
def built_in_corpus() -> Corpus:
    """The text that comes with this Python: another version of Python has another one, with another key."""
    return corpus_of("\n\n".join(_built_in_texts()))


def _built_in_texts() -> Iterator[str]:
    """The language reference's topics as ``help()`` shows them, and the docstrings of the standard library's modules."""
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        docstring = _module_docstring(path)
        if docstring:
            yield docstring


def _module_docstring(path: Path) -> str:
    """A source file's first statement if it is a text, read no further than that."""
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING)
    with path.open("rb") as file:
        first = next(token for token in tokenize.tokenize(file.readline) if token.type not in ignored)
    return str(ast.literal_eval(first.string)) if first.type == tokenize.STRING else ""


def read_corpus(path: Path) -> Corpus:
    """The corpus of a text file, or of a folder's text files by name.

    Raises:
        UsageError: it cannot be read, is no UTF-8, or is too short.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in TEXT_SUFFIXES and file.is_file())
        if not files:
            raise UsageError(f"{path}: holds no file that ends in {', '.join(TEXT_SUFFIXES)}")
    else:
        files = [path]
    texts: list[str] = []
    left = MAX_CHARACTERS
    for file in files:
        texts.append(_read(file, left))
        left -= len(texts[-1])
        if left <= 0:
            break
    text = "\n\n".join(texts)
    if len(text) < MIN_CHARACTERS:
        raise UsageError(f"{path}: has {len(text)} characters; give a text of at least {MIN_CHARACTERS}")
    return corpus_of(text)


def _read(file: Path, limit: int) -> str:
    try:
        with file.open(encoding="utf-8") as stream:
            return stream.read(limit)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: is no UTF-8 text (byte {error.start}); convert it") from None


def corpus_of(text: str) -> Corpus:
    """The tokens of a text, from the cache where it was tokenised before."""
    from importlib.metadata import version

    key = short_hash([FORMAT, VOCAB, PIECE, version("tokenizers"), text])
    path = cache_root() / "text" / f"{key}.npz"
    return _load(path, key) or _store(_tokenise(text, key), path)


def _tokenise(text: str, key: str) -> Corpus:
    pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)]
    train = [piece for i, piece in enumerate(pieces) if (i + 1) % HELD_OUT_EVERY]
    held_out = [piece for i, piece in enumerate(pieces) if (i + 1) % HELD_OUT_EVERY == 0]
    encode = _trained_bpe(train)
    return Corpus(
        key=key,
        train=encode(train),
        held_out=encode(held_out),
        held_out_bytes=sum(len(piece.encode()) for piece in held_out),
    )


def _trained_bpe(texts: list[str]) -> Callable[[list[str]], Ids]:
    """Trains a byte-level BPE on texts; returns what makes one stream of tokens of texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)

    def encode(pieces: list[str]) -> Ids:
        return np.array([token for coded in tokenizer.encode_batch(pieces) for token in coded.ids], np.int64)

    return encode


def _store(corpus: Corpus, path: Path) -> Corpus:
    """Writes the corpus in one step, so that an interrupted process leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
        np.savez_compressed(
            file,
            train=corpus.train.astype(np.int16),
            held_out=corpus.held_out.astype(np.int16),
            held_out_bytes=np.int64(corpus.held_out_bytes),
        )
    Path(file.name).replace(path)
    return corpus


def _load(path: Path, key: str) -> Corpus | None:
    """The cached corpus; one that is missing or cannot be read is made again."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            train, held_out = (file[name].astype(np.int64) for name in ("train", "held_out"))
            return Corpus(key=key, train=train, held_out=held_out, held_out_bytes=int(file["held_out_bytes"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("%s cannot be read (%s); the text is tokenised again", path, error)
        return None
