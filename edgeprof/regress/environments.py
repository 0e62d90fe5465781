"""Environments of a side: the checkout at hand as it is, a revision of it in a worktree, or a Python that is given.

A worktree and a virtual environment are made once and kept in the cache. Where a revision asks for the same packages as the
checkout at hand, both run in the same environment and differ by their code alone; else the revision gets one of its own.
"""

import logging
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

from filelock import FileLock

from edgeprof.core.canonical import short_hash
from edgeprof.core.errors import UsageError
from edgeprof.regress.sides import Side, SideName, last_lines
from edgeprof.runtimes.artifact import PACKAGE, cache_root

logger = logging.getLogger(__name__)

GIT_TIMEOUT_S = 120
BUILD_TIMEOUT_S = 3600
"""A full environment downloads some GB."""

BUILT = "built"
"""A file that says of an environment that its build came to an end."""


def checkout() -> Path:
    """The checkout of edgeprof that the current folder lies in.

    Raises:
        UsageError: it lies in none.
    """
    found = _git(Path.cwd(), "rev-parse", "--show-toplevel")
    top = Path(found.stdout.strip())
    if found.returncode or not (top / "edgeprof" / "__init__.py").is_file():
        raise UsageError(
            "--base: the current folder lies in no checkout of edgeprof; go there, or compare two environments with "
            "--base-python and --head-python"
        )
    return top


def head_side(top: Path) -> Side:
    """The checkout as it is, changed or not."""
    commit = _git(top, "rev-parse", "--short", "HEAD").stdout.strip() or "no commit"
    changed = _git(top, "status", "--porcelain", "--", "edgeprof").stdout.strip()
    return Side(
        name="head",
        label=f"{commit}{' with changes' if changed else ''}",
        python=Path(sys.executable),
        source=top,
    )


def base_side(top: Path, revision: str) -> Side:
    """A revision of the checkout, in a worktree, and in an environment of its own where it asks for other packages.

    Raises:
        UsageError: there is no such revision, its worktree cannot be made, or its environment fails to build.
    """
    commit = resolve(top, revision)
    folder = cache_root() / "worktrees" / short_hash(str(top.resolve())) / commit
    with _locked(folder):
        _make_worktree(top, folder, commit)
    python = Path(sys.executable)
    wanted = _requirements(folder)
    if wanted != _requirements(top):
        python = _own_environment(folder, wanted)
    return Side(name="base", label=f"{revision} ({commit[:9]})", python=python, source=folder)


def own_side() -> Side:
    """The edgeprof that runs this, in its own environment."""
    return Side(name="head", label="this environment", python=Path(sys.executable), source=PACKAGE.parent)


def python_side(name: SideName, python: Path) -> Side:
    """The edgeprof that is installed in the environment of a Python.

    Raises:
        UsageError: there is no such program.
    """
    if not os.access(python, os.X_OK) or python.is_dir():
        raise UsageError(f"--{name}-python: {python} is no program; give an environment's bin/python")
    return Side(name=name, label=str(python), python=python.absolute())


def resolve(top: Path, revision: str) -> str:
    """The commit that a revision names.

    Raises:
        UsageError: there is none; says what else it may be called.
    """
    if revision.startswith("-") or not revision:
        raise UsageError(f"--base: {revision!r} is no revision; give a branch, a tag or a commit")
    found = _commit(top, revision)
    if found is not None:
        return found
    remote = f"origin/{revision}"
    if _commit(top, remote) is not None:
        raise UsageError(f"--base: no revision {revision!r} here, but there is {remote}; write --base {remote}")
    shallow = _git(top, "rev-parse", "--is-shallow-repository").stdout.strip() == "true"
    why = "the clone is shallow: fetch it first (actions/checkout: fetch-depth: 0)" if shallow else "git fetch it first"
    raise UsageError(f"--base: no revision {revision!r} here; {why}")


def _commit(top: Path, revision: str) -> str | None:
    done = _git(top, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    return done.stdout.strip() if done.returncode == 0 else None


def _git(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs git there.

    Raises:
        UsageError: there is no git, or it hangs.
    """
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(
            f"--base: git cannot be run ({error}); compare environments with --base-python instead"
        ) from None


def _locked(folder: Path) -> FileLock:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.parent / f"{folder.name}.lock")


def _make_worktree(top: Path, folder: Path, commit: str) -> None:
    """Checks the commit out, unless that was done before; one that was changed since is made anew."""
    is_there = (folder / "edgeprof").is_dir() and _commit(folder, "HEAD") == commit
    if is_there and not _git(folder, "status", "--porcelain").stdout.strip():
        return
    shutil.rmtree(folder, ignore_errors=True)
    _git(top, "worktree", "prune")
    done = _git(top, "worktree", "add", "--detach", "--force", str(folder), commit)
    if done.returncode:
        raise UsageError(f"--base: no worktree of {commit[:9]} in {folder}: {last_lines(done.stderr)}")
    if not (folder / "edgeprof" / "__init__.py").is_file():
        raise UsageError(f"--base: {commit[:9]} holds no edgeprof package; choose a later revision")


def _requirements(source: Path) -> dict[str, Any]:
    """What a checkout asks its environment for."""
    path = source / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text())["project"]
        return {"dependencies": sorted(project["dependencies"]), "requires-python": project.get("requires-python")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: says no dependencies ({error}); correct it") from None


def _own_environment(source: Path, wanted: dict[str, Any]) -> Path:
    """The Python of an environment with these dependencies; revisions that ask for the same share it.

    Raises:
        UsageError: its build fails: shows the end of the log.
    """
    folder = cache_root() / "environments" / short_hash([sys.version, wanted])
    python = folder / "bin" / "python"
    with _locked(folder):
        if (folder / BUILT).exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        log = folder.parent / f"{folder.name}.log"
        logger.warning(
            "the base asks for other packages: its environment is built once, which takes minutes; log %s", log
        )
        try:
            venv.create(folder, with_pip=True)
            with log.open("wb") as out:
                subprocess.run(
                    [str(python), "-m", "pip", "install", "--no-input", str(source)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    timeout=BUILD_TIMEOUT_S,
                    check=True,
                )
        except (OSError, subprocess.SubprocessError):
            said = last_lines(log.read_text(errors="replace")) if log.exists() else "venv failed"
            raise UsageError(
                f"--base: the environment of {source.name[:9]} fails to build; log {log}: {said}"
            ) from None
        (folder / BUILT).touch()
    return python
