"""The cache of artifacts: what names one, what a killed build leaves, and the copies that loads are made from."""

import ast
import fcntl
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeprof.core.canonical import canonical_json
from edgeprof.core.errors import UsageError
from edgeprof.core.types import Artifact, FreshRange
from edgeprof.operators.arrays import random_weights
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes import artifact as artifact_module
from edgeprof.runtimes.artifact import (
    LEFT_AFTER_S,
    META_FILE,
    WEIGHTS_SEED,
    artifact_folder,
    artifact_spec,
    build_artifact,
    cache_root,
    cached_artifact,
    effective_weights,
    fresh_copy,
    parse_artifact,
)
from edgeprof.runtimes.torch_eager import RUNTIME


@pytest.fixture
def built(cache, make_case) -> Artifact:
    return build_artifact(artifact_spec(make_case("gqa")))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies are made, for the test alone."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(artifact_module, "_scratch", lambda size: folder)
    return folder


def test_context_threads_and_cache_state_share_an_artifact(make_case) -> None:
    case = make_case("gqa")
    key = artifact_spec(case).key
    for change in ({"kv_len": 64}, {"n_threads": 2}, {"cache_state": "streaming", "ring_bytes": 9}):
        assert artifact_spec(replace(case, **change)).key == key


@pytest.mark.parametrize(
    "change",
    [
        {"q_len": 2},
        {"batch": 2},
        {"dtype": "bf16"},
        {"kv_dtype": "bf16"},
        {"runtime": "onnxruntime"},
        {"op_version": 2},
        {"q_len": 16, "phase": "prefill"},
    ],
)
def test_what_changes_the_build_changes_the_key(change: dict, make_case) -> None:
    case = make_case("gqa")
    assert artifact_spec(replace(case, **change)).key != artifact_spec(case).key


def test_another_version_of_the_runtime_is_another_artifact(make_case, monkeypatch: pytest.MonkeyPatch) -> None:
    before = artifact_spec(make_case("gqa")).key
    monkeypatch.setattr(artifact_module, "runtime_version", lambda runtime: "0.0")
    assert artifact_spec(make_case("gqa")).key != before


@pytest.fixture
def source_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Hashes a copy of the package's sources, some of which may be edited first."""

    def make(ops: str, runtime: str, **edits: str) -> str:
        package = tmp_path / f"{len(list(tmp_path.iterdir()))}" / "edgeprof"
        for path in [
            *artifact_module.PACKAGE.glob("operators/**/*.py"),
            *artifact_module.PACKAGE.glob("models/*.py"),
            *artifact_module.PACKAGE.glob("runtimes/*.py"),
        ]:
            name = str(path.relative_to(artifact_module.PACKAGE))
            copy = package / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text() + edits.get(name, ""))
        with monkeypatch.context() as patch:
            patch.setattr(artifact_module, "PACKAGE", package)
            return artifact_module._source_hash.__wrapped__(tuple(ops.split()), runtime)

    return make


@pytest.mark.parametrize(
    ("ops", "runtime", "file"),
    [
        ("gqa", "torch_eager", "operators/gqa/module.py"),
        ("gqa", "torch_eager", "operators/attention.py"),
        ("gqa", "torch_eager", "runtimes/torch_eager.py"),
        ("swa", "onnxruntime", "operators/gqa/onnx.py"),  # swa's form is made of gqa's
        ("swa", "executorch", "operators/gqa/executorch.py"),
        ("swa", "torch_eager", "operators/gqa/reference.py"),
        ("gqa", "torch_compile", "runtimes/torch_eager.py"),  # which torch_compile is derived from
        ("gqa", "executorch", "runtimes/executorch_build.py"),
        ("block gqa swiglu", "onnxruntime", "models/onnx.py"),
        ("block gqa swiglu", "onnxruntime", "models/composite.py"),
        ("block gqa swiglu", "onnxruntime", "operators/swiglu/onnx.py"),
        ("model short_conv", "executorch", "models/executorch.py"),
        ("model short_conv", "torch_eager", "models/config.py"),
        ("model short_conv", "torch_eager", "models/module.py"),
    ],
)
def test_code_that_decides_the_result_is_in_the_hash(ops: str, runtime: str, file: str, source_hash) -> None:
    before = source_hash(ops, runtime)
    assert source_hash(ops, runtime, **{file: "\nCHANGED = 1\n"}) != before
    assert source_hash(ops, runtime, **{file: "\n\n# a comment\n"}) == before


def test_a_composites_hash_covers_the_operators_that_it_is_made_of(make_case, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(artifact_module, "_source_hash", lambda ops, runtime: asked.append(ops) or "")
    artifact_spec(make_case("block"))
    artifact_spec(make_case("gqa"))
    assert asked == [("block", "gqa", "rms_norm", "swiglu"), ("gqa",)]


def test_code_of_others_is_not_in_the_hash(source_hash) -> None:
    others = ("operators/swiglu/module.py", "runtimes/executorch.py", "models/block.py")
    edits = dict.fromkeys(others, "\nCHANGED = 1\n")
    assert source_hash("short_conv", "onnxruntime", **edits) == source_hash("short_conv", "onnxruntime")


def test_imports_are_found_inside_functions_too() -> None:
    tree = ast.parse("def f():\n    from edgeprof.operators.arrays import Array\nfrom edgeprof.core.types import X\n")
    assert [p.name for p in artifact_module._imported(tree)] == ["arrays.py"]


def test_a_built_artifact_is_found_again(built, cache) -> None:
    assert cache_root() == cache
    assert cached_artifact(built.key) == built
    assert [p.name for p in artifact_folder(built.key).parent.iterdir()] == [built.key]
    assert all((artifact_folder(built.key) / name).is_file() for name in built.files.values())


def test_an_artifact_survives_json(built) -> None:
    described = replace(built, fresh=[*built.fresh, FreshRange(file="w", offset=3, length=8, stride=2)])
    assert parse_artifact(canonical_json(described)) == described


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"spec": {}, "fresh": []}', "\0\0\0"])
def test_a_description_that_cannot_be_read_is_built_again(text: str, built, make_case) -> None:
    path = artifact_folder(built.key) / META_FILE
    path.write_text(text)
    assert cached_artifact(built.key) is None
    assert build_artifact(artifact_spec(make_case("gqa"))).key == built.key
    assert cached_artifact(built.key) is not None


