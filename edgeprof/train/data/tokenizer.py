"""The tokenizer of a data set: one that is there already, or a byte-level BPE trained on the data at the model's vocabulary."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeprof.core.errors import UsageError
from edgeprof.models.gguf_tokenizer import MAX_TOKENIZER_BYTES, TOKENIZER_FILE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from edgeprof.models.config import ArchConfig

SETTINGS_FILE = "tokenizer_config.json"
COMPANIONS = (SETTINGS_FILE, "special_tokens_map.json", "chat_template.jinja")
"""Files beside tokenizer.json that transformers reads; they go along with it."""

ROLE_NAMES = {"eos": "<|endoftext|>", "bos": "<|startoftext|>", "pad": "<|pad|>"}
"""What the special tokens of a trained tokenizer are called."""

END_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "<|eot_id|>")
"""What others call the end of a text, where their settings do not say."""

BYTES = 256
"""Tokens that every byte-level BPE begins with."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Specials:
    """Ids of special tokens that a model's configuration asks for; None where it says nothing."""

    eos: int | None = None
    bos: int | None = None
    pad: int | None = None

    @classmethod
    def of(cls, config: "ArchConfig") -> "Specials":
        """Those of a configuration."""
        return cls(eos=config.eos_token, bos=config.bos_token, pad=config.pad_token)


@dataclass(frozen=True, kw_only=True)
class TextTokenizer:
    """Turns text into ids. ``files`` are its own files by name, as they are written beside the data and beside a model.

    ``n_ids`` is one more than its largest id, ``bos`` what it puts before every text by itself, ``unknown`` what it writes for
    text that it cannot; a byte-level BPE has none.
    """

    files: dict[str, bytes]
    n_ids: int
    eos: int
    bos: int | None
    pad: int | None
    unknown: int | None

    @property
    def sha256(self) -> str:
        """Of tokenizer.json, which alone decides the ids."""
        return hashlib.sha256(self.files[TOKENIZER_FILE]).hexdigest()

    @cached_property
    def backend(self) -> "Tokenizer":
        """The ``tokenizers`` object; a special token's name in a text is taken for text."""
        return _backend(json.loads(self.files[TOKENIZER_FILE]), TOKENIZER_FILE)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, without special tokens; texts are encoded in parallel.

        Raises:
            UsageError: the tokenizer has no ids for one of them.
        """
        try:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # tokenizers raises nothing narrower
            raise UsageError(
                f"{TOKENIZER_FILE}: cannot encode the data ({error!s:.120}); use another tokenizer"
            ) from None
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]


def _backend(description: Any, label: str) -> "Tokenizer":
    """The tokenizer of a parsed tokenizer.json, without what would cut, fill up or vary a text.

    Raises:
        UsageError: ``tokenizers`` cannot read it.
    """
    from tokenizers import Tokenizer

    try:
        whole = description | {"truncation": None, "padding": None}
        whole["model"] = description["model"] | ({"dropout": None} if "dropout" in description["model"] else {})
        backend = Tokenizer.from_str(json.dumps(whole))
    except Exception as error:  # tokenizers raises nothing narrower
        raise UsageError(f"{label}: tokenizers cannot read it ({error!s:.120}); use another tokenizer") from None
    # else a document that mentions <|endoftext|> would end there
    backend.encode_special_tokens = True
    return backend


def load_tokenizer(path: Path, specials: Specials, *, vocab: int | None) -> TextTokenizer:
    """The tokenizer in a tokenizer.json, or in a folder that holds one, for a model with ``vocab`` tokens.

    Raises:
        UsageError: it cannot be read, has no token that ends a document, or does not fit the configuration.
    """
    path = path / TOKENIZER_FILE if path.is_dir() else path
    files = {TOKENIZER_FILE: _read(path)}
    files |= {name: _read(path.with_name(name)) for name in COMPANIONS if path.with_name(name).is_file()}
    description = _parse(files[TOKENIZER_FILE], path)
    settings = _parse(files.get(SETTINGS_FILE, b"{}"), path.with_name(SETTINGS_FILE))
    backend = _backend(description, str(path))
    named = backend.get_vocab(with_added_tokens=True)
    n_ids = max(named.values(), default=-1) + 1
    if vocab is not None and n_ids > vocab:
        raise UsageError(
            f"{path}: its vocabulary of {n_ids:,} does not fit into the model's of {vocab:,}; use a configuration with "
            f"vocab = {n_ids}, or another tokenizer"
        )
    eos = _end_of_document(backend, specials, settings, path)
    start = backend.encode("").ids[:1]
    pad = specials.pad if specials.pad is not None else named.get(_setting(settings, "pad_token"))
    tokenizer = TextTokenizer(
        files=files,
        n_ids=n_ids,
        eos=eos,
        bos=start[0] if start and start[0] != eos else None,
        pad=pad,
        unknown=_unknown(description["model"], named),
    )
    if SETTINGS_FILE not in files:
        names = {i: name for name, i in named.items()}
        files[SETTINGS_FILE] = _settings(
            {role: names.get(i) for role, i in (("eos", eos), ("bos", tokenizer.bos), ("pad", pad)) if i is not None}
        )
    return tokenizer


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise UsageError(f"{path}: too large for a tokenizer")
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; save_pretrained of a fast tokenizer writes one") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); correct its permissions") from None


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: no JSON ({error!s:.120}); save the tokenizer again") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: no JSON object; save the tokenizer again")
    return data


def _setting(settings: dict[str, Any], name: str) -> str:
    """A special token's name in tokenizer_config.json, where it is a text or an object with a ``content``; "" is none."""
    value = settings.get(name)
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else ""


