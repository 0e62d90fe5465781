"""``edgeprof plot``: what is drawn, as data and as files."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edgeprof.bench.report import Report, build_report
from edgeprof.bench.selection import Selection
from edgeprof.cli import app, figures
from edgeprof.cli.plot import _narrowed
from edgeprof.core.errors import BaselineError, UsageError
from edgeprof.operators.registry import make_spec
from edgeprof.store import Store

KINDS = ("latency", "state", "ratio", "roofline")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command and returns the exit code, stdout and stderr."""

    def invoke(*args: Any) -> tuple[int, str, str]:
        code = app.run(["plot", *(str(a) for a in args)])
        return code, *capsys.readouterr()

    return invoke


@pytest.fixture
def report(small_store: Path) -> Report:
    return build_report("host", Store(small_store).records("host"))


LABELS = {
    "latency": ("context (tokens)", "p50 of a call, 95 % interval (µs)"),
    "state": ("context (tokens)", "state (bytes)"),
    "ratio": ("runtime and weight format", "ratio to short_conv, 95 % interval"),
    "roofline": ("arithmetic intensity (FLOP/byte)", "achieved (GFLOP/s)"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_png_is_a_picture(run: Run, small_store: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "plot.png"
    code, stdout, err = run(kind, "--out", out, "--results", small_store)
    assert (code, stdout) == (0, "")
    assert err.startswith(f"{out}: ")
    content = out.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[i : i + 4]) for i in (16, 20))
    assert width >= 1000
    assert height >= 500
    assert len(content) > 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_an_svg_holds_its_words_as_text(run: Run, small_store: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "plot.svg"
    assert run(kind, "--out", out, "--results", small_store)[0] == 0
    root = ElementTree.fromstring(out.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = "\n".join("".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text"))
    assert all(label in words for label in LABELS[kind])
    assert "swa w" in words
    assert "gqa" in words
    assert ("A/A noise floor" in words) == ("host;" in words) == (kind != "state")


@pytest.mark.parametrize("kind", KINDS)
def test_an_html_file_needs_no_network(run: Run, small_store: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "plot.html"
    assert run(kind, "--out", out, "--results", small_store)[0] == 0
    page = out.read_text()
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)\s*=", page)
    assert "Plotly.newPlot" in page
    data = page[page.rindex("Plotly.newPlot") :]
    assert "swa w" in data
    assert all(json.dumps(label)[1:-1].replace("/", "\\u002f") in data for label in LABELS[kind])


def test_the_same_results_give_the_same_svg(run: Run, small_store: Path, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        run("ratio", "--out", tmp_path / name, "--results", small_store)
    assert (tmp_path / "a.svg").read_text() == (tmp_path / "b.svg").read_text()


def test_a_plot_replaces_the_one_before(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "plot.svg"
    assert run("state", "--out", out)[0] == 0
    first = out.read_text()
    assert run("state", "--out", out, "--op", "gqa")[0] == 0
    assert out.read_text() != first


def test_drawing_leaves_no_global_state(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib as mpl; before = dict(mpl.rcParams); from edgeprof.cli.app import run; "
        "assert run(['plot', 'state', '--out', sys.argv[1]]) == 0; "
        "assert dict(mpl.rcParams) == before; import matplotlib.pyplot as plt; assert plt.get_fignums() == []"
    )
    out = str(tmp_path / "state.svg")
    done = subprocess.run([sys.executable, "-c", code, out], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_latency_has_a_panel_for_each_runtime_and_a_line_for_each_operator(report: Report) -> None:
    figure = figures.latency_figure(_narrowed(report, Selection()))
    assert [panel.title for panel in figure.panels] == ["onnxruntime fp32", "torch_eager fp32"]
    assert figure.labels() == ["short_conv k3", "swa w6", "gqa"]
    eager = {s.label: s for s in figure.panels[1].series}
    assert list(eager["gqa"].x) == [16, 64]
    assert eager["gqa"].y == pytest.approx([250, 400], rel=0.01)  # µs
    assert all(low < y < high for low, y, high in zip(eager["gqa"].low, eager["gqa"].y, eager["gqa"].high, strict=True))
    assert figure.x_ticks == {16.0: "16", 64.0: "64"}
    assert len({s.color for s in eager.values()}) == len({s.marker for s in eager.values()}) == 3


def test_latency_of_prefill_is_drawn_when_asked_for(report: Report) -> None:
    rows = tuple(m for m in report.measurements if m.case.phase == "prefill")
    figure = figures.latency_figure(replace(report, measurements=rows))
    assert figure.title == "Time of a prefill, in a ring of all operators"
    assert figure.x_label == "prompt (tokens)"


def test_rows_that_differ_otherwise_are_lines_of_their_own(make_case: Any, make_records: Any) -> None:
    records = []
    for n_threads in (1, 2):
        for window in (6, 8):
            dims = {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "window": window}
            records += make_records(make_case("swa", dims=dims, n_threads=n_threads), [[100], [101]])
    wide = {"d_model": 64, "kernel_size": 3}
    for dims in (wide, wide | {"d_model": 32}):
        records += make_records(make_case("short_conv", dims=dims), [[100], [101]])
    labels = figures.latency_figure(build_report("host", records)).labels()
    assert sorted(labels) == [
        "short_conv k3, 1 thread, d_model 32",
        "short_conv k3, 1 thread, d_model 64",
        "swa w6, 1 thread, d_model 32",
        "swa w6, 2 threads, d_model 32",
        "swa w8, 1 thread, d_model 32",
        "swa w8, 2 threads, d_model 32",
    ]


def test_a_plot_does_not_mix_what_no_axis_tells_apart(report: Report) -> None:
    with pytest.raises(UsageError, match="--phase: this plot shows one at a time; choose decode or prefill"):
        figures.latency_figure(report)
    with pytest.raises(UsageError, match="--phase"):
        figures.ratio_figure(report)


def test_state_is_exact() -> None:
    heads = {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8}
    specs = [
        make_spec("swa", heads | {"window": 64}),
        make_spec("gqa", heads),
        make_spec("swiglu", {"d_model": 32, "d_ff": 64}),
    ]
    figure = figures.state_figure(specs, (16, 64, 256), ("fp32", "int8"))
    lines = {s.label: list(s.y) for s in figure.panels[0].series}
    row = 2 * 2 * 8
    assert lines["gqa, KV fp32"] == [row * n * 4 for n in (16, 64, 256)]
    assert lines["gqa, KV int8"] == [row * n for n in (16, 64, 256)]
    assert lines["swa w64, KV fp32"] == [row * n * 4 for n in (16, 64, 64)]
    assert "no state: swiglu" in figure.subtitle
    assert list(figure.y_ticks) == sorted(figure.y_ticks)
    with pytest.raises(UsageError, match="carry no state"):
        figures.state_figure(specs[2:], (16,), ("fp32",))


def test_ratios_stand_beside_the_noise_floor(report: Report) -> None:
    figure = figures.ratio_figure(_narrowed(report, Selection()))
    assert [panel.title for panel in figure.panels] == ["decode at 16", "decode at 64"]
    assert figure.categories() == ["onnxruntime fp32", "torch_eager fp32"]
    (swa, gqa) = figure.panels[0].series
    assert (swa.label, gqa.label) == ("swa w6", "gqa")
    assert list(swa.y) == pytest.approx([1.5, 1.5])
    assert report.noise_floor is not None
    assert figure.panels[0].band == (1 - report.noise_floor.pooled, 1 + report.noise_floor.pooled)
    assert figure.y_ticks[1] == "1x"


def test_the_roofline_is_the_measured_one(report: Report) -> None:
    figure = figures.roofline_figure(report)
    roof, *points = figure.panels[0].series
    assert roof.kind == "rule"
    ridge = 1e13 / 1e12
    assert roof.x[1] == pytest.approx(ridge)
    assert list(roof.y[1:]) == [1e4, 1e4]  # GFLOP/s
    assert roof.y[0] == pytest.approx(float(roof.x[0]) * 1e12 / 1e9)
    assert all(a < b for a, b in pairwise(float(x) for x in roof.x))
    rows = {m.case.key: m for m in report.measurements}
    for series in points:
        for x, y in zip(series.x, series.y, strict=True):
            assert any(y / min(float(x) * 1e3, 1e4) == pytest.approx(m.roof_share) for m in rows.values())
    assert {s.label.split()[-1] for s in points} == {"decode", "prefill"}


def test_no_roof_is_nothing_to_draw(make_case: Any, make_records: Any) -> None:
    report = build_report("host", make_records(make_case(cache_state="streaming"), [[100], [101]]))
    with pytest.raises(BaselineError, match="nothing to draw"):
        figures.roofline_figure(report)
    with pytest.raises(BaselineError, match="no operator was measured beside short_conv"):
        figures.ratio_figure(report)


@pytest.mark.parametrize("suffix", ["svg", "html"])
def test_a_single_point_is_drawn(
    run: Run, make_case: Any, make_records: Any, save: Any, tmp_path: Path, suffix: str
) -> None:
    root = save(make_records(make_case(), [[100]]))  # one load: no interval and no noise floor either
    out = tmp_path / f"one.{suffix}"
    assert run("latency", "--out", out, "--results", root)[0] == 0
    assert "unknown (too few rounds)" in out.read_text()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("latncy", "--out", "x.png"), 2, "unknown plot 'latncy': did you mean latency?"),
        (("latency", "--out", "x.pdf"), 2, "--out: x.pdf does not tell its format; end it in .png, .svg, .html"),
        (("latency", "--out", "x"), 2, "--out: x does not tell its format"),
        (("latency",), 2, "Missing option '--out'"),
        (("state", "--out", "nowhere/x.png"), 2, "--out: nowhere is no folder; make it first"),
        (("state", "--out", "x.png", "--op", "swiglu"), 2, "--op: swiglu"),
        (("latency", "--out", "x.png", "--op", "gqqa"), 2, "unknown operator 'gqqa'"),
        (("latency", "--out", "x.png", "--dtype", "int4"), 5, "nothing to draw: no measured row matches"),
        (("ratio", "--out", "x.png", "--op", "short_conv"), 5, "nothing to draw: no operator was measured beside"),
        (("latency", "--out", "x.png", "--phase", "decode,prefill"), 2, "--phase: this plot shows one at a time"),
        (("latency", "--out", "x.png", "--results", "none"), 5, "no results in none yet: run edgeprof bench"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    run: Run,
    small_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.setenv("EDGEPROF_RESULTS", str(small_store))
    monkeypatch.chdir(tmp_path)
    found, out, err = run(*args)
    assert (found, out) == (code, "")
    assert err.startswith(f"edgeprof: error: {message}")
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("x*"))


def test_a_folder_in_the_way_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "plot.png").mkdir()
    code, _, err = run("state", "--out", tmp_path / "plot.png")
    assert code == 2
    assert "is a folder; give a file's name" in err


def test_one_device_at_a_time(run: Run, make_case: Any, make_records: Any, save: Any, tmp_path: Path) -> None:
    root = save([r for d in ("host", "pixel") for r in make_records(make_case(), [[100], [101]], device=d)])
    code, _, err = run("latency", "--out", tmp_path / "x.svg", "--results", root)
    assert code == 2
    assert "--device: a plot shows one device; choose host or pixel" in err
    assert run("latency", "--out", tmp_path / "x.svg", "--results", root, "--device", "pixel")[0] == 0
    assert "pixel; A/A noise floor" in (tmp_path / "x.svg").read_text()
