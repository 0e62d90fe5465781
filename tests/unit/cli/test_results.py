"""``edgeprof results``: what it lists, filters, exports and generates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from edgeprof.bench.report import build_report, report_json
from edgeprof.bench.stored import suite_cases
from edgeprof.cli import app
from edgeprof.store import Store

Capture = pytest.CaptureFixture[str]

SUITE = """
schema_version = 1
description = "tiny"
[dims]
d_model = 32
n_heads = 4
n_kv_heads = 2
head_dim = 8
window = 6
[[cells]]
op = ["short_conv", "swa", "gqa"]
runtime = ["torch_eager"]
dtype = ["fp32"]
phase = ["decode"]
kv_len = [16, 128]
cache_state = ["streaming"]
ring_bytes = [100_000]
"""


@pytest.fixture
def run(capsys: Capture) -> Callable[..., tuple[int, str, str]]:
    """Runs the command and returns the exit code, stdout and stderr."""

    def invoke(*args: Any) -> tuple[int, str, str]:
        code = app.run(["results", *(str(a) for a in args)])
        return code, *capsys.readouterr()

    return invoke


Run = Callable[..., tuple[int, str, str]]


def documented(root: Path) -> list[dict[str, Any]]:
    """What the report itself says of the store, as JSON gives it back."""
    report = build_report("host", Store(root).records("host"))
    return json.loads(json.dumps(report_json(report, None)["measurements"]))


def test_a_row_is_a_measurement_with_its_ratio(run: Run, small_store: Path) -> None:
    code, out, _ = run("--results", small_store)
    assert code == 0
    assert out.startswith("host: 18 measurements\n")
    assert "decode at context 16, 1 thread, streaming, ring of 97.7 KiB" in out
    (first, *_) = [line for line in out.splitlines() if line.split()[:4] == ["swa", "w6", "torch_eager", "fp32"]]
    assert "1.50x [1.50, 1.50]" in first
    assert "A/A noise floor of this device" in out


@pytest.mark.parametrize(
    ("args", "n_rows"),
    [
        (("--op", "gqa,swa"), 12),
        (("--op", "gqa", "--runtime", "onnxruntime"), 3),
        (("--kv-len", "32-128*2"), 6),
        (("--q-len", "16"), 6),
        (("--phase", "prefill", "--dtype", "fp32/fp32"), 6),
        (("--dtype", "int4"), 0),
        (("--threads", "2"), 0),
        (("--cache-state", "hot"), 0),
        (("--window", "7"), 12),
        (("--window", "6", "--op", "swa"), 6),
    ],
)
def test_options_filter(run: Run, small_store: Path, args: tuple[str, ...], n_rows: int) -> None:
    code, out, _ = run("--results", small_store, "--json", *args)
    assert code == 0
    assert len(json.loads(out)["devices"][0]["measurements"]) == n_rows


def test_a_filter_changes_no_figure(run: Run, small_store: Path) -> None:
    document = json.loads(run("--results", small_store, "--json", "--op", "gqa")[1])
    wanted = {m["case_key"]: m for m in documented(small_store) if m["op"] == "gqa"}
    assert {m["case_key"]: m for m in document["devices"][0]["measurements"]} == wanted
    assert all(m["ratio_to_short_conv"] > 2 for m in wanted.values())


def test_rows_come_in_reading_order(run: Run, small_store: Path) -> None:
    rows = json.loads(run("--results", small_store, "--json")[1])["devices"][0]["measurements"]
    keys = [(r["phase"], r["kv_len"], r["runtime"]) for r in rows]
    assert keys == sorted(keys)
    assert [r["op"] for r in rows[:3]] == ["short_conv", "swa", "gqa"]


def test_a_suite_shows_exactly_its_cells_and_the_missing_ones(
    run: Run, tmp_path: Path, make_case: Any, make_records: Any, save: Callable[..., Path]
) -> None:
    suite = tmp_path / "tiny.toml"
    suite.write_text(SUITE)
    cells = suite_cases(str(suite))
    records = [r for case in (*cells[:4], make_case("head")) for r in make_records(case, [[100], [101]])]
    document = json.loads(run("--results", save(records), "--suite", suite, "--json")[1])
    rows = {m["case_key"]: m for m in document["devices"][0]["measurements"]}
    assert set(rows) == {case.key for case in cells}
    assert [rows[case.key]["status"] for case in cells] == ["ok"] * 4 + ["missing"] * 2
    assert rows[cells[-1].key]["reason"] == f"not measured; edgeprof bench --suite {suite} measures it"
    filtered = json.loads(run("--results", tmp_path / "results", "--suite", suite, "--json", "--kv-len", "128")[1])
    assert len(filtered["devices"][0]["measurements"]) == 3


def test_an_empty_store_is_no_error(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("--results", tmp_path)
    assert (code, out) == (0, f"no results in {tmp_path} yet: run edgeprof bench\n")
    code, out, err = run("--results", tmp_path, "--json")
    assert (code, json.loads(out)) == (0, {"schema_version": 1, "results": str(tmp_path), "devices": []})
    assert "run edgeprof bench" in err


def test_nothing_that_matches_is_said_in_one_line(run: Run, small_store: Path) -> None:
    code, out, _ = run("--results", small_store, "--dtype", "int4")
    assert code == 0
    assert out.splitlines()[0].startswith("none of the results in")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_export_equals_the_report(run: Run, small_store: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"rows.{suffix}"
    assert run("--results", small_store, "--out", out)[0] == 0
    frame = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
    frame = frame.set_index("case_key")
    expected = documented(small_store)
    assert len(frame) == len(expected) == 18
    assert set(frame["device_id"]) == {"host"}
    for m in expected:
        row = frame.loc[m["case_key"]]
        assert [row["ci95_low_ns"], row["ci95_high_ns"]] == pytest.approx(m["ci95_ns"], rel=1e-12)
        assert row["instance_ids"].split() == m["instance_ids"]
        assert row["dims.d_model"] == m["dims"]["d_model"]
        same = ("op", "phase", "kv_len", "runtime", "p10_ns", "p50_ns", "n_samples", "stable", "state_bytes")
        assert [row[name] for name in same] == [m[name] for name in same]
        assert pd.isna(row["ratio_ci95_low"]) == (m["ratio_ci95"] is None)


def test_a_json_file_equals_what_is_printed(run: Run, small_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    assert run("--results", small_store, "--out", out)[0] == 0
    assert out.read_text() == run("--results", small_store, "--format", "json")[1]
    rows = json.loads(out.read_text())["devices"][0]["measurements"]
    assert sorted(rows, key=lambda m: m["case_key"]) == sorted(documented(small_store), key=lambda m: m["case_key"])


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_instances_are_exported_a_row_each(run: Run, small_store: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"loads.{suffix}"
    assert run("--results", small_store, "--instances", "--op", "gqa", "--out", out)[0] == 0
    if suffix == "json":
        rows = json.loads(out.read_text())["instances"]
    else:
        frame = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
        rows = frame.to_dict("records")
    expected = [r for r in Store(small_store).records("host") if r.case is not None and r.case.op == "gqa"]
    assert [r["id"] for r in rows] == [r.id for r in expected]
    timed = [(r["p50_ns"], r["load_ns"]) for r in rows if r["kind"] == "latency"]
    assert timed == [(r.samples_ns[0], r.load_ns) for r in expected if r.kind == "latency"]


def test_instances_without_a_filter_include_sentinels_and_roofs(run: Run, small_store: Path) -> None:
    code, out, _ = run("--results", small_store, "--instances")
    assert code == 0
    records = Store(small_store).records("host")
    assert out.startswith(f"{len(records)} instances\n")
    assert sum(" sentinel " in line for line in out.splitlines()) == 4


def test_an_existing_file_is_kept_unless_forced(run: Run, small_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "thesis.csv"
    out.write_text("precious")
    code, _, err = run("--results", small_store, "--out", out)
    assert code == 2
    assert "exists; choose another name, or overwrite it with --force" in err
    assert out.read_text() == "precious"
    assert run("--results", small_store, "--out", out, "--force")[0] == 0
    assert out.read_text().startswith("device_id,")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--format", "parquet"), "--format: parquet is no text; give --out FILE.parquet"),
        (("--format", "cvs"), "--format: unknown format 'cvs': did you mean csv?"),
        (("--format", "csv", "--json"), "--json: contradicts --format csv"),
        (("--out", "rows.xlsx"), "--out: rows.xlsx does not tell its format"),
        (("--out", "nowhere/rows.csv"), "--out: nowhere is no folder"),
        (("--out", "."), "--out: . does not tell its format"),
        (("--into", "x.md", "--format", "csv"), "--into: takes Markdown, not csv"),
        (("--instances", "--format", "markdown"), "--instances: has no Markdown form"),
        (("--op", "gqqa"), "unknown operator 'gqqa': did you mean gqa?"),
        (("--suite", "tlak"), "unknown suite 'tlak': did you mean talk?"),
        (("--device", "hots"), "device: no results of 'hots'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run: Run, small_store: Path, args: tuple[str, ...], message: str) -> None:
    code, out, err = run("--results", small_store, *args)
    assert (code, out) == (2, "")
    assert err.startswith(f"edgeprof: error: {message}")
    assert len(err.splitlines()) == 1


def test_markdown_has_the_rows_of_the_table(run: Run, small_store: Path) -> None:
    code, out, _ = run("--results", small_store, "--format", "markdown")
    assert code == 0
    assert out.startswith("`host`; Test CPU; onnxruntime 1.0; torch_eager 1.0; measured 2026-01-02.\n")
    assert "**Decode at context 64, 1 thread, streaming, ring of 97.7 KiB**" in out
    table_lines = [line for line in out.splitlines() if line.startswith("| ")]
    assert len([line for line in table_lines if "short_conv" in line and "vs" not in line]) == 6
    assert all("notes" not in line for line in table_lines)
    assert "- A/A noise floor of this device" in out


def test_hot_tables_are_folded_behind_streaming_ones(
    run: Run, make_case: Any, make_records: Any, save: Callable[..., Path]
) -> None:
    records = []
    for state in ("hot", "streaming"):
        records += make_records(make_case("gqa", cache_state=state), [[100, 101], [100, 102]])
    out = run("--results", save(records), "--format", "markdown")[1]
    assert (
        out.index("streaming, ring of") < out.index("<details>") < out.index("hot weights**") < out.index("</details>")
    )
    alone = run("--results", save(records[:3], "hot"), "--format", "markdown")[1]
    assert "<details>" not in alone


MARKED = "# Title\r\n<!-- results:begin (make readme) -->\r\nold\r\n<!-- results:end -->\r\nEnd\r\n"


def test_into_replaces_what_is_between_the_markers(run: Run, small_store: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_bytes(MARKED.encode())
    readme.chmod(0o640)
    for _ in range(2):  # the second time changes nothing
        assert run("--results", small_store, "--into", readme)[0] == 0
    text = readme.read_bytes().decode()
    assert text.startswith("# Title\r\n<!-- results:begin (make readme) -->\r\n\r\n`host`;")
    assert text.endswith("<!-- results:end -->\r\nEnd\r\n")
    assert "old" not in text
    assert text.count("A/A noise floor") == 1
    assert readme.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["README.md"]


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        "<!-- results:begin -->",
        "<!-- results:end --> <!-- results:begin -->",
        "<!-- results:begin --> <!-- results:begin --> <!-- results:end -->",
    ],
)
def test_into_wants_both_markers_once_and_in_order(run: Run, small_store: Path, tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    code, _, err = run("--results", small_store, "--into", readme)
    assert code == 2
    assert "needs one line <!-- results:begin -->" in err
    assert readme.read_text() == text


def test_into_does_not_blank_a_file_for_an_empty_store(run: Run, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(MARKED)
    code, _, err = run("--results", tmp_path / "none", "--into", readme)
    assert code == 5
    assert "run edgeprof bench" in err
    assert readme.read_text().replace("\r\n", "\n").count("old") == 1


def test_several_devices_are_listed_apart(
    run: Run, make_case: Any, make_records: Any, save: Callable[..., Path]
) -> None:
    case = make_case("gqa")
    root = save([r for d in ("pixel", "host") for r in make_records(case, [[100], [101]], device=d)])
    document = json.loads(run("--results", root, "--json")[1])
    assert [d["device"]["id"] for d in document["devices"]] == ["host", "pixel"]
    document = json.loads(run("--results", root, "--json", "--device", "pixel")[1])
    assert [d["device"]["id"] for d in document["devices"]] == ["pixel"]
