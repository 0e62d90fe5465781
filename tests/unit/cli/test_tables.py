"""The small commands: what they know and what they print."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgeprof.bench.selection import Selection
from edgeprof.cli import app, doctor
from edgeprof.cli.ops import describe_operators
from edgeprof.cli.output import make_table, print_json, print_table
from edgeprof.cli.runtimes import describe_runtimes
from edgeprof.cli.table import dims_label
from edgeprof.core.errors import UsageError
from edgeprof.devices import checks
from edgeprof.devices.checks import Check
from edgeprof.devices.local import LOCAL
from edgeprof.models.block import block_of
from edgeprof.models.config import config_of_pattern
from edgeprof.models.model import model_of
from edgeprof.operators.registry import OPERATORS, make_spec
from edgeprof.runtimes.base import RUNTIMES


def test_every_operator_is_described_at_the_suites_dims() -> None:
    found = describe_operators(None, Selection())
    assert [op["name"] for op in found] == [op for op in OPERATORS if op not in ("block", "pair", "model")]
    gqa = next(op for op in found if op["name"] == "gqa")
    assert set(gqa["forms"]) == {"torch", "onnx", "executorch"}
    assert gqa["costs"][0]["state_bytes"] == 2 * 4096 * 8 * 64 * 4
    assert gqa["costs"][0]["flops"] == 2 * 3 * 1024 * 1024 + 4 * 4096 * 16 * 64


def test_an_operator_is_costed_at_every_length_and_dim_asked_for() -> None:
    selection = Selection(kv_lens=(256, 1024), dims={"window": (128, 512)}, dtypes=("fp32", "int4"))
    (swa,) = describe_operators("swa", selection)
    rows = [(c["dims"]["window"], c["kv_len"], c["dtype"], c["state_bytes"] // (2 * 8 * 64 * 4)) for c in swa["costs"]]
    assert rows[::2] == [
        (128, 256, "fp32", 128),
        (128, 1024, "fp32", 128),
        (512, 256, "fp32", 256),
        (512, 1024, "fp32", 512),
    ]
    assert swa["costs"][1]["weight_bytes"] < swa["costs"][0]["weight_bytes"] / 6


def test_a_dim_that_the_operator_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="--window: none of gqa has it"):
        describe_operators("gqa", Selection(dims={"window": (5,)}))


def test_ops_of_a_composite_says_what_counts_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["ops", "model"]) == 2
    assert "model: is made of a model's configuration: edgeprof inspect counts it" in capsys.readouterr().err


@pytest.mark.parametrize("sandwich", [False, True])
def test_a_block_is_labelled_by_its_parts(sandwich: bool) -> None:
    gqa = make_spec("gqa", {"d_model": 640, "n_heads": 10, "n_kv_heads": 2, "head_dim": 64})
    ffn = make_spec("geglu", {"d_model": 640, "d_ff": 96})
    assert dims_label("block", block_of(gqa, ffn, sandwich=sandwich).dims()) == "gqa+geglu d640"


@pytest.mark.parametrize(
    ("pattern", "label"), [("CCGC", "CCGC d640"), ("CCG" * 10, "CCGCCGCCGCCGCCGCCGCCGCCG...(30) d640")]
)
def test_a_model_is_labelled_by_its_pattern(pattern: str, label: str) -> None:
    dims = {"kernel_size": 3, "n_heads": 10, "n_kv_heads": 2, "head_dim": 64, "d_ff": 96}
    model = model_of(config_of_pattern(pattern, dims, name="m", d_model=640, vocab=100))
    assert dims_label("model", model.dims()) == label


def test_ops_prints_what_is_the_same_everywhere_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["ops", "gqa", "--kv-len", "1k,4k"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "gqa (version 1): grouped-query attention over the whole context"
    assert "one call: batch 1, q_len 1, dtype fp32, kv_dtype fp32; counted, not measured" in lines
    assert [line.split()[1] for line in lines if line.startswith(" gqa ")] == ["1024", "4096"]


def test_every_runtime_is_described_with_its_dtypes() -> None:
    found = {r["name"]: r for r in describe_runtimes()}
    assert list(found) == list(RUNTIMES)
    eager = found["torch_eager"]
    assert eager["version"].startswith("2.")
    assert eager["dtypes"][0] == {"dtype": "fp32", "kv_dtype": "fp32", "why_not": None}


def test_a_runtime_that_is_absent_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgeprof.runtimes.base.runtime_version", lambda runtime: "absent")
    assert app.run(["runtimes"]) == 0
    assert "not installed: pip install onnxruntime" in capsys.readouterr().out


def test_devices_tells_this_machine_among_the_stored_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = LOCAL.profile().id
    for name in (here, "pixel-9"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "instances.jsonl").touch()
    assert app.run(["devices", "--results", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stored"] == sorted([here, "pixel-9"])
    assert document["local"]["id"] == here
    assert app.run(["devices", "--results", str(tmp_path)]) == 0
    assert f"{here} (this machine)" in capsys.readouterr().out


def run_doctor(monkeypatch: pytest.MonkeyPatch, status: Any, *args: str) -> int:
    found = [Check(name=f"runtime {name}", status=status, found="x", fix="y") for name in RUNTIMES]
    monkeypatch.setattr(checks, "check_runtimes", lambda: found)
    return app.run(["doctor", *args])


def test_doctor_exits_0_where_a_runtime_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_doctor(monkeypatch, "ok", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["usable"] is True
    assert {"name", "status", "found", "fix"} == set(document["checks"][0])


def test_doctor_exits_4_where_none_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor(monkeypatch, "missing") == 4
    assert "nothing can be measured: no runtime starts" in capsys.readouterr().out


def test_doctor_looks_whether_results_can_be_written(tmp_path: Path) -> None:
    assert doctor.check_results(tmp_path / "new" / "folder").status == "ok"
    assert doctor.check_results(Path("x" * 5000)).status == "ok"
    (tmp_path / "file").touch()
    assert doctor.check_results(tmp_path / "file" / "results").status == "missing"


def test_a_table_in_a_pipe_is_as_wide_as_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table("a title", "name value")
    table.add_row("x" * 150, "y" * 150)
    print_table(table)
    out = capsys.readouterr().out
    assert out.startswith("a title\n")
    assert "x" * 150 in out
    assert "y" * 150 in out


def test_json_cannot_hold_what_json_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        print_json({"ratio": float("nan")})
