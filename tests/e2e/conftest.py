"""Runs the real program on a tiny suite, in folders of the tests' own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import edgeprof

SOURCE = Path(edgeprof.__file__).parent.parent
PATIENCE_S = 300.0

SUITE = """
schema_version = 1
description = "Small enough for a test."

[dims]
d_model = 32
n_heads = 4
n_kv_heads = 2
head_dim = 16
kernel_size = 3
window = 6

[[cells]]
op = ["short_conv", "gqa"]
runtime = ["torch_eager", "onnxruntime"]
dtype = ["fp32"]
phase = ["decode"]
kv_len = [32]
ring_bytes = [100_000]
"""


RUN_WITH = """
import sys
from edgeprof.devices import worker_process
worker_process.WORKER_COMMAND = (sys.executable, "-c", {patch!r} + "\\nfrom edgeprof.bench.worker import main\\nmain()")
from edgeprof.cli.app import run
sys.exit(run(sys.argv[1:]))
"""
"""The program with workers that were tampered with."""

SHORT_ROOF = """
from edgeprof.bench import roof
roof.SECONDS_A_PROBE, roof.BUFFER_BYTES, roof.SIZES = 0.01, 1 << 26, (256,)
"""


TINY_EFFORT = """
from dataclasses import replace
from edgeprof.bench import protocol
quick = protocol.EFFORTS["quick"]
protocol.EFFORTS["quick"] = replace(quick, rounds=3, time_budget_ns=2_000_000, warmup_budget_ns=2_000_000)
"""
"""Three rounds, each of a few passes."""


@dataclass
class Program:
    """The program with its own cache, results and suite."""

    home: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.home / "results"

    @property
    def environment(self) -> dict[str, str]:
        own = {"EDGEPROF_CACHE": str(self.home / "cache"), "EDGEPROF_RESULTS": str(self.results)}
        return {**os.environ, "PYTHONPATH": str(SOURCE), **own, **self.extra}

    def arguments(self, *more: str) -> list[str]:
        return ["bench", "--suite", str(self.home / "tiny.toml"), *more]

    def start(self, *args: str, script: str | None = None) -> "subprocess.Popen[str]":
        """Starts it in a process group of its own, like a terminal's job."""
        command = ["-m", "edgeprof"] if script is None else ["-c", script]
        return subprocess.Popen(
            [sys.executable, *command, *args],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *args: str, script: str | None = None, patch: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Runs it, or a script instead, or it with workers that run ``patch`` first."""
        process = self.start(*args, script=script if patch is None else RUN_WITH.format(patch=patch))
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def store_file(self) -> Path | None:
        return next(self.results.glob("*/instances.jsonl"), None)

    def lines(self) -> list[str]:
        """Whole lines of the store."""
        path = self.store_file()
        return [] if path is None else [x for x in path.read_text().splitlines(keepends=True) if x.endswith("\n")]

    def worker_ids(self) -> list[int]:
        """Workers that run with this program's cache."""
        wanted = f"EDGEPROF_CACHE={self.home / 'cache'}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if b"edgeprof.bench.worker" in (folder / "cmdline").read_bytes() and wanted in (
                    (folder / "environ").read_bytes().split(b"\0")
                ):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> bool:
    """Whether a condition comes true, before the process ends if one is given."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end or (process is not None and process.poll() is not None):
            return condition()
        time.sleep(0.01)
    return True


@pytest.fixture
def waiting() -> Callable[..., bool]:
    return wait_for


@pytest.fixture(scope="session")
def make_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    """Makes a program with nothing built or measured."""
    return lambda name: Program(tmp_path_factory.mktemp(name))


@pytest.fixture(scope="session")
def tiny_effort() -> str:
    """A script: the program whose quick effort is a few passes, and whose workers find the roof at a glance."""
    return TINY_EFFORT + RUN_WITH.format(patch=SHORT_ROOF)


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, "subprocess.CompletedProcess[str]"]:
    """A program that has measured its suite once, and how that ended."""
    program = Program(tmp_path_factory.mktemp("measured"))
    (program.home / "tiny.toml").write_text(SUITE)
    return program, program.run(*program.arguments("--effort", "quick", "--json"), patch=SHORT_ROOF)


@pytest.fixture
def program(measured, tmp_path: Path) -> Program:
    """A program with everything built and the roof known, and nothing measured."""
    built, first = measured
    assert first.returncode == 0, first.stderr
    copy = Program(tmp_path / "home")
    shutil.copytree(built.home, copy.home)
    path = copy.store_file()
    assert path is not None
    path.write_text("".join(line for line in copy.lines() if '"kind":"roof"' in line))
    return copy
