"""The cache of built artifacts, named by a hash of all that determines them, and the varied copies that loads are made from."""

import ast
import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import platformdirs

from edgeprof.core.canonical import canonical_json, short_hash
from edgeprof.core.errors import UsageError
from edgeprof.core.types import Artifact, ArtifactSpec, BenchCase, FreshRange
from edgeprof.operators.arrays import Array, Weights, random_weights
from edgeprof.operators.registry import OPERATORS, make_spec
from edgeprof.runtimes.base import RUNTIMES, Runtime, runtime_version

logger = logging.getLogger(__name__)

WEIGHTS_SEED = 20_240
"""Seed of the weights that artifacts are built with; every load varies their bytes."""

PACKAGE = Path(__file__).parent.parent

META_FILE = "artifact.json"
EFFECTIVE_FILE = "effective.safetensors"


def cache_root() -> Path:
    """Where artifacts are cached: the environment's EDGEPROF_CACHE, or the user's cache folder."""
    override = os.environ.get("EDGEPROF_CACHE")
    return Path(override) if override else platformdirs.user_cache_path("edgeprof")


def artifact_spec(case: BenchCase) -> ArtifactSpec:
    """The artifact that serves ``case``; cases with equal specs share it."""
    runtime = RUNTIMES.get(case.runtime)
    leaves = make_spec(case.op, case.dims).leaves()
    return ArtifactSpec(
        op=case.op,
        op_version=case.op_version,
        dims=case.dims,
        batch=case.batch,
        q_len=case.q_len,
        capacity=runtime.capacity(case),
        has_past=case.past_len > 0,
        dtype=case.dtype,
        kv_dtype=case.kv_dtype,
        runtime=case.runtime,
        runtime_version=runtime_version(runtime),
        source_hash=_source_hash(tuple(sorted({case.op, *(leaf.name for leaf in leaves)})), case.runtime),
    )


@cache
def _source_hash(ops: tuple[str, ...], runtime: str) -> str:
    """Hash of the code that builds and runs the operators in the runtime, comments, docstrings and layout left out.

    It covers their own files, what all operators share, and every operator, model or runtime that these import. ``ops`` are
    an operator and those that it consists of.
    """
    todo = [
        *(PACKAGE / "operators").glob("*.py"),
        *(path for op in ops for path in _files_of(op)),
        *(PACKAGE / "runtimes").glob(f"{runtime}*.py"),
    ]
    code: dict[str, str] = {}
    while todo:
        path = todo.pop()
        name = str(path.relative_to(PACKAGE))
        if name not in code:
            tree = ast.parse(path.read_text())
            code[name] = ast.unparse(_without_docstrings(tree))
            todo += _imported(tree)
    return short_hash(code)


def _files_of(op: str) -> list[Path]:
    """The files of an operator's folder, or those in which a composite's spec, module, reference and forms are."""
    folder = PACKAGE / "operators" / op
    if folder.is_dir():
        return list(folder.glob("*.py"))
    spec = OPERATORS.get(op)
    targets = (spec.__module__, spec.module, spec.reference, *spec.forms.values())
    return [PACKAGE.joinpath(*t.split(":")[0].split(".")[1:]).with_suffix(".py") for t in targets]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """The module with every bare string, which does nothing when it runs, replaced by ``pass``."""

    class Bare(ast.NodeTransformer):
        def visit_Expr(self, node: ast.Expr) -> ast.AST:
            is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            return ast.Pass() if is_text else node

    bare: ast.Module = ast.fix_missing_locations(Bare().visit(tree))
    return bare


