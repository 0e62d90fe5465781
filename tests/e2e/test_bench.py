"""``edgeprof bench`` from start to end: real processes, real runtimes, tiny operators."""

import json
import shutil
from collections import Counter

import pytest

from edgeprof.bench.protocol import EFFORTS

pytestmark = pytest.mark.slow

QUICK = EFFORTS["quick"]


def test_it_measures_every_cell_and_prints_one_document(measured, contract) -> None:
    program, first = measured
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert {"schema_version", "device", "noise_floor", "measurements"} <= set(document)
    rows = document["measurements"]
    assert len(rows) == 8
    stored = {json.loads(line)["id"] for line in program.lines()}
    for row in rows:
        assert set(row) >= contract
        assert (row["status"], row["reason"]) == ("ok", None)
        assert row["n_instances"] >= QUICK.rounds * (QUICK.loads if row["cache_state"] == "hot" else 1)
        assert len(row["instance_ids"]) == row["n_instances"]
        assert set(row["instance_ids"]) <= stored
        assert 0 < row["ci95_ns"][0] <= row["p50_ns"] <= row["ci95_ns"][1]
        assert row["p10_ns"] > 0
        assert row["max_rel_error"] < 1e-4
        assert (row["roof_share"] is None) == (row["cache_state"] == "hot")
        assert (row["ratio_to_short_conv"] == 1.0) == (row["op"] == "short_conv")


def test_stderr_tells_the_progress_and_nothing_else(measured) -> None:
    stages = [line.split()[0] for line in measured[1].stderr.splitlines()]
    assert set(stages) == {"build", "check", "roof", "measure"}


def test_the_same_command_again_measures_nothing_and_prints_the_same(measured) -> None:
    program, first = measured
    before = program.lines()
    again = program.run(*program.arguments("--json"))
    assert again.returncode == 0, again.stderr
    assert program.lines() == before
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert again.stderr == ""


def test_the_table_shows_every_row(measured) -> None:
    program, _ = measured
    shown = program.run(*program.arguments())
    assert shown.returncode == 0, shown.stderr
    assert sum("onnxruntime fp32 " in line and "±" in line for line in shown.stdout.splitlines()) == 4
    assert "A/A noise floor of this device" in shown.stdout


def test_no_worker_and_no_copy_is_left(measured) -> None:
    program, _ = measured
    assert program.worker_ids() == []
    assert not [p for p in (program.home / "cache" / "artifacts").iterdir() if p.name.startswith(".")]


STUCK = """
from edgeprof.runtimes.onnxruntime import OnnxCell
right = OnnxCell.bind
OnnxCell.bind = lambda self, x, pos: right(self, x, 0)
"""
"""Every call takes itself for the first: wrong for attention, nothing to a convolution."""


def test_a_wrong_operator_is_a_row_without_a_time_and_exit_1(program) -> None:
    args = program.arguments("--runtime", "onnxruntime", "--cache-state", "hot", "--json")
    done = program.run(*args, patch=STUCK)
    assert done.returncode == 1, done.stderr
    rows = {row["op"]: row for row in json.loads(done.stdout)["measurements"]}
    assert rows["short_conv"]["status"] == "ok"
    assert rows["gqa"]["status"] == "wrong_output"
    assert "not timed" in rows["gqa"]["reason"]
    assert rows["gqa"]["p50_ns"] is None
    timed = [json.loads(line)["case"]["op"] for line in program.lines() if '"kind":"latency"' in line]
    assert set(timed) == {"short_conv"}
    assert "wrong_output" in done.stderr


CRASH = """
import os, signal
from edgeprof.bench.worker import Worker
right = Worker._hot
def crash(self, item):
    if item.case.op == "gqa":
        os.kill(os.getpid(), signal.SIGSEGV)
    return right(self, item)
Worker._hot = crash
"""


def test_a_crash_in_one_cell_is_an_error_row_and_the_rest_is_measured(program) -> None:
    args = program.arguments("--runtime", "onnxruntime", "--cache-state", "hot", "--json")
    done = program.run(*args, patch=CRASH)
    assert done.returncode == 1, done.stderr
    rows = {row["op"]: row for row in json.loads(done.stdout)["measurements"]}
    assert (rows["short_conv"]["status"], rows["short_conv"]["n_instances"]) == ("ok", QUICK.rounds * QUICK.loads)
    assert rows["gqa"]["status"] == "error"
    assert "signal SIGSEGV" in rows["gqa"]["reason"]
    mended = program.run(*args)
    assert mended.returncode == 0, mended.stderr
    assert {r["status"] for r in json.loads(mended.stdout)["measurements"]} == {"ok"}


def test_an_unsupported_cell_is_a_row_and_exit_0(program) -> None:
    args = program.arguments("--runtime", "torch_eager", "--dtype", "int4", "--json")
    done = program.run(*args)
    assert done.returncode == 0, done.stderr
    assert Counter(r["status"] for r in json.loads(done.stdout)["measurements"]) == {"unsupported": 4}
    before = program.lines()
    assert program.run(*args).returncode == 0
    assert program.lines() == before


def refused(done) -> str:
    """The one line of a refusal."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgeprof: error: ")
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--op", "short_cov"], "did you mean short_conv?"),
        (["--runtime", "onnxruntme"], "did you mean onnxruntime?"),
        (["--threads", "0"], "threads: 0 is not a "),
        (["--kv-len", "-5"], "kv-len: -5 is not a "),
        (["--effort", "quik"], "did you mean quick?"),
        (["--suite", "missing.toml"], "missing.toml"),
    ],
)
def test_bad_input_is_one_line_and_measures_nothing(args: list[str], said: str, program) -> None:
    before = program.lines()
    assert said in refused(program.run(*program.arguments(*args)))
    assert program.lines() == before


def test_a_results_folder_that_cannot_be_written_is_told_before_anything_runs(program) -> None:
    (program.home / "file").write_text("mine")
    for place in ("file", "file/below"):
        line = refused(program.run(*program.arguments("--results", str(program.home / place))))
        assert "--results or EDGEPROF_RESULTS" in line
    assert (program.home / "file").read_text() == "mine"


def test_a_corrupt_record_is_named_and_the_store_is_not_touched(measured, tmp_path) -> None:
    program = type(measured[0])(tmp_path / "home")
    shutil.copytree(measured[0].home, program.home)
    path = program.store_file()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"status":"ok"', b'"status":"fine"')
    path.write_bytes(b"".join(lines))
    line = refused(program.run(*program.arguments()))
    assert f"{path}:4: status:" in line
    assert path.read_bytes() == b"".join(lines)


def test_help_imports_nothing_that_computes(program) -> None:
    script = """
import sys
from edgeprof.cli.app import run
assert run(sys.argv[1:]) == 0
heavy = {"torch", "numpy", "pandas", "scipy", "onnx", "onnxruntime", "executorch", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    done = program.run("--help", script=script)
    assert done.returncode == 0, done.stderr
    assert "bench" in done.stdout
