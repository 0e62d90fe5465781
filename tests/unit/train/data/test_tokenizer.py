"""The tokenizer: trained the same every time, special tokens where the configuration wants them, others checked."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.models.gguf_tokenizer import read_tokenizer
from edgeprof.train.data.tokenizer import Specials, TextTokenizer, assign_roles, load_tokenizer, train_tokenizer

TEXT = "the short convolution keeps a few inputs, attention keeps all of them; " * 20
LFM2 = Specials(eos=7, bos=1, pad=0)


@pytest.fixture
def trained() -> TextTokenizer:
    return train_tokenizer([TEXT], LFM2, vocab=300)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tokenizer's files into a folder; keywords replace fields of tokenizer.json."""

    def write(tokenizer: TextTokenizer, *, without: str = "", **changes: Any) -> Path:
        for name, content in tokenizer.files.items():
            if name != without:
                (tmp_path / name).write_bytes(content)
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
        return tmp_path

    return write


def decode(tokenizer: TextTokenizer, text: str) -> Any:
    return tokenizer.backend.decode(tokenizer.encode([text])[0].tolist())


def test_training_twice_gives_the_same_bytes(trained: TextTokenizer) -> None:
    assert train_tokenizer([TEXT], LFM2, vocab=300).files == trained.files


def test_special_tokens_are_where_the_configuration_has_them(trained: TextTokenizer) -> None:
    assert (trained.eos, trained.bos, trained.pad) == (7, 1, 0)
    assert [trained.backend.id_to_token(i) for i in (7, 1, 0)] == ["<|endoftext|>", "<|startoftext|>", "<|pad|>"]
    assert not {0, 1, 7} & set(trained.encode([TEXT])[0].tolist())
    assert trained.n_ids <= 300


@pytest.mark.parametrize(
    ("given", "roles"),
    [
        (Specials(), {"eos": 0, "pad": 1}),
        (Specials(eos=0), {"eos": 0, "pad": 1}),
        (Specials(pad=0), {"eos": 1, "pad": 0}),
        (Specials(bos=0), {"eos": 1, "bos": 0, "pad": 2}),
        (Specials(eos=9, bos=5, pad=5), {"eos": 9, "bos": 5, "pad": 5}),
    ],
)
def test_special_tokens_that_are_not_given_take_the_lowest_free_ids(given: Specials, roles: dict[str, int]) -> None:
    assert assign_roles(given) == roles


def test_ids_may_be_shared_and_high(trained: TextTokenizer) -> None:
    shared = train_tokenizer([TEXT], Specials(eos=999, bos=998, pad=998), vocab=1000)
    assert (shared.eos, shared.bos, shared.pad, shared.n_ids) == (999, 998, 998, 1000)
    assert decode(shared, "keeps inputs") == "keeps inputs"
    assert shared.backend.encode("x").ids[0] == 998


def test_every_text_comes_back(trained: TextTokenizer) -> None:
    for text in ("keeps äöü 語 \U0001f600", "\n\t  tabs\r\n", "\x00", "<|endoftext|> <|pad|>"):
        assert decode(trained, text) == text


def test_a_text_that_names_a_special_token_does_not_make_one(trained: TextTokenizer) -> None:
    ids = trained.encode(["before <|endoftext|> after <|startoftext|>"])[0]
    assert not {7, 1} & set(ids.tolist())


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"vocab: 258 is too small .* use 259 or more"):
        train_tokenizer([TEXT], LFM2, vocab=258)


def test_what_is_saved_is_loaded_again(trained: TextTokenizer, save: Callable[..., Path]) -> None:
    folder = save(trained)
    for path in (folder, folder / "tokenizer.json"):
        loaded = load_tokenizer(path, Specials(), vocab=300)
        fields = ("n_ids", "eos", "bos", "pad", "unknown")
        assert [getattr(loaded, f) for f in fields] == [getattr(trained, f) for f in fields]
        assert loaded.encode([TEXT])[0].tolist() == trained.encode([TEXT])[0].tolist()