def _imported(tree: ast.Module) -> Iterator[Path]:
    """Files of operators, models and runtimes that a module imports, at its top or inside its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            package, *parts = node.module.split(".")
            if package == PACKAGE.name and len(parts) > 1 and parts[0] in ("operators", "models", "runtimes"):
                path = PACKAGE.joinpath(*parts).with_suffix(".py")
                if path.is_file():
                    yield path


def artifact_folder(key: str) -> Path:
    """The folder of the artifact called ``key``."""
    return cache_root() / "artifacts" / key


def cached_artifact(key: str) -> Artifact | None:
    """The artifact, if it was built before and its description can be read."""
    path = artifact_folder(key) / META_FILE
    try:
        return parse_artifact(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError) as error:
        logger.warning("%s cannot be read (%s); the artifact is built again", path, error)
        return None


def parse_artifact(text: str) -> Artifact:
    """An artifact from its JSON.

    Raises:
        ValueError, TypeError, KeyError: the text is not an artifact.
    """
    data = json.loads(text)
    data["spec"] = ArtifactSpec(**data["spec"])
    data["fresh"] = [FreshRange(**r) for r in data["fresh"]]
    return Artifact(**data)


def build_artifact(spec: ArtifactSpec) -> Artifact:
    """Builds the artifact and puts it into the cache in one step, so that a killed build leaves nothing half-made.

    Where another process was faster, its artifact stays and is returned.

    Raises:
        UsageError: the cache folder cannot be written.
    """
    runtime: Runtime = RUNTIMES.get(spec.runtime)
    operator = make_spec(spec.op, spec.dims)
    weights = random_weights(operator, WEIGHTS_SEED)
    with _folder_of_own(make_cache_folder(), ".building-") as folder:
        begin = time.perf_counter_ns()
        built = runtime.build(operator, spec, weights, folder)
        artifact = Artifact(
            key=spec.key,
            spec=spec,
            files=built.files,
            weight_bytes=built.weight_bytes,
            arena_bytes=built.arena_bytes,
            delegated_share=built.delegated_share,
            effective=_save_effective(built.effective, folder),
            fresh=built.fresh,
            build_ns=time.perf_counter_ns() - begin,
        )
        (folder / META_FILE).write_text(canonical_json(artifact))
        faster = cached_artifact(spec.key)
        if faster is not None:
            return faster
        final = artifact_folder(spec.key)
        shutil.rmtree(final, ignore_errors=True)  # what cannot be read
        folder.rename(final)
    return artifact


def make_cache_folder() -> Path:
    """Makes the folder of the artifacts and returns it.

    Raises:
        UsageError: it cannot be made or written.
    """
    folder = cache_root() / "artifacts"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UsageError(f"cache folder {folder}: {error.strerror}; set EDGEPROF_CACHE to a writable one") from error


LEFT_AFTER_S = 60
"""Age from which a folder that nobody holds counts as left behind; a new one is not held yet."""


@contextmanager
def _folder_of_own(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in ``parent`` that is gone when the context ends, unless it was renamed.

    A process that is killed leaves its folder behind, in memory even, so the next one clears away those that nobody holds.
    The lock lies on the folder itself: the kernel drops it when its holder ends.
    """
    for left in parent.glob(f"{prefix}*"):
        if _is_left_behind(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _save_effective(effective: Weights | None, folder: Path) -> str | None:
    if effective is None:
        return None
    from safetensors.numpy import save_file

    save_file({name: w.copy() for name, w in effective.items()}, folder / EFFECTIVE_FILE)
    return EFFECTIVE_FILE


def effective_weights(artifact: Artifact) -> Weights:
    """The weights that the artifact computes with, as fp32 in torch's layouts."""
    if artifact.effective is None:
        return random_weights(make_spec(artifact.spec.op, artifact.spec.dims), WEIGHTS_SEED)
    from safetensors.numpy import load_file

    weights: Weights = load_file(artifact_folder(artifact.key) / artifact.effective)
    return weights


def _is_left_behind(folder: Path) -> bool:
    """Whether the folder is old and no process holds it; False where it is not ours to open, or gone by now."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return time.time() - os.fstat(descriptor).st_mtime > LEFT_AFTER_S
    finally:
        os.close(descriptor)


@contextmanager
def fresh_copy(artifact: Artifact, seed: int) -> Iterator[Path]:
    """A folder with the artifact's files whose weight bytes were varied by ``seed``; gone when the context ends.

    Equal bytes in two loads could share memory or cache lines, which no real model's layers do.
    """
    source = artifact_folder(artifact.key)
    size = sum((source / name).stat().st_size for name in artifact.files.values())
    with _folder_of_own(_scratch(size), "edgeprof-") as folder:
        for file in artifact.files.values():
            shutil.copyfile(source / file, folder / file)
        for index, part in enumerate(artifact.fresh):
            _vary(folder / part.file, part, [seed, index])
        yield folder


def _scratch(size: int) -> Path:
    """Memory-backed storage where it has room for twice ``size``, so that copies cause no disk traffic while timing."""
    shm = Path("/dev/shm")  # noqa: S108 - a folder of our own is made inside
    if shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > 2 * size:
        return shm
    return Path(tempfile.gettempdir())


def _vary(path: Path, part: FreshRange, seed: list[int]) -> None:
    import numpy as np

    data: Array = np.memmap(path, dtype=np.uint8, mode="r+", offset=part.offset, shape=(part.length,))
    view = data[part.offset_in_stride :: part.stride]
    words = np.random.SFC64(seed).random_raw(-(-view.size // 8))  # a quarter of the time of a Generator's bytes()
    view ^= words.view(np.uint8)[: view.size]