def test_a_build_that_fails_leaves_nothing(cache, make_case, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(operator, spec, weights, folder):
        (folder / "half").write_bytes(b"made")
        raise RuntimeError("no kernel")

    monkeypatch.setattr(RUNTIME, "build", fail)
    spec = artifact_spec(make_case("gqa"))
    with pytest.raises(RuntimeError, match="no kernel"):
        build_artifact(spec)
    assert cached_artifact(spec.key) is None
    assert list((cache / "artifacts").iterdir()) == []


def test_of_two_builders_the_faster_ones_artifact_stays(cache, make_case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell may be reading from it by then."""
    spec, original = artifact_spec(make_case("gqa")), RUNTIME.build
    inner = []

    def slow(operator, described, weights, folder):
        if not inner:
            inner.append(None)
            inner[0] = build_artifact(spec)
            inner.append((artifact_folder(spec.key) / META_FILE).stat().st_ino)
        return original(operator, described, weights, folder)

    monkeypatch.setattr(RUNTIME, "build", slow)
    assert build_artifact(spec) == inner[0]
    assert (artifact_folder(spec.key) / META_FILE).stat().st_ino == inner[1]
    assert len(list((cache / "artifacts").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_told(tmp_path, make_case, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEPROF_CACHE", str(tmp_path / "file"))
    spec = artifact_spec(make_case("gqa"))
    assert cached_artifact(spec.key) is None
    with pytest.raises(UsageError, match=r"cache folder .*set EDGEPROF_CACHE to a writable one"):
        build_artifact(spec)


def test_effective_weights_are_the_given_ones_where_nothing_is_rounded(built, make_case) -> None:
    given = random_weights(make_spec("gqa", make_case("gqa").dims), WEIGHTS_SEED)
    assert built.effective is None
    assert all((w == given[name]).all() for name, w in effective_weights(built).items())


def test_effective_weights_of_a_rounded_format_are_kept_with_it(cache, make_case) -> None:
    case = make_case("gqa", dtype="int4", runtime="onnxruntime")
    artifact = build_artifact(artifact_spec(case))
    given = random_weights(make_spec("gqa", case.dims), WEIGHTS_SEED)
    effective = effective_weights(artifact)
    assert {n: w.shape for n, w in effective.items()} == {n: w.shape for n, w in given.items()}
    distance = np.linalg.norm(effective["w_q"] - given["w_q"]) / np.linalg.norm(given["w_q"])
    assert 0.01 < distance < 0.2
    assert (effective["q_norm"] == given["q_norm"]).all()


def test_a_copy_differs_from_the_original_and_from_other_copies_where_it_may(built, scratch) -> None:
    name = built.files["weights"]
    original = (artifact_folder(built.key) / name).read_bytes()
    copies = []
    for seed in (1, 1, 2):
        with fresh_copy(built, seed) as folder:
            copies.append((folder / name).read_bytes())
    assert copies[0] == copies[1] != copies[2]
    assert (artifact_folder(built.key) / name).read_bytes() == original
    (part,) = built.fresh
    a, b = (np.frombuffer(c, np.uint8) for c in (original, copies[2]))
    changed = np.flatnonzero(a != b)
    assert changed.size > 0.98 * part.length / part.stride
    assert changed.min() >= part.offset
    assert ((changed - part.offset) % part.stride == part.offset_in_stride).all()


def test_the_original_of_a_copy_is_left_alone_and_the_copy_is_gone_after_use(built, scratch) -> None:
    with fresh_copy(built, 1) as folder:
        assert folder.parent == scratch
        assert sorted(p.name for p in folder.iterdir()) == sorted(built.files.values())
    assert list(scratch.iterdir()) == []


def test_a_copy_is_gone_after_an_error(built, scratch) -> None:
    def load() -> None:
        with fresh_copy(built, 1):
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        load()
    assert list(scratch.iterdir()) == []


def test_what_a_killed_worker_left_in_memory_is_cleared_away(built, scratch) -> None:
    """Left behind, copies of weights in /dev/shm would take memory until the next boot."""
    old = time.time() - LEFT_AFTER_S - 60
    left, new, used, other = (scratch / name for name in ("edgeprof-left", "edgeprof-new", "edgeprof-used", "other"))
    for folder in (left, new, used, other):
        folder.mkdir()
        (folder / "weights").write_bytes(b"w")
    for folder in (left, used, other):
        os.utime(folder, (old, old))
    holder = os.open(used, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with fresh_copy(built, 1):
            pass
    finally:
        os.close(holder)
    assert sorted(p.name for p in scratch.iterdir()) == ["edgeprof-new", "edgeprof-used", "other"]


def test_copies_go_to_the_disk_where_memory_is_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(artifact_module.tempfile, "gettempdir", lambda: str(tmp_path))
    assert artifact_module._scratch(2**62) == tmp_path
