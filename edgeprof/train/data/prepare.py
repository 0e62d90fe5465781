"""Makes a data set: survey, tokenizer, shards, index. Killed at any moment, the same call goes on to the same bytes."""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeprof.core.canonical import short_hash
from edgeprof.core.errors import UsageError
from edgeprof.models.gguf_tokenizer import TOKENIZER_FILE
from edgeprof.models.schema import read_document
from edgeprof.train.data.disk import LOCK_FILE, locked, replace_file, sync_folder, writing_to
from edgeprof.train.data.index import (
    INDEX_FILE,
    JOURNAL_FILE,
    SCHEMA_VERSION,
    SPLITS,
    Counts,
    DataIndex,
    Journal,
    SourceEntry,
    SplitName,
    TokenizerEntry,
    ends_file,
    parse_model,
    problems,
    read_index,
    token_dtype,
)
from edgeprof.train.data.pieces import Piece
from edgeprof.train.data.shards import LostDataError, SplitWriter
from edgeprof.train.data.sources import Reading, Source, find_sources, read_all
from edgeprof.train.data.survey import KEY_BITS, Survey, Surveyor, held_out_limit, take_survey
from edgeprof.train.data.tokenizer import Specials, TextTokenizer, check_room, load_tokenizer, train_tokenizer

log = logging.getLogger(__name__)

SHARD_TOKENS = 2**26
"""Tokens of a shard: 128 MiB of 16-bit ids."""

BATCH_CHARS = 2**20
"""Text that is tokenised at once. What tokenizers keeps of it takes some 150 bytes a token."""

COMMIT_CHARS = 2**22
"""Text after which the journal is written: the most that is done again after a kill."""

SAMPLE_BYTES = 2**28
"""Text that a tokenizer is trained on, at most: more changes its merges little."""

UNFINISHED = (LOCK_FILE, f".{JOURNAL_FILE}.new")
"""What may lie in a folder in which nothing has been written yet."""

MIB = 2**20

Batch = list[tuple[Piece, int]]
Writers = dict[SplitName, SplitWriter]


class Reporter(Protocol):
    """Is told the stages and the steps of the work."""

    def stage(self, name: str, total: int) -> None:
        """A stage of ``total`` steps begins."""

    def step(self, label: str) -> None:
        """One step is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to make: documents from ``sources`` into the folder ``out``.

    ``tokenizer`` is an existing one; without it a byte-level BPE of ``vocab`` tokens is trained on the documents that are not
    held out. ``vocab`` and ``specials`` are the model's; ``held_out`` is the share of the text, in whole documents, that is kept
    for evaluation.
    """

    sources: Sequence[str]
    out: Path
    vocab: int | None = None
    specials: Specials = field(default_factory=Specials)
    tokenizer: Path | None = None
    held_out: float = 0.01
    reading: Reading = field(default_factory=Reading)
    shard_tokens: int = SHARD_TOKENS


