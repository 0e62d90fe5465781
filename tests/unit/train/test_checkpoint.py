import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeprof.core.errors import UsageError
from edgeprof.train import checkpoint as checkpoint_module
from edgeprof.train.checkpoint import Checkpoints, Progress, Tensors
from edgeprof.train.distributed import Processes
from edgeprof.train.manifest import MANIFEST_FILE, problem, publish

ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))


def tensors(value: float) -> Tensors:
    return Tensors(
        weights={"head.norm": torch.full((4,), value)}, moments={"head.norm/exp_avg": torch.full((4,), 2 * value)}
    )


def progress(step: int) -> Progress:
    return Progress(step=step, updates=step, data={"position": step})


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2)


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(progress(step), tensors(float(step)), ALONE)


def test_what_was_saved_is_read_back(checkpoints) -> None:
    torch.manual_seed(5)
    save(checkpoints, 3)
    drawn = torch.rand(2)
    found = tensors(0.0)
    latest = checkpoints.latest()
    assert checkpoints.load(latest, found, ALONE) == progress(3)
    assert found.weights["head.norm"].tolist() == [3.0] * 4
    assert found.moments["head.norm/exp_avg"].tolist() == [6.0] * 4
    assert torch.equal(torch.rand(2), drawn)  # the random state is the one of then


def test_only_the_last_ones_are_kept(checkpoints) -> None:
    save(checkpoints, 1, 2, 3)
    assert checkpoints.steps() == [2, 3]
    assert [p.name for p in checkpoints.folder.iterdir() if p.name.startswith(".")] == []


def test_weights_of_a_checkpoint_are_a_file_that_export_reads(checkpoints) -> None:
    save(checkpoints, 1)
    assert set(load_file(checkpoints.path(1) / "model.safetensors")) == {"head.norm"}


@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.safetensors", "state.json", MANIFEST_FILE])
def test_a_corrupt_checkpoint_is_told_and_the_one_before_is_used(checkpoints, caplog, name) -> None:
    save(checkpoints, 1, 2)
    path = checkpoints.path(2) / name
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert checkpoints.latest() == checkpoints.path(1)
    assert "step-00000002 is not used" in caplog.text


def test_a_truncated_and_a_missing_file_are_corrupt_too(checkpoints) -> None:
    save(checkpoints, 1)
    folder = checkpoints.path(1)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(10)
    assert "10 bytes in place of" in str(problem(folder))
    (folder / "model.safetensors").unlink()
    assert "is missing" in str(problem(folder))


def test_without_a_whole_checkpoint_nothing_is_trained(checkpoints) -> None:
    save(checkpoints, 1)
    (checkpoints.path(1) / "state.json").write_text("{}")
    with pytest.raises(UsageError, match=r"no checkpoint of .* is whole"):
        checkpoints.latest()


def test_a_checkpoint_that_was_never_finished_does_not_count(checkpoints) -> None:
    save(checkpoints, 1)
    shutil.copytree(checkpoints.path(1), checkpoints.folder / ".step-00000002.new")
    assert checkpoints.latest() == checkpoints.path(1)
    save(checkpoints, 3)
    assert not (checkpoints.folder / ".step-00000002.new").exists()


@pytest.mark.parametrize("extra", ["evil.pt", "data.pkl", ".metadata"])
def test_a_file_that_is_not_listed_makes_a_checkpoint_unusable(checkpoints, extra) -> None:
    save(checkpoints, 1)
    (checkpoints.path(1) / extra).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "not in its manifest" in str(problem(checkpoints.path(1)))


def test_a_manifest_cannot_name_files_elsewhere_or_pickles(checkpoints, tmp_path) -> None:
    save(checkpoints, 1)
    path = checkpoints.path(1) / MANIFEST_FILE
    for name in ("../../outside.safetensors", "weights.pt", "/etc/passwd"):
        manifest = json.loads(path.read_text())
        manifest["files"][name] = {"size_bytes": 1, "sha256": "0" * 64}
        path.write_text(json.dumps(manifest))
        assert "no file of a checkpoint" in str(problem(checkpoints.path(1)))


def republished(folder: Path, name: str, stored: dict[str, torch.Tensor]) -> None:
    """A checkpoint whose file was replaced, and its manifest with it."""
    save_file(stored, folder / name)
    (folder / MANIFEST_FILE).unlink()
    scratch = folder.with_name("scratch")
    folder.rename(scratch)
    publish(scratch, folder)


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ({"head.norm": torch.ones(5)}, "shape"),
        ({"other": torch.ones(4)}, "head.norm is missing"),
        ({"head.norm": torch.ones(4), "other": torch.ones(4)}, "no tensor of this run"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_in_one_line(checkpoints, stored, told) -> None:
    save(checkpoints, 1)
    republished(checkpoints.path(1), "model.safetensors", stored)
    with pytest.raises(UsageError, match=told) as error:
        checkpoints.load(checkpoints.latest(), tensors(0.0), ALONE)
    assert "\n" not in str(error.value)


def test_a_full_disk_is_told_and_the_last_checkpoint_stays_whole(checkpoints, monkeypatch) -> None:
    save(checkpoints, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(UsageError, match=r"No space left on device.*free some space"):
        save(checkpoints, 2)
    assert checkpoints.latest() == checkpoints.path(1)
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step-00000001"]
