"""The tokenizer in a model's folder, as transformers reads it: prompts to ids, ids to text."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgeprof.core.errors import UsageError
from edgeprof.models.schema import clipped
from edgeprof.train.evaluate.hugging_face import transformers


class TextCodec:
    """Prompts to ids and ids to text. ``ends`` are the tokens that end a text, ``chat`` says how prompts are put."""

    def __init__(self, folder: Path, *, ends: Iterable[int], vocab: int, chat: bool | None) -> None:
        """``chat`` True puts every prompt into the chat template, None does so where the folder has one.

        Raises:
            UsageError: there is no tokenizer, it does not fit the model, or it lacks what is asked for.
        """
        self.folder = folder
        self.backend = _load(folder)
        own = self.backend.eos_token_id
        self.ends = frozenset(ends) | (frozenset() if own is None else {own})
        largest = max(self.backend.get_vocab().values())
        if largest >= vocab:
            raise UsageError(f"{folder}: its tokenizer has ids up to {largest:,}, the model a vocabulary of {vocab:,}")
        has_template = bool(self.backend.chat_template)
        if chat and not has_template:
            raise UsageError(f"{folder}: --chat: the tokenizer has no chat template; leave the option out")
        self.chat = has_template if chat is None else chat

    def encode_prompt(self, text: str) -> list[int]:
        """The ids that generation begins with, at least one."""
        if text and self.chat:
            return self._encode_chat(text)
        ids: list[int] = self.backend.encode(text, add_special_tokens=True)
        while len(ids) > 1 and ids[-1] in self.ends:  # a tokenizer may end every text
            ids.pop()
        return ids or [self._start()]

    def _encode_chat(self, text: str) -> list[int]:
        messages = [{"role": "user", "content": text}]
        try:
            put = self.backend.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template raises whatever it likes
            raise UsageError(f"{self.folder}: its chat template fails ({clipped(error, 120)}); use --no-chat") from None
        ids: list[int] = self.backend.encode(put, add_special_tokens=False)
        return ids

    def _start(self) -> int:
        """What an empty text begins with: the token that begins texts, else one that ends them."""
        begin = self.backend.bos_token_id
        if begin is None and not self.ends:
            raise UsageError(f"{self.folder}: the tokenizer has no bos_token and no eos_token to begin with; add one")
        return int(begin) if begin is not None else min(self.ends)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def ordinary_ids(self) -> list[int]:
        """Ids that stand for text, in order."""
        special = set(self.backend.all_special_ids) | self.ends
        return sorted(set(self.backend.get_vocab().values()) - special)


def _load(folder: Path) -> Any:
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        raise UsageError(f"{folder}: holds no tokenizer.json; copy the model's tokenizer there")
    try:
        return transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its parts do
        raise UsageError(f"{folder}: transformers cannot load its tokenizer: {clipped(error, 200)}") from None
