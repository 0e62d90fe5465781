"""The space file's schema. The fields of the model as a whole are a configuration's, and are checked as such."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from edgeprof.models.config import MAX_LAYERS
from edgeprof.models.schema import MAX_NAME, ConfigFile, Part, Strict
from edgeprof.search.files import check_file, check_version

SPACE_SCHEMA_VERSION = 1

MAX_CHOICES = 32
"""More mixers, feed-forwards, groups or rules than this are a mistake: nobody could measure every combination."""

MAX_ROW = 16
"""A longer row of layers is bounded by counting them all."""

MODEL_FIELDS = tuple(name for name in ConfigFile.model_fields if name not in ("schema_version", "layers"))
"""What a space states of all its models in a configuration's words: d_model, vocab, tied, norm_eps and so on."""

Count = Annotated[int, Field(ge=0, le=MAX_LAYERS)]
Length = Annotated[int, Field(ge=1, le=MAX_LAYERS)]
Label = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Labels = Annotated[list[Label], Field(min_length=1, max_length=MAX_CHOICES**2)]
Parts = Annotated[dict[str, Part], Field(min_length=1, max_length=MAX_CHOICES)]


class RuleFile(Strict):
    """``[[rules]]``: bounds on the layers with a mixer, an operator or a group."""

    of: Label
    at_least: Length | None = None
    at_most: Count | None = None
    in_a_row: Annotated[int, Field(ge=1, le=MAX_ROW)] | None = None


class SpaceFile(Strict):
    """What is in the file besides ``MODEL_FIELDS``."""

    schema_version: int
    description: Annotated[str, Field(min_length=1, max_length=500)]
    layers: Length
    period: Length | None = None
    mixers: Parts
    ffns: Parts
    ffn_per_layer: bool = False
    groups: Annotated[dict[str, Labels], Field(max_length=MAX_CHOICES, default_factory=dict)]
    slots: Annotated[dict[str, Labels], Field(max_length=MAX_LAYERS, default_factory=dict)]
    rules: Annotated[list[RuleFile], Field(max_length=MAX_CHOICES, default_factory=list)]


MESSAGES = {
    "dict_type": "{input} is not a table; write one, as the shipped spaces do",
    "list_type": "{input} is not a list; write the labels in [ ], or tables as [[rules]]",
    "model_type": "{input} is not a table; write [[rules]] with of = ... and at_least, at_most or in_a_row",
    "too_short": "is empty; give at least one",
    "too_long": "has more than {max_length} entries; nobody could measure every combination",
}


def parse_space_document(document: Mapping[str, Any], label: str) -> tuple[SpaceFile, dict[str, Any]]:
    """A space's file, checked, and its fields that belong to the model's configuration, not checked yet.

    Raises:
        UsageError: a field is wrong: names the field and the fix.
    """
    check_version(document, SPACE_SCHEMA_VERSION, label)
    model = {name: value for name, value in document.items() if name in MODEL_FIELDS}
    own = {name: value for name, value in document.items() if name not in MODEL_FIELDS}
    known = {"": [*SpaceFile.model_fields, *MODEL_FIELDS], "rules": list(RuleFile.model_fields)}
    return check_file(SpaceFile, own, label=label, known=known, messages=MESSAGES), model
