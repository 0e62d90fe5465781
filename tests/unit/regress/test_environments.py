"""Revisions, worktrees and environments, in repositories of a few files."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.regress import environments
from edgeprof.regress.environments import base_side, checkout, head_side, python_side, resolve

PROJECT = '[project]\nname = "edgeprof"\ndependencies = ["numpy"]\n'


def git(folder, *arguments):
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Two commits on main, of which the first is called old."""
    monkeypatch.setenv("EDGEPROF_CACHE", str(tmp_path / "cache"))
    top = tmp_path / "top"
    (top / "edgeprof").mkdir(parents=True)
    git(top, "init", "-q", "-b", "main")
    for name, text in (("old", "version = 1\n"), ("main", "version = 2\n")):
        (top / "edgeprof" / "__init__.py").write_text(text)
        (top / "pyproject.toml").write_text(PROJECT)
        git(top, "add", ".")
        git(top, "commit", "-q", "-m", name)
        git(top, "tag", f"tag-{name}")
    monkeypatch.chdir(top)
    return top


def test_a_base_is_its_revision_and_runs_in_the_same_environment(repository):
    side = base_side(repository, "tag-old")
    assert (side.source / "edgeprof" / "__init__.py").read_text() == "version = 1\n"
    assert side.python == Path(sys.executable)
    assert side.environment({"PYTHONPATH": "/elsewhere"})["PYTHONPATH"] == str(side.source)
    assert "tag-old" in side.label


def test_the_checkout_stays_as_it_is(repository):
    (repository / "edgeprof" / "__init__.py").write_text("version = 3\n")
    base_side(repository, "tag-old")
    assert git(repository, "status", "--porcelain") == "M edgeprof/__init__.py"
    assert git(repository, "branch", "--show-current") == "main"


def test_a_worktree_is_made_once_and_anew_if_it_was_changed(repository):
    first = base_side(repository, "tag-old")
    mark = (first.source / "edgeprof" / "__init__.py").stat().st_mtime_ns
    assert (base_side(repository, "tag-old").source / "edgeprof" / "__init__.py").stat().st_mtime_ns == mark
    (first.source / "edgeprof" / "__init__.py").write_text("version = 9\n")
    again = base_side(repository, "tag-old")
    assert (again.source / "edgeprof" / "__init__.py").read_text() == "version = 1\n"


def test_a_worktree_that_someone_removed_is_made_again(repository):
    import shutil

    shutil.rmtree(base_side(repository, "tag-old").source)
    assert (base_side(repository, "tag-old").source / "edgeprof").is_dir()


def test_the_head_says_whether_it_was_changed(repository):
    assert "with changes" not in head_side(repository).label
    (repository / "edgeprof" / "new.py").touch()
    assert "with changes" in head_side(repository).label
    assert head_side(repository).source == repository


def test_other_dependencies_get_an_environment_of_their_own_whose_failure_shows_its_log(repository, monkeypatch):
    (repository / "pyproject.toml").write_text(PROJECT.replace("numpy", "torch"))
    monkeypatch.setattr(environments.venv, "create", lambda folder, with_pip: folder.mkdir(parents=True))

    def install(command, *, stdout, **_):
        assert command[1:4] == ["-m", "pip", "install"]
        stdout.write(b"Collecting torch\nERROR: no space left\n")
        raise subprocess.CalledProcessError(1, command)

    real = subprocess.run
    monkeypatch.setattr(environments.subprocess, "run", lambda c, **k: (real if c[0] == "git" else install)(c, **k))
    with pytest.raises(UsageError, match=r"fails to build; log .*: Collecting torch \| ERROR: no space left") as caught:
        base_side(repository, "tag-old")
    assert caught.value.exit_code == 2


def test_an_environment_is_built_once_for_equal_dependencies(repository, monkeypatch):
    (repository / "pyproject.toml").write_text(PROJECT.replace("numpy", "torch"))
    built = []
    monkeypatch.setattr(environments.venv, "create", lambda folder, with_pip: folder.mkdir(parents=True))
    real = subprocess.run
    monkeypatch.setattr(
        environments.subprocess, "run", lambda c, **k: real(c, **k) if c[0] == "git" else built.append(c)
    )
    pythons = {base_side(repository, revision).python for revision in ("tag-old", "tag-main")}
    assert len(built) == len(pythons) == 1
    assert pythons != {Path(sys.executable)}


@pytest.mark.parametrize("revision", ["nowhere", "--help", "", "tag-old:edgeprof"])
def test_no_such_revision_is_usage(repository, revision):
    with pytest.raises(UsageError, match="--base: "):
        resolve(repository, revision)


def test_a_branch_that_only_the_remote_has_is_offered(repository):
    git(repository, "update-ref", "refs/remotes/origin/topic", "HEAD")
    with pytest.raises(UsageError, match="write --base origin/topic"):
        resolve(repository, "topic")


def test_a_folder_outside_of_any_checkout_is_usage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UsageError, match="lies in no checkout of edgeprof"):
        checkout()


def test_a_revision_without_the_package_is_usage(repository):
    git(repository, "rm", "-q", "-r", "edgeprof")
    git(repository, "commit", "-q", "-m", "empty")
    with pytest.raises(UsageError, match="holds no edgeprof package"):
        base_side(repository, "HEAD")


def test_a_python_that_is_none_is_usage(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"--base-python: .* is no program"):
            python_side("base", path)
