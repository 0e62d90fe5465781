"""The cache of built artifacts, named by a hash of all that determines them, and the varied copies that loads are made from."""

import ast
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
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.base import RUNTIMES, Runtime, runtime_version

logger = logging.getLogger(__name__)

WEIGHTS_SEED = 20_240
"""Seed of the weights that artifacts are built with; every load varies their bytes."""

META_FILE = "artifact.json"
EFFECTIVE_FILE = "effective.safetensors"


def cache_root() -> Path:
    """Where artifacts are cached: the environment's EDGEPROF_CACHE, or the user's cache folder."""
    override = os.environ.get("EDGEPROF_CACHE")
    return Path(override) if override else platformdirs.user_cache_path("edgeprof")


def artifact_spec(case: BenchCase) -> ArtifactSpec:
    """The artifact that serves ``case``; cases with equal specs share it."""
    runtime = RUNTIMES.get(case.runtime)
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
        source_hash=_source_hash(case.op, case.runtime),
    )


@cache
def _source_hash(op: str, runtime: str) -> str:
    """Hash of the code that builds and runs the operator in the runtime, comments and layout left out."""
    package = Path(__file__).parent.parent
    paths = [
        *sorted((package / "operators").glob("*.py")),
        *sorted((package / "operators" / op).glob("*.py")),
        *sorted((package / "runtimes").glob(f"{runtime}*.py")),
    ]
    return short_hash({str(p.relative_to(package)): ast.unparse(ast.parse(p.read_text())) for p in paths})


def artifact_folder(key: str) -> Path:
    """The folder of the artifact called ``key``."""
    return cache_root() / "artifacts" / key


def cached_artifact(key: str) -> Artifact | None:
    """The artifact, if it was built before and its description can be read."""
    path = artifact_folder(key) / META_FILE
    try:
        return parse_artifact(path.read_text())
    except FileNotFoundError:
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
    """Builds the artifact and puts it into the cache in one step, so that a killed build leaves nothing half-made."""
    runtime: Runtime = RUNTIMES.get(spec.runtime)
    operator = make_spec(spec.op, spec.dims)
    weights = random_weights(operator, WEIGHTS_SEED)
    final = artifact_folder(spec.key)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".building-", dir=final.parent))
    except OSError as error:
        raise UsageError(
            f"cache folder {final.parent}: {error.strerror}; set EDGEPROF_CACHE to a writable one"
        ) from error
    try:
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
        shutil.rmtree(final, ignore_errors=True)
        folder.rename(final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return artifact


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


@contextmanager
def fresh_copy(artifact: Artifact, seed: int) -> Iterator[Path]:
    """A folder with the artifact's files whose weight bytes were varied by ``seed``; gone when the context ends.

    Equal bytes in two loads could share memory or cache lines, which no real model's layers do.
    """
    source = artifact_folder(artifact.key)
    size = sum((source / name).stat().st_size for name in artifact.files.values())
    with tempfile.TemporaryDirectory(prefix="edgeprof-", dir=_scratch(size)) as name:
        folder = Path(name)
        for file in artifact.files.values():
            shutil.copyfile(source / file, folder / file)
        for index, part in enumerate(artifact.fresh):
            _vary(folder / part.file, part, [seed, index])
        yield folder


def _scratch(size: int) -> str | None:
    """Memory-backed storage where it has room for twice ``size``, so that copies cause no disk traffic while timing."""
    shm = Path("/dev/shm")  # noqa: S108 - a TemporaryDirectory of our own is made inside
    if shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > 2 * size:
        return str(shm)
    return None


def _vary(path: Path, part: FreshRange, seed: list[int]) -> None:
    import numpy as np

    data: Array = np.memmap(path, dtype=np.uint8, mode="r+", offset=part.offset, shape=(part.length,))
    view = data[part.offset_in_stride :: part.stride]
    view ^= np.frombuffer(np.random.default_rng(seed).bytes(view.size), np.uint8)
