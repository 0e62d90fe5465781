"""Sources: every format gives the documents in it, and what is wrong is named by file and place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgeprof.core.errors import UsageError
from edgeprof.train.data import pieces as pieces_module
from edgeprof.train.data import readers
from edgeprof.train.data.pieces import pieces_of
from edgeprof.train.data.sources import Reading, find_sources, read_all
from edgeprof.train.data.stdlib import stdlib_documents

TEXTS = ["first", "zweites — Dokument", "", "fourth\nwith two lines"]


def documents(*given: str | Path, **reading: Any) -> list[str]:
    """The documents of these sources, joined from their pieces."""
    found: list[str] = []
    for piece in read_all(find_sources([str(g) for g in given]), Reading(**reading)):
        found += [""] * piece.begins
        found[-1] += piece.text
    return found


def refusal(*given: str | Path, **reading: Any) -> str:
    with pytest.raises(UsageError) as caught:
        documents(*given, **reading)
    message = str(caught.value)
    assert "\n" not in message
    return message


def save_arrow(folder: Path, texts: list[str | None], **state: Any) -> Path:
    """A folder as ``Dataset.save_to_disk`` writes it, in two files."""
    folder.mkdir(parents=True)
    half = len(texts) // 2
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(names, (texts[:half], texts[half:]), strict=True):
        table = pa.table({"text": pa.array(part, pa.string())})
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    files = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": "train"} | state))
    return folder


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\n\r\nzwei ü\n".encode())
    assert documents(tmp_path / "a.txt") == ["one\r\n\r\nzwei ü\n"]


def test_blank_lines_part_documents_where_asked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\na\nb\n\n \t\n\nc\n")
    assert documents(tmp_path / "a.txt", paragraphs=True) == ["a\nb", "c"]


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_how_a_file_is_read_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "ä\n\n\n語 b\r\n\r\nc".encode())
    monkeypatch.setattr(readers, "BLOCK_BYTES", block)
    assert documents(tmp_path / "a.txt") == ["ä\n\n\n語 b\r\n\r\nc"]
    assert documents(tmp_path / "a.txt", paragraphs=True) == ["ä", "語 b", "c"]


@pytest.mark.parametrize("block", [4, 10**6])
def test_a_byte_that_is_not_utf8_is_named_by_its_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    (tmp_path / "a.txt").write_bytes("äöü fine ".encode() + b"\xe4 latin")
    monkeypatch.setattr(readers, "BLOCK_BYTES", block)
    message = refusal(tmp_path / "a.txt")
    assert message.startswith(f"{tmp_path / 'a.txt'}: byte 12 (0xe4) is not UTF-8")


def test_a_byte_that_is_not_utf8_in_jsonl_is_named_by_its_offset_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "\xff"}\n')
    assert "byte 25 (0xff) is not UTF-8" in refusal(tmp_path / "a.jsonl")


def test_jsonl_gives_the_field_asked_for(tmp_path: Path, jsonl: Callable[..., Path]) -> None:
    path = jsonl(TEXTS, field="body")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n  \n")
    assert documents(path, field="body") == TEXTS


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", ":2: no JSON ("),
        ("[1]", ":2: list in place of an object"),
        ('{"test": "x"}', ":2: text: no such field; did you mean test?"),
        ('{"text": 3}', ":2: text: is int, no text"),
        ('{"text": "\\ud800"}', ":2: text: character 0 is half of a surrogate pair"),
        ("[" * 10**5, ":2: no JSON ("),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    assert said in refusal(tmp_path / "a.jsonl")


def test_a_line_without_end_is_refused_before_it_fills_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_DOCUMENT_BYTES", 100)
    (tmp_path / "a.jsonl").write_text("x" * 1000)
    assert "a.jsonl:1: is longer than 100 B" in refusal(tmp_path / "a.jsonl")
    (tmp_path / "a.txt").write_text("x" * 1000)
    assert "no blank line in 100 B" in refusal(tmp_path / "a.txt", paragraphs=True)


def test_parquet_gives_the_column_and_null_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "ROWS", 2)
    table = pa.table({"text": pa.array([*TEXTS, None]), "n": pa.array(range(5))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    assert documents(tmp_path / "a.parquet") == [*TEXTS, ""]
    assert "a.parquet: n: holds int64, no text" in refusal(tmp_path / "a.parquet", field="n")
    assert "a.parquet: tex: no such column; did you mean text?" in refusal(tmp_path / "a.parquet", field="tex")


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    assert "a.parquet: cannot be read as Parquet" in refusal(tmp_path / "a.parquet")


def test_text_in_parquet_that_is_not_utf8_is_named_by_row(tmp_path: Path) -> None:
    wrong = pa.array([b"fine", b"a\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": wrong}), tmp_path / "a.parquet")
    assert "a.parquet: text: row 1: byte 1 of the text is not UTF-8" in refusal(tmp_path / "a.parquet")


def test_a_folder_that_datasets_saved_gives_its_files_in_order(tmp_path: Path) -> None:
    assert documents(save_arrow(tmp_path / "d", [*TEXTS, None])) == [*TEXTS, ""]


def test_a_folder_of_splits_asks_which(tmp_path: Path) -> None:
    save_arrow(tmp_path / "d" / "train", ["a", "b"])
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert f"holds the splits train; name one, as in {tmp_path / 'd'}/train" in refusal(tmp_path / "d")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, "is a selection of its rows"),
        ({"_data_files": [{"filename": "../../etc/passwd"}]}, "names a file outside its folder"),
        ({"_data_files": "x"}, "is not as datasets writes it"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "gone.arrow: no such file"),
    ],
)
def test_a_datasets_folder_that_cannot_be_trusted_is_refused(tmp_path: Path, state: dict[str, Any], said: str) -> None:
    assert said in refusal(save_arrow(tmp_path / "d", ["a", "b"], **state))


def test_globs_and_folders_are_sorted_and_each_file_is_read_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.md", "sub/.hidden/d.txt", "e.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert documents(tmp_path) == ["a.txt", "b.txt", "sub/c.md"]
    assert documents(f"{tmp_path}/*.txt", tmp_path, tmp_path / "a.txt") == ["a.txt", "b.txt", "sub/c.md"]
    assert documents(f"{tmp_path}/**", tmp_path) == ["a.txt", "b.txt", "sub/c.md"]
    assert documents(tmp_path / "b.txt", tmp_path / "a.txt") == ["b.txt", "a.txt"]


def test_what_names_nothing_is_refused(tmp_path: Path) -> None:
    assert "nothing.txt: no such file or folder" in refusal(tmp_path / "nothing.txt")
    assert "*.txt: no such file or folder" in refusal(tmp_path / "*.txt")
    (tmp_path / "data.bin").write_text("x")
    assert "data.bin: what is in it?" in refusal(tmp_path / "data.bin")
    assert f"{tmp_path}: holds no file that ends in .txt" in refusal(tmp_path)
    assert "an empty name" in refusal("")


def test_a_long_document_comes_in_pieces_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 50)
    text = "".join(f"line {n} of some length\n" for n in range(40))
    (tmp_path / "a.txt").write_text(text)
    found = list(read_all(find_sources([str(tmp_path / "a.txt")]), Reading()))
    assert "".join(p.text for p in found) == text
    assert max(len(p.text) for p in found) <= 51
    assert [p.begins for p in found] == [True] + [False] * (len(found) - 1)
    assert [p.ends for p in found] == [False] * (len(found) - 1) + [True]
    assert all(p.text.endswith("\n") for p in found)
    assert found[-1].read_bytes == len(text)


def test_pieces_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_CHARS", 20)
    text = "words and\nlines and   runs of spaces andonewordthatislongerthanapiecemaybe" * 3
    whole = [p.text for p in pieces_of([(text, 0)])]
    for size in (1, 7, 21, 22):
        blocks = [(text[i : i + size], 0) for i in range(0, len(text), size)]
        assert [p.text for p in pieces_of(blocks)] == whole


def test_the_standard_library_has_a_corpus() -> None:
    found = documents("stdlib")
    assert found == list(stdlib_documents())
    assert len(found) > 300
    assert sum(map(len, found)) > 10**6
    assert any(text.startswith("json\n\nJSON (JavaScript Object Notation)") for text in found)
