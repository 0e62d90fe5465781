"""Checkpoints: everything that the next step depends on, in safetensors and JSON. Nothing that can run code is ever read.

A checkpoint is a folder ``step-00000100`` with a manifest. The weights and moments are whole in ``model.safetensors`` and
``optimiser.safetensors``, or where processes share the weights in files of their shards, which any number of processes can read.
"""

import errno
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as read_tensors
from torch.distributed.checkpoint.state_dict_saver import save as write_tensors
from torch.distributed.tensor import DTensor

from edgeprof.core.errors import UsageError
from edgeprof.models.schema import clipped, read_document
from edgeprof.models.weights import WEIGHTS_FILE
from edgeprof.train.data.disk import writing_to
from edgeprof.train.distributed import Processes
from edgeprof.train.manifest import UNFINISHED, problem, publish, unfinished

log = logging.getLogger(__name__)

STATE_VERSION = 1
STATE_FILE = "state.json"
OPTIMISER_FILE = "optimiser.safetensors"
RNG = "rng-{rank:05d}.safetensors"

NAME = re.compile(r"step-([0-9]{8,12})")

UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AssertionError, CheckpointException)
"""What the readers of tensors raise on files that are none, or of another model."""


class Progress(BaseModel):
    """Where a run stands after ``step`` steps, of which ``updates`` changed the weights; ``data`` is the loader's own state."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    schema_version: Literal[1] = 1
    step: Annotated[int, Field(ge=0, le=2**40)]
    updates: Annotated[int, Field(ge=0, le=2**40)]
    skipped_in_a_row: Annotated[int, Field(ge=0, le=2**40)] = 0
    loss: float | None = None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """What a checkpoint holds by name: the model's weights, and the optimiser's moments."""

    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]

    def all(self) -> dict[str, Tensor]:
        """All of them; no weight has a slash in its name, and every moment has one."""
        return {**self.weights, **self.moments}

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of them."""
        return any(isinstance(tensor, DTensor) for tensor in self.weights.values())


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        names = (NAME.fullmatch(path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in names if match)

    def latest(self) -> Path | None:
        """The last whole checkpoint; None where there is none yet. Corrupt ones are told, and passed over.

        Raises:
            UsageError: all of them are corrupt.
        """
        wrong = ""
        for step in reversed(self.steps()):
            folder = self.path(step)
            found = problem(folder)
            if found is None:
                return folder
            log.warning("checkpoint %s is not used: %s", folder.name, found)
            wrong = wrong or found
        if wrong:
            raise UsageError(f"{wrong}; no checkpoint of {self.folder.parent} is whole: begin anew in another --out")
        return None

    def save(self, progress: Progress, tensors: Tensors, processes: Processes) -> Path:
        """Writes a checkpoint, all processes together, and removes the oldest beyond ``keep``.

        Raises:
            UsageError: the disk is full, or the folder may not be written to; earlier checkpoints are as they were.
        """
        folder = self.path(progress.step)
        scratch = unfinished(folder)
        try:
            with processes.together(), _told(self.folder):
                if processes.is_first:
                    shutil.rmtree(scratch, ignore_errors=True)
                    scratch.mkdir(parents=True)
            with processes.together(), _told(self.folder):
                _write(progress, tensors, scratch, processes)
            with processes.together(), _told(self.folder):
                if processes.is_first:
                    publish(scratch, folder)
                    self._tidy()
        except BaseException:
            if processes.is_first:
                shutil.rmtree(scratch, ignore_errors=True)
            raise
        return folder

    def _tidy(self) -> None:
        """Removes the oldest checkpoints, each out of sight first, so that none is ever seen half removed."""
        for step in self.steps()[: -self.keep]:
            gone = unfinished(self.path(step))
            shutil.rmtree(gone, ignore_errors=True)
            self.path(step).rename(gone)
        for left in self.folder.glob(f".step-*{UNFINISHED}"):
            shutil.rmtree(left, ignore_errors=True)

    def load(self, folder: Path, tensors: Tensors, processes: Processes) -> Progress:
        """Reads a checkpoint that ``latest`` found into these tensors, on each process its own part; random states, too.

        Raises:
            UsageError: it is of another model, or not what this program writes.
        """
        progress = read_progress(folder)
        try:
            _read(tensors.all(), folder)
        except UNREADABLE as error:
            raise UsageError(
                f"{folder}: cannot be read ({clipped(error, 120)}); remove it to use the one before"
            ) from None
        _restore_random_state(folder / RNG.format(rank=processes.rank), processes.device)
        return progress


def read_progress(folder: Path) -> Progress:
    """Where a checkpoint's run stood.

    Raises:
        UsageError: it cannot be read.
    """
    path = folder / STATE_FILE
    try:
        return Progress.model_validate(read_document(path, "it is no checkpoint"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:80]
        raise UsageError(f"{path}: {field}: {first['msg']:.120}; remove {folder.name} to use the one before") from None


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What the file system refuses as one line; safetensors and the distributed writer wrap it in errors of their own."""
    with writing_to(folder):
        try:
            yield
        except (SafetensorError, CheckpointException) as error:
            full = any(sign in str(error) for sign in ("os error 28", "No space left"))
            number = errno.ENOSPC if full else errno.EIO
            raise OSError(number, os.strerror(number) if full else clipped(error, 120)) from None


def _write(progress: Progress, tensors: Tensors, scratch: Path, processes: Processes) -> None:
    """Writes this process's files: parts where they are shared, else the first one has all."""
    if tensors.is_sharded:
        _save_shards(tensors, scratch)
    elif processes.is_first:
        save_file(_contiguous(tensors.weights), scratch / WEIGHTS_FILE, metadata={"format": "pt"})
        save_file(_contiguous(tensors.moments), scratch / OPTIMISER_FILE)
    save_file(_random_state(processes.device), scratch / RNG.format(rank=processes.rank))
    if processes.is_first:
        (scratch / STATE_FILE).write_text(progress.model_dump_json(indent=2))


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _save_shards(tensors: Tensors, scratch: Path) -> None:
    """Each process writes the parts that it holds, weights and moments in files of their own."""
    files = dict.fromkeys(tensors.weights, 1) | dict.fromkeys(tensors.moments, 2)
    writer = HuggingFaceStorageWriter(str(scratch), fqn_to_index_mapping=files, save_distributed=True)
    write_tensors({name: tensor.detach() for name, tensor in tensors.all().items()}, storage_writer=writer)


def _read(wanted: dict[str, Tensor], folder: Path) -> None:
    """Reads tensors in place, whatever number of processes wrote them.

    Raises:
        ValueError: one is missing or has another shape.
    """
    reader = HuggingFaceStorageReader(str(folder))
    found = reader.read_metadata().state_dict_metadata.items()
    stored = {n: m for n, m in found if isinstance(m, TensorStorageMetadata) and not n.startswith("rng.")}
    for name in sorted(set(stored) | set(wanted)):
        if name not in stored or name not in wanted:
            raise ValueError(f"{name} is {'missing' if name in wanted else 'no tensor of this run'}")
        if tuple(stored[name].size) != tuple(wanted[name].shape):
            raise ValueError(f"{name} has shape {tuple(stored[name].size)}, not {tuple(wanted[name].shape)}")
    state = {name: tensor.detach() for name, tensor in wanted.items()}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # that is what one process is
        read_tensors(state, storage_reader=reader, no_dist=not torch.distributed.is_initialized())


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"rng.cpu": torch.get_rng_state()}
    return states | ({"rng.cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _restore_random_state(path: Path, device: torch.device) -> None:
    """Sets the random states; a process that had no part in the checkpoint keeps its fresh ones."""
    if not path.is_file():
        return
    try:
        states = load_file(path)
        torch.set_rng_state(states["rng.cpu"])
        if device.type == "cuda" and "rng.cuda" in states:
            torch.cuda.set_rng_state(states["rng.cuda"], device)
    except UNREADABLE as error:
        raise UsageError(f"{path}: cannot be read ({clipped(error, 120)}); remove it to use the one before") from None
