"""Blocks, models and their ends among the stored rows: left out of what people read, unless they are asked for."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprof.bench.report import build_report
from edgeprof.cli import app
from edgeprof.models.config import config_of_pattern
from edgeprof.models.model import model_of
from edgeprof.operators.base import Dims
from edgeprof.store import Store

DIMS: Dims = {"kernel_size": 3, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "d_ff": 64}
MODEL = config_of_pattern("CG", DIMS, name="m", d_model=32, vocab=40)

N_ROWS = 18
"""Rows of the small store."""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command and returns the exit code, stdout and stderr."""

    def invoke(*args: Any) -> tuple[int, str, str]:
        code = app.run([str(a) for a in args])
        return code, *capsys.readouterr()

    return invoke


@pytest.fixture
def records(make_case: Any, make_records: Any) -> list[Any]:
    """A session over rings: two blocks between embedding and head in each of two runtimes, and the whole model."""
    found = []
    for runtime in ("torch_eager", "onnxruntime"):
        case = make_case("gqa", cache_state="streaming", runtime=runtime, ring_bytes=5000)
        blocks = [replace(case, op="block", dims=layer.dims()) for layer in MODEL.layers]
        ends = [
            make_case(op, cache_state="streaming", runtime=runtime, ring_bytes=5000) for op in ("embedding", "head")
        ]
        for cell in (*blocks, *ends, replace(case, op="model", dims=model_of(MODEL).dims())):
            found += make_records(cell, [[50_000, 50_100], [50_200, 50_000]], session="rings")
    return found


@pytest.fixture
def store(small_store: Path, records: list[Any], save: Any) -> Path:
    """The small store with the rings' session added."""
    return save([*Store(small_store).records("host"), *records], "with_rings")


def test_tables_leave_them_out_and_say_how_many(run: Run, store: Path) -> None:
    code, out, _ = run("results", "--results", store)
    assert code == 0
    assert out.startswith(
        f"host: {N_ROWS} measurements, and 10 for models, which --op block,model,embedding,head shows\n"
    )
    assert "ring of 4.9 KiB" not in out


def test_markdown_leaves_them_out(run: Run, store: Path, small_store: Path) -> None:
    with_rings, without = (
        run("results", "--results", root, "--format", "markdown")[1] for root in (store, small_store)
    )
    assert with_rings == without


def test_they_are_shown_by_name_with_labels_that_fit(run: Run, store: Path) -> None:
    code, out, _ = run("results", "--results", store, "--op", "block,model")
    assert code == 0
    assert out.startswith("host: 6 measurements\n")
    assert "short_conv+swiglu d32" in out
    assert " CG d32 " in out
    assert "{" not in out


def test_exports_hold_every_row(run: Run, store: Path, tmp_path: Path) -> None:
    document = json.loads(run("results", "--results", store, "--json")[1])
    rows = document["devices"][0]["measurements"]
    assert len(rows) == N_ROWS + 10
    assert {r["op"] for r in rows} >= {"block", "model"}
    assert run("results", "--results", store, "--out", tmp_path / "rows.parquet")[0] == 0
    assert run("results", "--results", store, "--out", tmp_path / "rows.csv")[0] == 0


def test_a_store_of_models_alone_is_not_empty(run: Run, records: list[Any], save: Any, tmp_path: Path) -> None:
    root = save(records)
    assert run("results", "--results", root)[1].startswith("host: 0 measurements, and 10 for models")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    assert run("results", "--results", root, "--into", readme)[0] == 5


def test_the_noise_floor_of_operators_does_not_depend_on_them(
    store: Path, small_store: Path, records: list[Any]
) -> None:
    floors = [build_report("host", Store(root).records("host")).noise_floor for root in (store, small_store)]
    assert floors[0] == floors[1]
    assert build_report("host", records).noise_floor is not None


def test_a_row_that_an_operators_session_measured_too_is_an_operators_row(make_case: Any, make_records: Any) -> None:
    head = make_case("head", cache_state="streaming")
    block = replace(make_case("gqa", cache_state="streaming"), op="block", dims=MODEL.layers[1].dims())
    records = [*make_records(block, [[100]], session="rings"), *make_records(head, [[100]], session="rings")]
    assert [m.of_model for m in build_report("host", records).measurements] == [True, True]
    records += make_records(head, [[100]], session="bench")
    assert [m.of_model for m in build_report("host", records).measurements] == [True, False]


def test_a_block_has_no_ratio_to_an_operator(make_case: Any, make_records: Any) -> None:
    conv = make_case("short_conv", cache_state="streaming")
    block = replace(make_case("gqa", cache_state="streaming"), op="block", dims=MODEL.layers[1].dims())
    records = [r for case in (conv, block) for r in make_records(case, [[100, 101], [100, 102]])]
    assert [m.ratio for m in build_report("host", records).measurements] == [None, None]


@pytest.mark.parametrize("kind", ["latency", "roofline"])
def test_plots_leave_them_out_unless_they_are_asked_for(
    run: Run, store: Path, small_store: Path, tmp_path: Path, kind: str
) -> None:
    drawn = {}
    for name, args in {"all": ["--results", store], "plain": ["--results", small_store]}.items():
        out = tmp_path / f"{name}.svg"
        assert run("plot", kind, "--out", out, *args)[0] == 0
        drawn[name] = out.read_text()
    assert drawn["all"].count("<path") == drawn["plain"].count("<path")
    assert run("plot", kind, "--out", tmp_path / "x.svg", "--results", store, "--op", "block")[0] == 0
    assert "short_conv+swiglu" in (tmp_path / "x.svg").read_text()


def test_compare_leaves_them_out_unless_it_names_one(run: Run, store: Path) -> None:
    plain = json.loads(run("compare", "runtime=onnxruntime", "runtime=torch_eager", "--results", store, "--json")[1])
    assert len(plain["pairs"]) == N_ROWS / 2
    sides = [f"op=block,runtime={runtime}" for runtime in ("onnxruntime", "torch_eager")]
    code, out, _ = run("compare", *sides, "--results", store)
    assert code == 0
    assert "gqa+swiglu d32" in out
    assert "geometric mean of 2 ratios" in out
