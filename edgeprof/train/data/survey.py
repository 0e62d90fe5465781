"""A first look at all documents: finds what cannot be read before any work is done, and fixes which are held out."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from edgeprof.core.errors import UsageError
from edgeprof.train.data.pieces import Piece

KEY_BITS = 64
BUCKET_BITS = 16
"""Documents are held out by whole buckets, which their keys' highest bits number: 65,536 are fine enough for any share."""

_DOCUMENT_ENDS = b"\xff"
"""A byte that UTF-8 never has."""


def document_key(first: Piece) -> int:
    """A number that a document's beginning determines, spread evenly over KEY_BITS bits: equal documents share it."""
    return int.from_bytes(hashlib.blake2b(first.text.encode(), digest_size=KEY_BITS // 8).digest(), "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was read: documents with text and without, bytes of text, a digest of it all, and how it is spread over keys."""

    documents: int
    empty_documents: int
    text_bytes: int
    digest: str
    least_key: int
    greatest_key: int
    bucket_bytes: "array[int]" = field(compare=False, repr=False)


class Surveyor:
    """Takes pieces in order; ``survey()`` says what they were."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._documents = self._empty = self._bytes = 0
        self._least, self._greatest = 2**KEY_BITS, -1
        self._bucket_bytes = array("q", bytes(8 * 2**BUCKET_BITS))

    def watch(self, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, int]]:
        """The same pieces, each taken note of, with its document's key; documents without text are left out."""
        key = 0
        for piece in pieces:
            if piece.is_empty:
                self._empty += 1
                continue
            content = piece.text.encode()
            self._hash.update(content)
            self._bytes += len(content)
            if piece.begins:
                key = document_key(piece)
                self._least, self._greatest = min(self._least, key), max(self._greatest, key)
            self._bucket_bytes[key >> (KEY_BITS - BUCKET_BITS)] += len(content)
            if piece.ends:
                self._hash.update(_DOCUMENT_ENDS)
                self._documents += 1
            yield piece, key

    def survey(self) -> Survey:
        """What has been read so far."""
        return Survey(
            documents=self._documents,
            empty_documents=self._empty,
            text_bytes=self._bytes,
            digest=self._hash.hexdigest(),
            least_key=self._least,
            greatest_key=self._greatest,
            bucket_bytes=self._bucket_bytes,
        )


def take_survey(pieces: Iterable[Piece], on_read: Callable[[int], None]) -> Survey:
    """Reads everything once; ``on_read`` is told the bytes read.

    Raises:
        UsageError: something cannot be read, or no document has text.
    """
    surveyor = Surveyor()
    for piece, _ in surveyor.watch(pieces):
        on_read(piece.read_bytes)
    survey = surveyor.survey()
    if not survey.documents:
        raise UsageError("sources: no document with text in them; name others")
    return survey


def held_out_limit(survey: Survey, share: float) -> int:
    """Documents with a key of at most this are held out; -1 is none.

    They hold as near to ``share`` of the text as their lengths allow, are at least one document, and never all. A document that
    is held out stays so where others are added, but for those at the limit.

    Raises:
        UsageError: there is only one document, or all are equal.
    """
    if share == 0:
        return -1
    if survey.least_key == survey.greatest_key:
        raise UsageError(
            "--held-out: there is only one document (or copies of one), so none can be held out; part it with "
            "--split-blank-lines, or give --held-out 0"
        )
    held = list(accumulate(survey.bucket_bytes))
    wanted = share * survey.text_bytes
    nearest = min((b for b, size in enumerate(held) if size > 0), key=lambda b: abs(held[b] - wanted))
    limit = ((nearest + 1) << (KEY_BITS - BUCKET_BITS)) - 1
    return limit if limit < survey.greatest_key else survey.least_key