def _end_of_document(backend: "Tokenizer", specials: Specials, settings: dict[str, Any], path: Path) -> int:
    """The id that ends a document: the configuration's, else the tokenizer's own.

    It must be a special token, as any other may also stand within a text.
    """
    special = {i: token.content for i, token in backend.get_added_tokens_decoder().items() if token.special}
    if specials.eos is not None:
        if specials.eos not in special:
            known = ", ".join(f"{i} ({name[:40]})" for i, name in sorted(special.items())[:8])
            raise UsageError(
                f"{path}: the configuration's eos_token {specials.eos} is none of its special tokens ({known or 'none'}); "
                "correct eos_token, or use the model's own tokenizer"
            )
        return specials.eos
    by_name = {name: i for i, name in special.items()}
    for name in (_setting(settings, "eos_token"), *END_NAMES):
        if name in by_name:
            return by_name[name]
    raise UsageError(f"{path}: no special token ends a text; name one as eos_token in {SETTINGS_FILE} beside it")


def _unknown(model: dict[str, Any], named: dict[str, int]) -> int | None:
    """The id that stands for text without a token. Source: the fields of BPE, WordPiece, WordLevel and of Unigram."""
    name, index = model.get("unk_token"), model.get("unk_id")
    return named.get(name) if isinstance(name, str) else index if type(index) is int else None


def train_tokenizer(texts: Iterable[str], specials: Specials, *, vocab: int) -> TextTokenizer:
    """A byte-level BPE of at most ``vocab`` tokens, its special tokens at the ids that the configuration gives them.

    The same texts give the same tokenizer. Small data may hold fewer pairs than the vocabulary has room for. Where the
    configuration names a bos_token, every text begins with it.

    Raises:
        UsageError: the vocabulary has no room for the bytes and the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    check_room(specials, vocab)
    roles = assign_roles(specials)
    names = {roles[role]: ROLE_NAMES[role] for role in reversed(roles)}
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(names), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    description = json.loads(backend.to_str())
    _place(description, names)
    bos = roles.get("bos")
    if bos is not None and bos != roles["eos"]:
        description["post_processor"] = _begins_with(names[bos], bos)
    files = {
        TOKENIZER_FILE: json.dumps(description, ensure_ascii=False).encode(),
        SETTINGS_FILE: _settings({role: names[i] for role, i in roles.items()}),
    }
    n_ids = max(description["model"]["vocab"].values()) + 1
    bos = None if bos == roles["eos"] else bos
    return TextTokenizer(files=files, n_ids=n_ids, eos=roles["eos"], bos=bos, pad=roles["pad"], unknown=None)


def check_room(specials: Specials, vocab: int) -> None:
    """Checks that a byte-level BPE has room in a vocabulary.

    Raises:
        UsageError: it has not.
    """
    least = BYTES + len(set(assign_roles(specials).values()))
    if vocab < least:
        raise UsageError(
            f"vocab: {vocab} is too small for a byte-level BPE with its special tokens; use {least} or more, or a --tokenizer"
        )


def assign_roles(specials: Specials) -> dict[str, int]:
    """Ids of the special tokens by role: those given, and for the end and the padding else the lowest that are free."""
    given = {"eos": specials.eos, "bos": specials.bos, "pad": specials.pad}
    roles = {role: i for role, i in given.items() if i is not None}
    for role in ("eos", "pad"):
        if role not in roles:
            roles[role] = next(i for i in range(len(given)) if i not in roles.values())
    return {role: roles[role] for role in given if role in roles}


def _place(description: dict[str, Any], names: dict[int, str]) -> None:
    """Gives the special tokens their ids, and the learned tokens the others in their order."""
    learned = sorted(description["model"]["vocab"].items(), key=lambda item: item[1])
    free = (i for i in range(len(learned) + len(names)) if i not in names)
    vocab = {token: i for (token, _), i in zip(learned, free, strict=False)}
    vocab |= {name: i for i, name in names.items()}
    description["model"]["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    description["added_tokens"] = [
        {"id": i, "content": name, **flags, "special": True} for i, name in sorted(names.items())
    ]


def _begins_with(name: str, token: int) -> dict[str, Any]:
    """A post-processor that puts a token before each text. Source: tokenizers' TemplateProcessing as it is serialised."""
    first = {"SpecialToken": {"id": name, "type_id": 0}}
    text, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, second],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }


def _settings(names: dict[str, str | None]) -> bytes:
    """tokenizer_config.json, by which transformers' AutoTokenizer knows the class and the special tokens."""
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {f"{role}_token": name for role, name in names.items() if name is not None}
    return (json.dumps(settings, indent=2) + "\n").encode()
