"""Settings from outside: a flat TOML file, options, and a run's own file, checked field by field."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeprof.core.errors import UsageError
from edgeprof.core.ranges import MAX_SIZE
from edgeprof.core.registry import did_you_mean
from edgeprof.models.schema import MESSAGES, clipped, read_document
from edgeprof.train.settings import setting_names

Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Steps = Annotated[int, Field(ge=1, le=10**9)]
Batch = Annotated[int, Field(ge=1, le=2**20)]


class SettingsFile(BaseModel):
    """Every field of Settings and Running; what is left out is chosen for the model."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    tokens: Annotated[int, Field(ge=1, le=10**15)] | None = None
    seq_len: Annotated[int, Field(ge=2, le=MAX_SIZE)] | None = None
    batch: Batch | None = None
    lr: Annotated[float, Field(gt=0, le=10)] | None = None
    optimiser: Literal["muon", "adamw"] | None = None
    schedule: Literal["wsd", "cosine"] | None = None
    warmup: Share | None = None
    decay: Share | None = None
    final_lr: Share | None = None
    weight_decay: Share | None = None
    beta1: Beta | None = None
    beta2: Beta | None = None
    momentum: Beta | None = None
    clip: Positive | None = None
    z_loss: Annotated[float, Field(ge=0, le=1)] | None = None
    mask_documents: bool | None = None
    max_skipped: Steps | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    precision: Literal["auto", "fp32", "bf16"] | None = None
    micro_batch: Batch | None = None
    checkpoint_activations: bool | None = None
    compile: bool | None = None
    parallel: Literal["ddp", "fsdp"] | None = None
    save_every: Steps | None = None
    evaluate_every: Steps | None = None
    keep: Annotated[int, Field(ge=1, le=10**6)] | None = None


assert set(SettingsFile.model_fields) == set(setting_names()), "a setting has no check"


def check_given(given: Mapping[str, Any], label: str) -> dict[str, Any]:
    """The settings that are given, checked; those that are None are not.

    Raises:
        UsageError: names the first field that is wrong, and the fix.
    """
    try:
        return SettingsFile.model_validate(dict(given)).model_dump(exclude_none=True)
    except ValidationError as error:
        raise UsageError(f"{label}: {_first_error(error)}") from None


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a TOML file.

    Raises:
        UsageError: it is none, or a field is wrong.
    """
    if path.suffix != ".toml":
        raise UsageError(f"{path}: not a .toml file; write settings as in lr = 0.003, a line each")
    return check_given(read_document(path, "write settings as in lr = 0.003, a line each"), path.name)


def _first_error(error: ValidationError) -> str:
    detail = min(error.errors(include_url=False), key=lambda d: len(d["loc"]))
    path = ".".join(clipped(part).strip("'") for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{path}: no such setting; {did_you_mean(path[:80], list(setting_names()))}"
    if detail["type"] == "literal_error":
        return f"{path}: {clipped(detail['input'])} is none; use {detail['ctx']['expected']}"
    message = MESSAGES.get(detail["type"], detail["msg"])
    return f"{path}: {message.format(input=clipped(detail['input']), **detail.get('ctx', {}))}"
