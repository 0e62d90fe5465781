"""Documents in pieces: what is read, hashed and tokenised at once stays small, however long a document is."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PIECE_CHARS = 2**18
"""Characters that are tokenised at once; a longer document is cut, preferably where the tokens stay the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a document's text, mostly all of it; ``read_bytes`` is how much of the sources had been read for it."""

    text: str
    begins: bool
    ends: bool
    read_bytes: int

    @property
    def is_empty(self) -> bool:
        """Whether it is a whole document without text."""
        return self.begins and self.ends and not self.text.strip()


def pieces_of(blocks: Iterable[tuple[str, int]]) -> Iterator[Piece]:
    """The pieces of one document that comes in blocks, each with the bytes read so far; how it is blocked changes no cut."""
    held, begins, read_bytes = "", True, 0
    for text, read_bytes in blocks:
        held, start = held + text, 0
        while len(held) - start > PIECE_CHARS + 1:
            end = _cut(held, start)
            yield Piece(text=held[start:end], begins=begins, ends=False, read_bytes=read_bytes)
            start, begins = end, False
        held = held[start:]
    yield Piece(text=held, begins=begins, ends=True, read_bytes=read_bytes)


def _cut(text: str, start: int) -> int:
    """Where to cut: behind a line's end or before a space that stand alone, as byte-level BPE splits words there anyway.

    Text that has neither in its second half is cut at PIECE_CHARS.
    """
    last, first = start + PIECE_CHARS, start + PIECE_CHARS // 2
    for mark, behind in (("\n", 1), (" ", 0)):
        at = text.rfind(mark, first, last)
        while at >= 0:
            if not text[at - 1].isspace() and not text[at + 1].isspace():
                return at + behind
            at = text.rfind(mark, first, at)
    return last
