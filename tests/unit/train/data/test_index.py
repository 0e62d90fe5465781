"""The index: what does not add up is refused by field, and files are held against it."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.train.data.dataset import DataSet, open_data
from edgeprof.train.data.stats import data_stats

Make = Callable[..., DataSet]


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "index.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def model(vocab: int, eos: int | None = None) -> ArchConfig:
    return config_of_pattern("C", {"kernel_size": 3, "d_ff": 8}, name="m", d_model=8, vocab=vocab, eos_token=eos)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda d: d.update(schema_version=2), "schema_version: 2 is newer than 1; upgrade edgeprof"),
        (lambda d: d.pop("schema_version"), "schema_version: None is not 1"),
        (lambda d: d.update(surprise=1), "surprise: "),
        (lambda d: d.update(vocab="300"), "vocab: "),
        (lambda d: d["train"]["shards"].pop(), "train: its shards do not add up"),
        (lambda d: d["train"]["shards"][0].update(tokens=-1), "train.shards.0.tokens: "),
        (lambda d: d["train"].update(documents=0), "train: its shards do not add up"),
        (lambda d: d["tokenizer"].update(sha256="../x"), "tokenizer.sha256: "),
        (lambda d: d["train"]["shards"].reverse(), "train: a shard before the last"),
    ],
)
def test_an_index_that_is_wrong_is_refused_by_field(dataset: Make, edit: Any, said: str) -> None:
    folder = dataset().folder
    change(folder, edit)
    with pytest.raises(UsageError) as caught:
        open_data(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["train-00000.bin", "train.ends", "held_out-00000.bin", "held_out.ends", "tokenizer.json"]
)
def test_every_file_is_held_against_its_checksum(dataset: Make, name: str) -> None:
    path = dataset().folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    open_data(path.parent, checksums=False)
    with pytest.raises(UsageError, match="the file is corrupt; run its edgeprof data prepare again"):
        open_data(path.parent)


def test_a_file_that_is_short_or_gone_is_found_without_checksums(dataset: Make) -> None:
    folder = dataset().folder
    path = folder / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"train-00000\.bin: has 999 bytes in place of 1,000"):
        open_data(folder, checksums=False)
    path.unlink()
    with pytest.raises(UsageError, match=r"train-00000\.bin: cannot be read \(No such file"):
        open_data(folder, checksums=False)


def test_a_token_that_no_tokenizer_wrote_is_refused_when_it_is_read(dataset: Make) -> None:
    folder = dataset().folder
    path = folder / "train-00000.bin"
    path.write_bytes(b"\xff" * 1000)
    split = open_data(folder, checksums=False).split("train")
    with pytest.raises(UsageError, match=r"train-00000\.bin: token 65535 is none of the tokenizer's"):
        split.read(10, 20)


def test_a_folder_without_an_index_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"index\.json: no such file; edgeprof data prepare makes a data set"):
        open_data(tmp_path)


def test_the_vocabulary_and_the_end_token_must_be_the_models(dataset: Make) -> None:
    data = dataset()
    ids = data.index.tokenizer.n_ids
    data.check_fits(model(ids))
    data.check_fits(model(5000, data.index.tokenizer.eos_token))
    with pytest.raises(UsageError, match=rf"vocabulary of {ids}, m has {ids - 1}; .* with vocab = {ids}"):
        data.check_fits(model(ids - 1))
    with pytest.raises(UsageError, match="documents end with token 0, eos_token of m is 3"):
        data.check_fits(model(5000, 3))


def test_large_vocabularies_take_four_bytes_a_token(dataset: Make, tmp_path: Path) -> None:
    from edgeprof.train.data.tokenizer import Specials

    small, large = dataset(), dataset(vocab=70_000, specials=Specials(eos=69_999), out=tmp_path / "large")
    assert (small.index.dtype.str, large.index.dtype.str) == ("<u2", "<u4")
    split = large.split("train")
    assert split.read(0, split.tokens).max() == 69_999


def test_figures_are_counted_from_the_documents(dataset: Make, jsonl: Callable[..., Path], texts: list[str]) -> None:
    data = dataset(sources=[str(jsonl([*texts, "lost \ufffd\ufffd text"]))], held_out=0.0)
    found = data_stats(data)
    split = found["splits"]["train"]
    assert found["documents"] == split["documents"] == len(texts) + 1
    assert split["text_bytes"] == sum(len(t.encode()) for t in texts) + len("lost \ufffd\ufffd text".encode())
    assert split["bytes_per_token"] == split["text_bytes"] / split["tokens"]
    assert split["replacement_characters"] == 2
    assert (split["unknown_tokens"], split["unknown_share"]) == (0, 0.0)
    lengths = split["document_tokens"]
    assert list(lengths.values()) == sorted(lengths.values())
    ends = [0, *data.split("train").ends]
    assert lengths["max"] == max(b - a for a, b in itertools.pairwise(ends))
    assert found["splits"].keys() == {"train"}


def test_unknown_tokens_are_counted(dataset: Make, tmp_path: Path, jsonl: Callable[..., Path]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "known": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["</s>"])
    (tmp_path / "t").mkdir()
    backend.save(str(tmp_path / "t" / "tokenizer.json"))
    sources = [str(jsonl(["known what", "known known strange word"]))]
    data = dataset(sources=sources, tokenizer=tmp_path / "t", held_out=0.0, vocab=None)
    split = data_stats(data)["splits"]["train"]
    assert (split["tokens"], split["unknown_tokens"], split["unknown_share"]) == (8, 3, 3 / 8)
    assert data.index.vocab == 3
