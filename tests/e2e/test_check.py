"""``edgeprof check`` from start to end: a base in a worktree beside the checkout, in real workers, on two tiny cells."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("git") is None, reason="a base revision needs git"),
]

SUITE = """
schema_version = 1
description = "Small enough for a test."

[dims]
d_model = 32
n_heads = 4
n_kv_heads = 2
head_dim = 16
kernel_size = 3

[[cells]]
op = ["short_conv", "gqa"]
runtime = ["onnxruntime"]
dtype = ["fp32"]
phase = ["decode"]
kv_len = [32]
cache_state = ["hot"]
"""

OUTCOMES = {"improved", "unchanged", "regressed", "inconclusive", "missing"}


def git(folder, *arguments):
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, check=True)


@pytest.fixture
def checkout(make_program):
    """A program that is run in a repository of its own, made of the code under test."""
    program = make_program("check")
    repository = program.home / "repository"
    shutil.copytree(SOURCE / "edgeprof", repository / "edgeprof", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SOURCE / "pyproject.toml", repository)
    git(repository, "init", "-q")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "all")
    (program.home / "tiny.toml").write_text(SUITE)
    return program, repository


IN_REPOSITORY = """
import os, sys
os.chdir("repository")
from edgeprof.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


def paced_workers(program):
    """Workers of a check that run with this program's cache."""
    wanted = f"EDGEPROF_CACHE={program.home / 'cache'}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            if b"in_side/paced.py" in (folder / "cmdline").read_bytes() and wanted in environment:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def check(program, *more):
    suite = str(program.home / "tiny.toml")
    return program.run("check", "--suite", suite, "--json", *more, script=IN_REPOSITORY)


def test_a_checkout_against_itself_ends_with_a_legal_outcome_and_leaves_no_process(checkout):
    program, _ = checkout
    done = check(program, "--base", "HEAD", "--time-budget", "20s")
    assert done.returncode in (0, 1, 3), done.stderr
    document = json.loads(done.stdout)
    assert document["exit_code"] == done.returncode
    assert len(document["cases"]) == 2
    assert {case["outcome"] for case in document["cases"]} <= OUTCOMES - {"missing"}
    assert all(case["ratio"] > 0 for case in document["cases"])
    assert document["sizes"] == []  # the same artifact on both sides
    assert paced_workers(program) == []
    again = program.run("check", "--replay", document["recording"], "--json")
    replayed = json.loads(again.stdout)
    assert again.returncode == done.returncode
    assert replayed["cases"] == document["cases"]


def test_a_head_that_breaks_is_missing_and_names_its_side(checkout):
    program, repository = checkout
    path = repository / "edgeprof" / "runtimes" / "onnxruntime.py"
    path.write_text(path.read_text() + "\ndel OnnxCell.bind\n")
    done = check(program, "--base", "HEAD", "--time-budget", "5s", "--no-memory")
    assert done.returncode == 5, done.stderr
    reasons = {case["reason"] for case in json.loads(done.stdout)["cases"]}
    assert all(reason.startswith("head: ") and "bind" in reason for reason in reasons)


def test_only_changed_leaves_out_what_is_the_same(checkout):
    program, _ = checkout
    done = check(program, "--base", "HEAD", "--only-changed")
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout)["cases"]
    assert {(case["outcome"], case["p"], case["n_blocks"]) for case in cases} == {("unchanged", None, 0)}


def test_ctrl_c_keeps_the_blocks_and_ends_the_workers(checkout, waiting):
    program, _ = checkout
    process = program.start("check", "--suite", str(program.home / "tiny.toml"), "--base", "HEAD", script=IN_REPOSITORY)
    recordings = program.results.glob

    def has_blocks():
        return any('"kind":"block"' in path.read_text() for path in recordings("*/checks/*.jsonl"))

    assert waiting(has_blocks, process)
    assert paced_workers(program) or process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--replay" in err
    assert waiting(lambda: paced_workers(program) == [])
    (path,) = program.results.glob("*/checks/*.jsonl")
    assert len(json.loads(program.run("check", "--replay", str(path), "--json").stdout)["cases"]) == 2


def test_no_such_revision_is_usage(checkout):
    program, _ = checkout
    done = check(program, "--base", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no revision 'nowhere'" in done.stderr
