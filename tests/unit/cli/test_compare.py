"""``edgeprof compare``: what it prints and how it ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprof.cli import app


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command and returns the exit code, stdout and stderr."""

    def invoke(*args: Any) -> tuple[int, str, str]:
        code = app.run(["compare", *(str(a) for a in args)])
        return code, *capsys.readouterr()

    return invoke


Run = Callable[..., tuple[int, str, str]]


def test_each_pair_has_both_times_the_ratio_and_a_verdict(run: Run, small_store: Path) -> None:
    code, out, _ = run("runtime=onnxruntime", "runtime=torch_eager", "--results", small_store)
    assert code == 0
    lines = out.splitlines()
    assert lines[:2] == ["A: runtime=onnxruntime on host", "B: runtime=torch_eager on host"]
    assert "decode at context 16, 1 thread, streaming, ring of 97.7 KiB" in lines
    (first, *_) = [line for line in lines if line.startswith(" short_conv k3")]
    assert "onnxruntime fp32 | torch_eager fp32" in first
    assert "0.50x [0.50, 0.50]   paired, 4   B faster" in first
    assert (
        "B takes 0.50x the time of A (geometric mean of 9 ratios); 9 of 9 differ beyond the noise: B is faster in 9, "
        "slower in 0."
    ) in lines


def test_the_document_has_what_the_table_has(run: Run, small_store: Path) -> None:
    code, out, _ = run("op=short_conv", "op=swa", "--results", small_store, "--json")
    document = json.loads(out)
    assert (code, document["schema_version"]) == (0, 1)
    assert (document["a"], document["b"], len(document["pairs"])) == ("op=short_conv", "op=swa", 6)
    pair = document["pairs"][0]
    assert (pair["verdict"], pair["paired"], pair["n_pairs"]) == ("slower", True, 4)
    assert pair["ratio"] == pytest.approx(pair["b"]["p50_ns"] / pair["a"]["p50_ns"]) == pytest.approx(1.5)
    assert pair["ratio_ci95"][0] <= pair["ratio"] <= pair["ratio_ci95"][1]
    assert (pair["a"]["case"]["op"], pair["b"]["case"]["op"]) == ("short_conv", "swa")
    assert (document["n_different"], document["n_only_a"]) == (6, 0)
    assert document["geometric_mean"] == pytest.approx(1.5)


def test_unpaired_sides_are_said_to_be(run: Run, make_case: Any, make_records: Any, save: Any) -> None:
    roots = [
        save(make_records(make_case(), [[n, n + 1], [n + 2, n]], session=name), name)
        for name, n in (("before", 1000), ("after", 1001))
    ]
    code, out, _ = run(f"results={roots[0]}", f"results={roots[1]}")
    assert code == 0
    assert "unpaired, 2 and 2   same within noise" in out
    assert "Unpaired sides share no rounds" in out


def test_too_few_rounds_are_said_to_be(run: Run, make_case: Any, make_records: Any, save: Any) -> None:
    records = [r for rt in ("torch_eager", "onnxruntime") for r in make_records(make_case(runtime=rt), [[100]])]
    code, out, _ = run("runtime=torch_eager", "runtime=onnxruntime", "--results", save(records))
    assert code == 0
    assert "too few rounds" in out
    assert "1 pairs have too few rounds to tell: run edgeprof bench with more --effort." in out


@pytest.mark.parametrize(
    ("a", "b", "code", "message"),
    [
        ("runtme=x", "op=gqa", 2, "A: unknown key 'runtme': did you mean runtime"),
        ("op=gqa", "dtype=int5", 2, "B: unknown dtype 'int5': did you mean int4"),
        ("runtime=torch_eager", "runtime=executorch", 5, "no cell of A was measured in B too"),
        ("device=host", "device=pixel", 5, "device: no results of 'pixel'"),
        ("session=session1", "session=9", 5, "session: no '9'"),
        ("op=gqa", "op=gqa", 5, "A (op=gqa) and B (op=gqa) are the same loads"),
        ("results=nowhere", "op=gqa", 5, "results=nowhere: no results in nowhere"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    run: Run, small_store: Path, a: str, b: str, code: int, message: str
) -> None:
    found, out, err = run(a, b, "--results", small_store)
    assert (found, out) == (code, "")
    assert err.startswith(f"edgeprof: error: {message}")
    assert len(err.splitlines()) == 1
