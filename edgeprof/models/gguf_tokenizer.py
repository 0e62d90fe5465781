"""The vocabulary that a GGUF file must carry: a byte-level BPE from ``tokenizer.json``, or a placeholder of bytes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig

TOKENIZER_FILE = "tokenizer.json"
MAX_TOKENIZER_BYTES = 256 * 1024**2
"""Larger than any: Gemma's, with 262,144 tokens, has 33 MB."""

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types. Source: ``llama_token_type`` in llama.cpp's llama.h."""

GPT2_PRE = "gpt-2"
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS = {
    _WORD + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _WORD + r"\p{N}" + _REST: "qwen2",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": GPT2_PRE,
}
"""The splits that llama.cpp knows by a name. Source: the original expressions beside its own in llama-vocab.cpp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Tokens by id with their types, merges in order of rank, and the name of how text is split before merging."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    add_bos: bool
    note: str


def vocabulary(config: ArchConfig, folder: Path | None) -> Vocabulary:
    """The vocabulary of ``tokenizer.json`` in ``folder``, or the placeholder if there is none; ``note`` says which.

    Raises:
        UsageError: the file cannot be read, is no byte-level BPE, or has more tokens than the model.
    """
    path = None if folder is None else folder / TOKENIZER_FILE
    if path is None or not path.is_file():
        return placeholder(config)
    return read_tokenizer(path, config)


def placeholder(config: ArchConfig) -> Vocabulary:
    """The 256 bytes, the config's special tokens, and names for the rest: enough to open the model and feed it bytes."""
    special = {config.bos_token, config.eos_token, config.pad_token}
    tokens = [byte_character(i) if i < 256 else f"<|unused_{i}|>" for i in range(config.vocab)]
    types = [NORMAL if i < 256 else UNUSED for i in range(config.vocab)]
    for i in special - {None}:
        if i is not None and i < config.vocab:
            tokens[i], types[i] = f"<|special_{i}|>", CONTROL
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=["! !"],  # llama.cpp wants one; where the result is no token, it falls back to the bytes
        pre=GPT2_PRE,
        add_bos=False,
        note=f"no {TOKENIZER_FILE}: the vocabulary is a placeholder of bytes; text in and out means nothing",
    )


def byte_character(byte: int) -> str:
    """The printable character that stands for a byte in byte-level BPE.

    Source: ``bytes_to_unicode`` of GPT-2's encoder.py: printable Latin-1 stands for itself, the rest begins at 256.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + sum(b not in printable for b in range(byte)))


def read_tokenizer(path: Path, config: ArchConfig) -> Vocabulary:
    """The vocabulary of a byte-level BPE in the format of Hugging Face tokenizers; ids without a token get a name.

    Raises:
        UsageError: the file cannot be read, is another kind of tokenizer, or has more tokens than the model.
    """
    data = _read_json(path)
    model = data.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or model.get("byte_fallback"):
        raise UsageError(
            f"{path}: model: not a byte-level BPE, and no other is written to GGUF; export without the file"
        )
    named = dict(_ids(model.get("vocab"), path)) | dict(_added(data, path))
    if max(named, default=0) >= config.vocab:
        raise UsageError(f"{path}: token {max(named)}: config.vocab is {config.vocab}; use the model's own tokenizer")
    special = {t["id"]: t.get("special") is True for t in data.get("added_tokens") or []}
    types = [UNUSED] * config.vocab
    for i in named:
        types[i] = NORMAL if i not in special else CONTROL if special[i] else USER_DEFINED
    tokens = [named.get(i, f"<|unused_{i}|>") for i in range(config.vocab)]
    if len(set(tokens)) != len(tokens):
        raise UsageError(f"{path}: two ids have the same token; GGUF wants each token once")
    pre = _pre_tokenizer(data.get("pre_tokenizer"))
    known = "" if pre else "; its split of text is none that llama.cpp knows: text may be split into other tokens"
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=list(_merges(model, path)) or ["! !"],
        pre=pre or "default",
        add_bos=_adds_bos(data.get("post_processor")),
        note=f"vocabulary from {TOKENIZER_FILE}, {len(named):,} tokens{known}",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise UsageError(f"{path}: too large for a tokenizer")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: not a tokenizer")
    return data


def _ids(vocab: Any, path: Path) -> Iterator[tuple[int, str]]:
    if not isinstance(vocab, dict):
        raise UsageError(f"{path}: model.vocab: not a table of tokens")
    for token, i in vocab.items():
        yield _checked_id(i, path), token


def _added(data: dict[str, Any], path: Path) -> Iterator[tuple[int, str]]:
    added = data.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in added):
        raise UsageError(f"{path}: added_tokens: not a list of tokens")
    for token in added:
        yield _checked_id(token.get("id"), path), token["content"]


def _checked_id(i: Any, path: Path) -> int:
    if type(i) is not int or i < 0:
        raise UsageError(f"{path}: {i!r} is no token id")
    return i


def _merges(model: dict[str, Any], path: Path) -> Iterator[str]:
    """Merges as ``left right``: newer files write pairs, older ones this text."""
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise UsageError(f"{path}: model.merges: not a list")
    for merge in merges:
        text = " ".join(merge) if isinstance(merge, list) and all(isinstance(m, str) for m in merge) else merge
        if not isinstance(text, str) or text.count(" ") != 1:
            raise UsageError(f"{path}: model.merges: {merge!r} is no pair of tokens")
        yield text


def _pre_tokenizer(described: Any) -> str | None:
    """llama.cpp's name for a pre-tokenizer, or None if it has none."""
    steps = described.get("pretokenizers", [described]) if isinstance(described, dict) else []
    for step in steps:
        pattern = step.get("pattern")
        if step.get("type") == "Split" and isinstance(pattern, dict):
            return PRE_TOKENIZERS.get(pattern.get("Regex", ""))
        if step.get("type") == "ByteLevel" and step.get("use_regex", True):
            return GPT2_PRE
    return None


def _adds_bos(described: Any) -> bool:
    """Whether a post-processor's template for one text begins with a special token."""
    steps = described.get("processors", [described]) if isinstance(described, dict) else []
    return any(
        step.get("type") == "TemplateProcessing" and "SpecialToken" in (step.get("single") or [{}])[0] for step in steps
    )
