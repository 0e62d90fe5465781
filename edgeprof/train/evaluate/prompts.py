"""Prompts to generate from: a few that ship, and files of the user's own."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeprof.core.errors import UsageError
from edgeprof.core.units import format_bytes

MAX_FILE_BYTES = 16 * 2**20
MAX_CHARS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text to be continued, and the set that it is counted in. An empty one lets the model begin by itself."""

    prompt_set: str
    text: str


BUILT_IN: dict[str, tuple[str, ...]] = {
    "question": (
        "What is the capital of Portugal?",
        "Why does ice float on water?",
        "How do I reverse a list in Python?",
        "Which is larger, 0.9 or 0.11, and why?",
        "Who decides the order of the letters in the alphabet?",
    ),
    "list": (
        "Name twenty animals that live in the sea, one on each line.",
        "List the steps of changing a bicycle tyre, with a sentence on each.",
        "Write a table of ten fruits with their colour and the season in which they ripen.",
    ),
    "reasoning": (
        "A train leaves at 9:40 and travels 210 km at 84 km/h, waits 25 minutes, then travels 90 km at 60 km/h. When does it "
        "arrive? Think step by step and check each step before the next one.",
        "Five friends sit in a row. Ana is not at an end, Ben is right of Cem, Dia sits beside Ana, and Eli is leftmost. Find "
        "every possible order, and prove that there is no other.",
        "Find the smallest positive integer that leaves remainder 2 when divided by 3, 3 when divided by 5 and 2 when divided "
        "by 7. Explain how you found it, and show that nothing smaller works.",
    ),
    "empty": ("",),
}
"""Short questions, lists to write, tasks that take long reasoning, and nothing at all."""


def built_in_prompts() -> list[Prompt]:
    """The prompts that ship."""
    return [Prompt(prompt_set=name, text=text) for name, texts in BUILT_IN.items() for text in texts]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(max_length=MAX_CHARS)]
    set: Annotated[str, Field(min_length=1, max_length=80)] | None = None


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a .txt file, one a line, or of a .jsonl file of objects with ``prompt`` and, if wanted, ``set``.

    Without ``set`` a prompt's set is the file's name.

    Raises:
        UsageError: it cannot be read, or a line is wrong: names it.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise UsageError(f"--prompts: {path}: not a .txt or .jsonl file; write one prompt a line")
    lines = [(n, line) for n, line in enumerate(_read(path).split("\n"), 1) if line.strip()]
    if path.suffix == ".jsonl":
        prompts = [_parse(line, path, n) for n, line in lines]
    else:
        prompts = [Prompt(prompt_set=path.stem, text=line.strip()) for _, line in lines]
    if not prompts:
        raise UsageError(f"--prompts: {path}: holds no prompt; write one a line")
    return prompts


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise UsageError(f"--prompts: {path}: is larger than {format_bytes(MAX_FILE_BYTES)}; give fewer prompts")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"--prompts: {path}: cannot be read ({error.strerror}); name a file of prompts") from None
    except UnicodeDecodeError:
        raise UsageError(f"--prompts: {path}: is not text in UTF-8; save it as UTF-8") from None


def _parse(line: str, path: Path, number: int) -> Prompt:
    where = f"--prompts: {path}, line {number}"
    try:
        found = _Line.model_validate(json.loads(line))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:80]
        raise UsageError(
            f'{where}: {field + ": " if field else ""}{first["msg"]:.120}; write {{"prompt": "..."}}'
        ) from None
    except (ValueError, RecursionError):
        raise UsageError(f'{where}: is no JSON; write {{"prompt": "..."}}') from None
    return Prompt(prompt_set=found.set or path.stem, text=found.prompt)
