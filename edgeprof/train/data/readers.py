"""Readers of the formats that documents come in: each streams, and says in which file and where something is wrong."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean
from edgeprof.core.units import format_bytes
from edgeprof.train.data.pieces import Piece, pieces_of

BLOCK_BYTES = 2**18
"""Bytes of a text file that are read at once."""

ROWS = 256
"""Rows of a column that are held at once."""

MAX_DOCUMENT_BYTES = 64 * 2**20
"""Longest line of a JSONL file and longest paragraph: a longer one is a file of another kind. Whole text files have no limit."""

_BLANK_LINES = re.compile(r"\r?\n(?:[ \t]*\r?\n)+")


def read_text(path: Path, *, paragraphs: bool = False) -> Iterator[Piece]:
    """A text file as one document, or with ``paragraphs`` as one for each run of lines between blank ones.

    Raises:
        UsageError: a byte is not UTF-8 (at which offset), or a paragraph has no end.
    """
    blocks = _decoded(path)
    if not paragraphs:
        yield from pieces_of(blocks)
        return
    for text, read_bytes in _paragraphs(path, blocks):
        yield from pieces_of([(text, read_bytes)])


def _decoded(path: Path) -> Iterator[tuple[str, int]]:
    """Text in blocks, without a byte order mark, each with the bytes read so far."""
    held, offset = b"", 0
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK_BYTES)
            held += block
            try:
                text, used = codecs.utf_8_decode(held, "strict", not block)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, held, error, offset) from None
            if text:
                yield text.removeprefix("\ufeff") if offset == 0 else text, offset + used
            held, offset = held[used:], offset + used
            if not block:
                return


def _not_utf8(path: Path, content: bytes, error: UnicodeDecodeError, offset: int) -> UsageError:
    return UsageError(
        f"{path}: byte {offset + error.start:,} (0x{content[error.start]:02x}) is not UTF-8; save the file as UTF-8, "
        "as iconv does"
    )


def _paragraphs(path: Path, blocks: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    held, read_bytes = "", 0
    for text, read_bytes in blocks:
        *whole, held = _BLANK_LINES.split(held + text)
        if len(held) > MAX_DOCUMENT_BYTES:
            raise UsageError(
                f"{path}: no blank line in {format_bytes(MAX_DOCUMENT_BYTES)}; read the file whole, without --split-blank-lines"
            )
        for paragraph in whole:
            yield from _unless_blank(paragraph, read_bytes)
    yield from _unless_blank(held, read_bytes)


def _unless_blank(paragraph: str, read_bytes: int) -> Iterator[tuple[str, int]]:
    """A paragraph as a document of its own; what stands before the first and after the last blank line may be nothing."""
    if text := paragraph.strip("\r\n"):
        yield text, read_bytes


def read_jsonl(path: Path, field: str) -> Iterator[Piece]:
    """The text that ``field`` holds in each line's object; null is a document without text.

    Raises:
        UsageError: a line is not UTF-8, no JSON object, too long, or has no text in that field; named as path:line.
    """
    number = offset = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_DOCUMENT_BYTES + 1):
            number += 1
            if len(line) > MAX_DOCUMENT_BYTES:
                limit = format_bytes(MAX_DOCUMENT_BYTES)
                raise UsageError(f"{path}:{number}: is longer than {limit}; put each document on a line of its own")
            if offset == 0 and line.startswith(codecs.BOM_UTF8):
                line, offset = line[3:], 3
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise _not_utf8(path, line, error, offset) from None
            offset += len(line)
            if not text.isspace():
                yield from pieces_of([(_json_field(text, field, f"{path}:{number}"), offset)])


def _json_field(line: str, field: str, place: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = str(error).replace("line 1 ", "")  # the parser's line is not the file's
        raise UsageError(f"{place}: no JSON ({reason:.120}); correct or remove the line") from None
    if not isinstance(row, dict):
        raise UsageError(f"{place}: {type(row).__name__} in place of an object; write {{{json.dumps(field)}: ...}}")
    if field not in row:
        raise UsageError(f"{place}: {field}: no such field; {_others(field, list(row))}")
    text = row[field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UsageError(f"{place}: {field}: is {type(text).__name__}, no text; name another with --field")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{place}: {field}: character {error.start:,} is half of a surrogate pair, which UTF-8 lacks; correct it"
        ) from None
    return text


def _others(field: str, known: list[str]) -> str:
    return f"{did_you_mean(field, [name[:60] for name in known[:50]])}; name it with --field"


def read_parquet(path: Path, field: str) -> Iterator[Piece]:
    """The texts of a column, streamed by row groups; null is a document without text.

    Raises:
        UsageError: the file is no Parquet, or has no such column of text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = path.stat().st_size
    try:
        with pq.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, field)
            batches = file.iter_batches(batch_size=ROWS, columns=[field])
            yield from _column(path, batches, field, size, file.metadata.num_rows)
    except pa.ArrowException as error:
        raise _unreadable(path, "Parquet", error) from None


def read_arrow(path: Path, field: str) -> Iterator[Piece]:
    """The texts of a column of an Arrow stream, as ``datasets`` saves them, memory-mapped and batch by batch.

    Raises:
        UsageError: the file is no Arrow stream, or has no such column of text.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            _check_column(path, stream.schema, field)
            first = 0
            for batch in stream:
                at = file.tell()
                for start in range(0, batch.num_rows, ROWS):
                    yield from _texts(path, batch.column(field)[start : start + ROWS], field, first + start, at)
                first += batch.num_rows
    except pa.ArrowException as error:
        raise _unreadable(path, "Arrow stream", error) from None


def _unreadable(path: Path, kind: str, error: Exception) -> UsageError:
    return UsageError(f"{path}: cannot be read as {kind} ({str(error).splitlines()[0]:.120}); write the file again")


def _check_column(path: Path, schema: Any, field: str) -> None:
    import pyarrow as pa

    if field not in schema.names:
        raise UsageError(f"{path}: {field}: no such column; {_others(field, schema.names)}")
    kind = schema.field(field).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UsageError(f"{path}: {field}: holds {str(kind)[:60]}, no text; name another column with --field")


def _column(path: Path, batches: Iterable[Any], field: str, size: int, rows: int) -> Iterator[Piece]:
    done = 0
    for batch in batches:
        yield from _texts(path, batch.column(field), field, done, size * (done + batch.num_rows) // max(rows, 1))
        done += batch.num_rows


def _texts(path: Path, values: Any, field: str, first_row: int, read_bytes: int) -> Iterator[Piece]:
    for row, value in enumerate(values, start=first_row):
        try:
            text = value.as_py() or ""
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path}: {field}: row {row:,}: byte {error.start:,} of the text is not UTF-8; write the file again"
            ) from None
        yield from pieces_of([(text, read_bytes)])
