"""Whether two tokenizers give every text the same ids; where not, what differs first."""

import json
from typing import Any

from edgeprof.models.schema import clipped
from edgeprof.train.data.tokenizer import TextTokenizer

PARTS = ("normalizer", "pre_tokenizer")
"""What else decides a text's ids. What decodes them, or puts special tokens around them, does not."""


def first_difference(one: TextTokenizer, other: TextTokenizer) -> str | None:
    """What differs first: a token of the vocabulary, a merge, or how text is cut; None where nothing does."""
    if one.sha256 == other.sha256:
        return None
    return _vocabulary(one, other) or _description(one, other)


def _vocabulary(one: TextTokenizer, other: TextTokenizer) -> str | None:
    names = [{i: t for t, i in x.backend.get_vocab(with_added_tokens=True).items()} for x in (one, other)]
    for i in sorted(set(names[0]) | set(names[1])):
        found = [x.get(i) for x in names]
        if found[0] != found[1]:
            return f"token {i} is {_shown(found[0])} and {_shown(found[1])}"
    return None


def _shown(token: str | None) -> str:
    return "missing" if token is None else clipped(token, 40)


def _description(one: TextTokenizer, other: TextTokenizer) -> str | None:
    a, b = (json.loads(x.backend.to_str()) for x in (one, other))
    merges = [x["model"].get("merges") or [] for x in (a, b)]
    for number, (ours, theirs) in enumerate(zip(*merges, strict=False)):
        if ours != theirs:
            return f"merge {number} is {clipped(ours, 40)} and {clipped(theirs, 40)}"
    if len(merges[0]) != len(merges[1]):
        return f"there are {len(merges[0]):,} and {len(merges[1]):,} merges"
    rest = [{k: v for k, v in x["model"].items() if k not in ("vocab", "merges")} for x in (a, b)]
    if difference := _field("model", *rest):
        return difference
    for part in PARTS:
        if a.get(part) != b.get(part):
            return f"{part} is {clipped(a.get(part), 60)} and {clipped(b.get(part), 60)}"
    return None


def _field(label: str, a: dict[str, Any], b: dict[str, Any]) -> str | None:
    for name in sorted(set(a) | set(b)):
        if a.get(name) != b.get(name):
            return f"{label}.{name} is {clipped(a.get(name), 40)} and {clipped(b.get(name), 40)}"
    return None