class Meter:
    """Tells a reporter of each MiB of the sources that has been read."""

    def __init__(self, reporter: Reporter, stage: str, total_bytes: int) -> None:
        self.reporter, self.name, self.total = reporter, stage, max(1, math.ceil(total_bytes / MIB))
        self.done: int | None = None

    def __call__(self, read_bytes: int) -> None:
        """So much has been read; the stage begins with the first call."""
        now = min(read_bytes // MIB, self.total)
        if self.done is None:
            self.done = now if now < self.total else 0
            self.reporter.stage(self.name, self.total - self.done)
        while self.done < now:
            self.done += 1
            self.reporter.step(f"{self.done:,} of {self.total:,} MiB read")

    def end(self) -> None:
        """All of it has been read."""
        self(self.total * MIB)


def prepare(order: Order, reporter: Reporter) -> DataIndex:
    """Makes the data set, goes on with it, or finds it made already.

    Raises:
        UsageError: a source, the tokenizer or an option cannot be used, the folder holds something else, or the disk is full.
    """
    given = None
    if order.tokenizer is not None:
        given = load_tokenizer(order.tokenizer, order.specials, vocab=order.vocab)
    elif order.vocab is None:
        raise UsageError("--vocab: is missing; give it, a --config, or a --tokenizer that is there already")
    else:
        check_room(order.specials, order.vocab)
    sources = find_sources(order.sources)
    meter = Meter(reporter, "read", sum(s.size_bytes for s in sources))
    survey = take_survey(read_all(sources, order.reading), meter)
    meter.end()
    work = _Work(order, sources, survey, given, reporter)
    with locked(order.out, "edgeprof data prepare"), writing_to(order.out):
        return work.finished() or work.run()


def _batches(items: Iterator[tuple[Piece, int]]) -> Iterator[Batch]:
    """Pieces in lists of about BATCH_CHARS."""
    batch: Batch = []
    chars = 0
    for item in items:
        batch.append(item)
        chars += len(item[0].text)
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


class _Work:
    """One order, surveyed, with its folder locked."""

    def __init__(
        self, order: Order, sources: list[Source], survey: Survey, given: TextTokenizer | None, reporter: Reporter
    ) -> None:
        self.order, self.sources, self.survey, self.given, self.reporter = order, sources, survey, given, reporter
        self.held_out_limit = held_out_limit(survey, order.held_out)
        self.fingerprint = short_hash(
            {
                "version": SCHEMA_VERSION,
                "documents": survey.digest,
                "held_out_limit": str(self.held_out_limit),
                "vocab": order.vocab,
                "specials": order.specials,
                "tokenizer": "trained" if given is None else given.sha256,
                "shard_tokens": order.shard_tokens,
            },
            length=32,
        )

    def finished(self) -> DataIndex | None:
        """The data set if it is here and whole; one with a damaged file is given up, to be made again.

        Raises:
            UsageError: the folder holds another data set, or other files.
        """
        folder = self.order.out
        if not (folder / INDEX_FILE).is_file():
            if not (folder / JOURNAL_FILE).is_file():
                self._check_empty()
            return None
        index = read_index(folder)
        self._check_same(index.fingerprint)
        if damage := next(problems(folder, index, checksums=True), None):
            log.warning("%s; the data set is made again", damage)
            self._commit(Journal(fingerprint=self.fingerprint))
            (folder / INDEX_FILE).unlink()
            return None
        (folder / JOURNAL_FILE).unlink(missing_ok=True)
        return index

    def _check_empty(self) -> None:
        others = sorted(p.name for p in self.order.out.iterdir() if p.name not in UNFINISHED)
        if others:
            raise UsageError(
                f"--out: {self.order.out} holds other files ({others[0]:.60}); choose a new or an empty folder"
            )

    def _check_same(self, fingerprint: str) -> None:
        if fingerprint != self.fingerprint:
            raise UsageError(
                f"--out: {self.order.out} holds another data set, of other documents or options; choose another folder, or "
                "empty this one"
            )

    def _commit(self, journal: Journal) -> Journal:
        replace_file(self.order.out / JOURNAL_FILE, journal.model_dump_json(indent=2).encode())
        return journal

    def run(self) -> DataIndex:
        """Makes or finishes the data set."""
        journal = self._journal()
        tokenizer, journal = self._tokenizer(journal)
        with ExitStack() as stack:
            try:
                writers = self._writers(stack, tokenizer, journal)
            except LostDataError as lost:
                log.warning("%s: %s is shorter than was written; beginning anew", self.order.out, lost)
                journal = Journal(fingerprint=self.fingerprint, tokenizer_sha256=tokenizer.sha256)
                writers = self._writers(stack, tokenizer, self._commit(journal))
            self._tokenise(tokenizer, writers, journal)
            index = self._index(tokenizer, writers)
        folder = self.order.out
        replace_file(folder / INDEX_FILE, (index.model_dump_json(indent=2) + "\n").encode())
        (folder / JOURNAL_FILE).unlink()
        sync_folder(folder)
        return index

    def _journal(self) -> Journal:
        path = self.order.out / JOURNAL_FILE
        if not path.is_file():
            return self._commit(Journal(fingerprint=self.fingerprint))
        fix = "empty the folder and run the same command again"
        journal = parse_model(Journal, read_document(path, fix), path, fix)
        if journal.fingerprint == self.fingerprint:
            return journal
        if journal.pieces:
            self._check_same(journal.fingerprint)
        # nothing of the other order was done yet
        for name in SPLITS:
            for left in (*self.order.out.glob(f"{name}-*.bin"), self.order.out / ends_file(name)):
                left.unlink(missing_ok=True)
        return self._commit(Journal(fingerprint=self.fingerprint))

    def _tokenizer(self, journal: Journal) -> tuple[TextTokenizer, Journal]:
        """The given tokenizer, the one that was trained before, or one trained now; it is in the folder on return."""
        folder, order = self.order.out, self.order
        if journal.tokenizer_sha256 is not None and (folder / TOKENIZER_FILE).is_file():
            stored = load_tokenizer(folder, order.specials, vocab=order.vocab)
            if stored.sha256 == journal.tokenizer_sha256:
                return stored, journal
        tokenizer = self.given or self._train()
        for name, content in tokenizer.files.items():
            replace_file(folder / name, content)
        return tokenizer, self._commit(Journal(fingerprint=self.fingerprint, tokenizer_sha256=tokenizer.sha256))

    def _train(self) -> TextTokenizer:
        assert self.order.vocab is not None
        self.reporter.stage("train tokenizer", 1)
        tokenizer = train_tokenizer(self._sample(), self.order.specials, vocab=self.order.vocab)
        self.reporter.step(f"{tokenizer.n_ids:,} tokens")
        return tokenizer

    def _sample(self) -> Iterator[str]:
        """Text of documents that are not held out: all, or a share of them that their content decides."""
        share = min(1.0, SAMPLE_BYTES / self.survey.text_bytes)
        least = min(int((1 - share) * 2**KEY_BITS), self.survey.greatest_key)
        left = SAMPLE_BYTES
        for piece, key in Surveyor().watch(read_all(self.sources, self.order.reading)):
            if key >= least and key > self.held_out_limit and left > 0:
                left -= len(piece.text.encode())
                yield piece.text

    def _writers(self, stack: ExitStack, tokenizer: TextTokenizer, journal: Journal) -> Writers:
        counts = {"train": journal.train, "held_out": journal.held_out}
        dtype = token_dtype(tokenizer.n_ids)
        names = SPLITS if self.held_out_limit >= 0 else SPLITS[:1]
        return {
            name: stack.enter_context(SplitWriter(self.order.out, name, dtype, self.order.shard_tokens, counts[name]))
            for name in names
        }

    def _tokenise(self, tokenizer: TextTokenizer, writers: Writers, journal: Journal) -> None:
        """Appends what the journal does not have yet, and commits now and then."""
        meter = Meter(self.reporter, "tokenise", sum(s.size_bytes for s in self.sources))
        surveyor = Surveyor()
        watched = surveyor.watch(read_all(self.sources, self.order.reading))
        pieces, uncommitted = journal.pieces, 0
        for batch in _batches(itertools.islice(watched, pieces, None)):
            self._write(tokenizer, writers, batch)
            pieces += len(batch)
            uncommitted += sum(len(piece.text) for piece, _ in batch)
            meter(batch[-1][0].read_bytes)
            if uncommitted >= COMMIT_CHARS:
                self._commit_progress(journal, writers, pieces)
                uncommitted = 0
        meter.end()
        if surveyor.survey() != self.survey:
            raise UsageError(
                f"sources: they changed while they were read; empty {self.order.out} and run the same command again"
            )

    def _write(self, tokenizer: TextTokenizer, writers: Writers, batch: Batch) -> None:
        """Appends a batch to its splits: what the tokenizer begins with, the text, and the end of the document."""
        begin = np.array([] if tokenizer.bos is None else [tokenizer.bos], dtype=np.int64)
        end = np.array([tokenizer.eos], dtype=np.int64)
        for (piece, key), ids in zip(batch, tokenizer.encode([p.text for p, _ in batch]), strict=True):
            writer = writers["held_out" if key <= self.held_out_limit else "train"]
            unknown = 0 if tokenizer.unknown is None else int(np.count_nonzero(ids == tokenizer.unknown))
            whole = [begin] * piece.begins + [ids] + [end] * piece.ends
            writer.add(np.concatenate(whole), ends=piece.ends)
            writer.count(piece.text, unknown)

    def _commit_progress(self, journal: Journal, writers: Writers, pieces: int) -> None:
        counts: dict[str, Counts] = {name: writer.counts() for name, writer in writers.items()}
        sync_folder(self.order.out)
        self._commit(journal.model_copy(update={"pieces": pieces, **counts}))

    def _index(self, tokenizer: TextTokenizer, writers: Writers) -> DataIndex:
        entries = {name: writer.entry() for name, writer in writers.items()}
        sources = [
            SourceEntry(given=given[:4096], kind=kind, files=len(files), size_bytes=sum(f.size_bytes for f in files))
            for (given, kind), group in itertools.groupby(self.sources, key=lambda s: (s.given, s.kind))
            if (files := list(group))
        ]
        return DataIndex(
            schema_version=SCHEMA_VERSION,
            fingerprint=self.fingerprint,
            vocab=self.order.vocab or tokenizer.n_ids,
            shard_tokens=self.order.shard_tokens,
            tokenizer=TokenizerEntry(
                sha256=tokenizer.sha256,
                n_ids=tokenizer.n_ids,
                eos_token=tokenizer.eos,
                bos_token=tokenizer.bos,
                pad_token=tokenizer.pad,
                unknown_token=tokenizer.unknown,
            ),
            sources=sources,
            empty_documents=self.survey.empty_documents,
            train=entries["train"],
            held_out=entries.get("held_out"),
        )
