"""The folder of a run: ``run.json`` says what it trains, on what, and how; a folder is for one run, and for one process group."""

import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeprof.core.errors import UsageError
from edgeprof.core.version import VERSION
from edgeprof.models.config import ArchConfig, config_to_json, from_file, to_document
from edgeprof.models.schema import parse_document, read_document
from edgeprof.train.data.disk import LOCK_FILE, locked, replace_file, writing_to
from edgeprof.train.settings import Precision, Settings, settings_document
from edgeprof.train.settings_file import check_given

RUN_VERSION = 1
RUN_FILE = "run.json"
DATA, CHECKPOINTS, MODEL = "data", "checkpoints", "model"
"""Folders in it: the data that the run prepared itself, the checkpoints, and the trained model."""

METRICS_FILE = "metrics.jsonl"


class RunFile(BaseModel):
    """The whole file. ``precision`` is what was chosen when the run began, ``objective`` a teacher, if it has one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    schema_version: Literal[1] = 1
    edgeprof: str
    created_at: str
    config: dict[str, Any]
    data: str
    data_fingerprint: str
    settings: dict[str, Any]
    precision: Literal["fp32", "bf16"]
    objective: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run folder is for."""

    folder: Path
    config: ArchConfig
    data: Path
    data_fingerprint: str
    settings: Settings
    precision: Precision
    objective: Mapping[str, Any] | None = None

    def write(self) -> None:
        """Writes ``run.json``.

        Raises:
            UsageError: the file system refuses.
        """
        file = RunFile(
            edgeprof=VERSION,
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            config=to_document(self.config),
            data=str(self.data),
            data_fingerprint=self.data_fingerprint,
            settings=settings_document(self.settings),
            precision="bf16" if self.precision == "bf16" else "fp32",
            objective=None if self.objective is None else dict(self.objective),
        )
        with writing_to(self.folder):
            replace_file(self.folder / RUN_FILE, (file.model_dump_json(indent=2) + "\n").encode())


def read_run(folder: Path) -> Run | None:
    """What a folder's run is; None where it has none yet.

    Raises:
        UsageError: the file is wrong, or of a newer version.
    """
    path = folder / RUN_FILE
    if not path.exists():
        return None
    document = read_document(path, "edgeprof train writes it")
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is int and version > RUN_VERSION:
        raise UsageError(f"{path}: schema_version: {version} is newer than {RUN_VERSION}; upgrade edgeprof")
    try:
        file = RunFile.model_validate(document)
        settings = Settings(**check_given(file.settings, f"{path}: settings"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:80]
        raise UsageError(f"{path}: {field}: {first['msg']:.120}; choose another --out") from None
    except TypeError as error:
        raise UsageError(f"{path}: settings: {error!s:.120}; choose another --out") from None
    return Run(
        folder=folder,
        config=from_file(parse_document(file.config, str(path)), str(path), default_name="model"),
        data=Path(file.data),
        data_fingerprint=file.data_fingerprint,
        settings=settings,
        precision=file.precision,
        objective=file.objective,
    )


def check_same(
    run: Run,
    config: ArchConfig,
    given: Mapping[str, Any],
    data: Path | None,
    objective: Mapping[str, Any] | None = None,
) -> None:
    """Checks that what is asked for is what the folder's run does; settings that were not given are the run's own.

    Raises:
        UsageError: says what differs.
    """
    differing = []
    if config_to_json(config) != config_to_json(run.config):
        differing.append(f"config: was {run.config.name} ({run.config.pattern}), now {config.name} ({config.pattern})")
    if data is not None and data != run.data:
        differing.append(f"data: was {run.data}, now {data}")
    if objective != run.objective:
        differing.append(f"teacher: was {_teacher(run.objective)}, now {_teacher(objective)}")
    stored = settings_document(run.settings)
    for name, value in given.items():
        if name in stored and stored[name] != value:
            differing.append(f"{name}: was {stored[name]}, now {value}")
    if differing:
        raise UsageError(
            f"--out: {run.folder} holds another run ({'; '.join(differing)}); choose another folder, or ask for the same again"
        )


def _teacher(objective: Mapping[str, Any] | None) -> str:
    """A teacher in a few words."""
    if objective is None:
        return "none"
    return ", ".join(f"{name} {value!s:.12}" for name, value in objective.items())


@contextmanager
def kept_to_run(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps it to this run.

    Raises:
        UsageError: it cannot be made, it holds other files, or another process trains in it.
    """
    with locked(folder, "edgeprof train"):
        _check_ours(folder)
        yield


def _check_ours(folder: Path) -> None:
    others = {path.name for path in folder.iterdir()} - {LOCK_FILE, DATA, f".{RUN_FILE}.new"}
    if others and not (folder / RUN_FILE).is_file():
        raise UsageError(f"--out: {folder} holds other files ({min(others):.60}); choose a new or an empty folder")