def test_transformers_loads_what_is_saved(trained: TextTokenizer, save: Callable[..., Path]) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(save(trained), local_files_only=True)
    assert (loaded.eos_token_id, loaded.bos_token_id, loaded.pad_token_id) == (7, 1, 0)
    assert loaded("keeps a few")["input_ids"] == [1, *trained.encode(["keeps a few"])[0].tolist()]


def test_gguf_takes_what_is_saved(trained: TextTokenizer, save: Callable[..., Path]) -> None:
    from edgeprof.models.config import config_of_pattern

    dims = {"kernel_size": 3, "d_ff": 8}
    config = config_of_pattern("C", dims, name="m", d_model=8, vocab=320, eos_token=7, bos_token=1, pad_token=0)
    found = read_tokenizer(save(trained) / "tokenizer.json", config)
    assert (found.pre, found.add_bos, found.tokens[7]) == ("gpt-2", True, "<|endoftext|>")


def test_settings_that_cut_or_vary_text_are_ignored(trained: TextTokenizer, save: Callable[..., Path]) -> None:
    model = json.loads(trained.files["tokenizer.json"])["model"] | {"dropout": 0.9}
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    padding = pad | {"pad_type_id": 0, "pad_token": "<|pad|>"}
    loaded = load_tokenizer(save(trained, model=model, truncation=cut, padding=padding), LFM2, vocab=300)
    assert loaded.encode(["keeps a few inputs"])[0].tolist() == trained.encode(["keeps a few inputs"])[0].tolist()


def test_a_larger_vocabulary_than_the_model_has_is_refused_with_both_numbers(
    trained: TextTokenizer, save: Callable[..., Path]
) -> None:
    folder = save(trained)
    with pytest.raises(UsageError, match=rf"vocabulary of {trained.n_ids} does not fit into the model's of 280"):
        load_tokenizer(folder, LFM2, vocab=280)
    assert load_tokenizer(folder, LFM2, vocab=5000).n_ids == trained.n_ids


def test_an_end_token_that_text_may_hold_is_refused(trained: TextTokenizer, save: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match=r"eos_token 65 is none of its special tokens \(0 \(<\|pad\|>\), 1 "):
        load_tokenizer(save(trained), Specials(eos=65), vocab=300)


def test_without_settings_the_end_token_is_known_by_its_name(trained: TextTokenizer, save: Callable[..., Path]) -> None:
    loaded = load_tokenizer(save(trained, without="tokenizer_config.json"), Specials(), vocab=None)
    assert (loaded.eos, loaded.bos) == (7, 1)
    assert json.loads(loaded.files["tokenizer_config.json"])["eos_token"] == "<|endoftext|>"


def test_a_tokenizer_without_special_tokens_is_refused(trained: TextTokenizer, save: Callable[..., Path]) -> None:
    folder = save(trained, added_tokens=[], post_processor=None)
    with pytest.raises(UsageError, match="no special token ends a text"):
        load_tokenizer(folder, Specials(), vocab=None)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"model": 3}', b"[" * 10**5, b'{"model": {"type": "BPE"}}'])
def test_what_is_no_tokenizer_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_tokenizer(tmp_path, Specials(), vocab=None)
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.json'}: ")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tokenizer\.json: no such file; save_pretrained"):
        load_tokenizer(tmp_path, Specials(), vocab=None)


def test_tokens_for_unknown_text_are_found(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "known": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path, Specials(), vocab=None)
    assert (loaded.unknown, loaded.eos, loaded.n_ids) == (0, 2, 3)
    assert loaded.encode(["known what"])[0].tolist() == [1, 0]


def test_its_checksum_is_of_what_decides_the_ids(trained: TextTokenizer) -> None:
    other = dataclasses.replace(trained, files=trained.files | {"tokenizer_config.json": b"{}"})
    assert other.sha256 == trained.sha256
