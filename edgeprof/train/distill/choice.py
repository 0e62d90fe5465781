"""What ``edgeprof train`` is told of a teacher, made into the loss that it trains with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgeprof.core.errors import UsageError
from edgeprof.train.data.dataset import DataSet
from edgeprof.train.distill.divergence import TOP_K
from edgeprof.train.distill.loss import Distillation, Objective, TopKSource
from edgeprof.train.distill.stored import open_stored
from edgeprof.train.distill.stored_index import STORED_FILE, read_stored_index
from edgeprof.train.distill.teacher import load_teacher, teacher_fingerprint
from edgeprof.train.evaluate.causal_lm import Dtype
from edgeprof.train.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillChoice:
    """A teacher: a Hugging Face folder, which then reads along, or one of ``edgeprof distill prepare``.

    ``k`` and ``dtype`` are a live teacher's; a stored one has its own. None is the default.
    """

    teacher: Path
    share: float = 0.5
    temperature: float = 1.0
    k: int | None = None
    dtype: Dtype | None = None

    def check(self) -> None:
        """Checks the ranges.

        Raises:
            UsageError: names the option and what it may be.
        """
        if not 0 < self.share <= 1:
            raise UsageError(f"--teacher-share: {self.share} is no share; use more than 0 and at most 1")
        if not 0 < self.temperature <= 100:
            raise UsageError(f"--teacher-temperature: {self.temperature} is none; use more than 0 and at most 100")
        if not self.teacher.is_dir():
            raise UsageError(f"--teacher: {self.teacher} is no folder; name a Hugging Face folder or a prepared one")

    @property
    def is_stored(self) -> bool:
        """Whether the teacher read the data before."""
        return (self.teacher / STORED_FILE).is_file()

    def identity(self) -> dict[str, Any]:
        """What decides a run's result, as JSON takes it: a stored and a live teacher of the same weights are the same.

        Raises:
            UsageError: the teacher's files cannot be read.
        """
        if self.is_stored:
            index = read_stored_index(self.teacher)
            fingerprint, k, dtype = index.teacher_fingerprint, index.k, index.dtype
        else:
            fingerprint, k, dtype = teacher_fingerprint(self.teacher), self.k or TOP_K, self.dtype or "fp32"
        return {
            "teacher": fingerprint, "k": k, "dtype": dtype, "share": self.share, "temperature": self.temperature
        }  # fmt: skip


def make_distillation(choice: DistillChoice, settings: Settings, data: DataSet) -> Distillation:
    """The loss of a run on ``data``; a live teacher moves to the student's device when it is first asked.

    Raises:
        UsageError: the teacher has another tokenizer, or read other data or rows of another length.
    """
    choice.check()
    objective = Objective(share=choice.share, temperature=choice.temperature, z_loss=settings.z_loss)
    return Distillation(_source(choice, settings, data), objective)


def _source(choice: DistillChoice, settings: Settings, data: DataSet) -> TopKSource:
    if not choice.is_stored:
        dtype = choice.dtype or "fp32"
        return load_teacher(choice.teacher, data, device=torch.device("cpu"), dtype=dtype, k=choice.k or TOP_K)
    stored = open_stored(choice.teacher, checksums=False)
    index = stored.index
    if index.data_fingerprint != data.index.fingerprint:
        raise UsageError(
            f"--teacher: {choice.teacher} was prepared for other data than {data.folder}; prepare it for these"
        )
    if index.seq_len != settings.seq_len:
        raise UsageError(
            f"--teacher: {choice.teacher} was prepared with --seq-len {index.seq_len}, the run has {settings.seq_len}; use that"
        )
    for name, asked, own in (("k", choice.k, index.k), ("dtype", choice.dtype, index.dtype)):
        if asked is not None and asked != own:
            raise UsageError(f"--teacher: {choice.teacher} was prepared with {name} {own}, not {asked}; leave it out")
    return stored
