"""``edgeprof export``: options, what is replaced and what is not, what is printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprof.cli.app import run

Export = Callable[..., tuple[int, str, str]]


@pytest.fixture
def export(capsys: pytest.CaptureFixture[str]) -> Export:
    def call(*args: str | Path) -> tuple[int, str, str]:
        code = run(["export", *map(str, args)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("tiny-gqa", "--to", "ggf"), "--to: 'ggf' is no format; did you mean gguf?"),
        (
            ("tiny-gqo", "--to", "hf"),
            "config 'tiny-gqo': no .toml or .json file, and no preset; did you mean tiny-gqa",
        ),
        (("tiny-gqa", "--to", "hf", "--dtype", "int4"), "--dtype: 'int4' is none of hf's; use fp32"),
        (("tiny-gqa", "--to", "gguf", "--dtype", "q4"), "--dtype: 'q4' is none of gguf's; use F16, Q8_0, Q4_0, F32"),
        (
            ("tiny-gqa", "--to", "onnx", "--q-len", "4"),
            "--q-len: is for pte; one onnx export takes calls of any length",
        ),
        (("tiny-gqa", "--to", "pte", "--q-len", "1,0"), "--q-len: 0 is not a length of call; use 1 or more"),
        (
            ("tiny-gqa", "--to", "pte", "--q-len", "5k"),
            "--q-len: 5120 is too large for a length of call; use at most 4096",
        ),
        (
            ("tiny-gqa", "--to", "pte", "--q-len", "64", "--context", "64"),
            "--q-len: a call of 64 does not fit a context of 64; use a longer --context",
        ),
        (
            ("tiny-hybrid", "--to", "gguf"),
            "config: layers[3].mixer.op: all attention layers must be gqa, or swa with one window",
        ),
        (("tiny-gqa", "--to", "hf", "--weights", "none.safetensors"), "none.safetensors: no such file or folder"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    args: tuple[str, ...], message: str, export: Export, tmp_path: Path
) -> None:
    code, out, err = export(*args, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"edgeprof: error: {message}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "dtype", "message"),
    [
        ("hf", "fp32", "layers: n_heads: 2 and 4: Hugging Face's Lfm2 and Lfm3 have one for all layers"),
        ("gguf", "F16", "config: layers[1].mixer.n_heads: is 2 after 4"),
        ("onnx", "fp32", "config: GroupQueryAttention rotates heads of a multiple of 16 values only"),
        ("pte", "8da4w", "config: 8da4w needs rows of a multiple of 32 values; gqa.w_o has 16"),
    ],
)
def test_what_a_format_cannot_hold_is_told_before_any_weights_are_made(
    to: str, dtype: str, message: str, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("edgeprof.operators.arrays.random_weights", never)
    layers = [
        {"mixer": {"op": "gqa", "n_heads": n, "n_kv_heads": 2, "head_dim": 8}, "ffn": {"op": "swiglu", "d_ff": 64}}
        for n in (4, 2)
    ]
    config = tmp_path / "odd.json"
    config.write_text(json.dumps({"schema_version": 1, "d_model": 32, "vocab": 64, "layers": layers}))
    code, _, err = export(config, "--to", to, "--dtype", dtype, "--out", tmp_path / "out")
    assert code == 2
    assert err.startswith(f"edgeprof: error: {message}")


def test_the_document_says_what_was_written(export: Export, tmp_path: Path) -> None:
    out = tmp_path / "my.gguf"
    code, text, err = export("tiny-gqa", "--to", "gguf", "--out", out, "--dtype", "q8_0", "--context", "99", "--json")
    assert code == 0, err
    document = json.loads(text)
    size = out.stat().st_size
    expected = {
        "schema_version": 1, "config": "tiny-gqa", "to": "gguf", "dtype": "Q8_0", "out": str(out), "context": 99,
        "weights": "random", "seed": 0, "files": [{"path": str(out), "bytes": size}], "bytes": size,
    }  # fmt: skip
    assert {name: document[name] for name in expected} == expected
    assert document["notes"][0] == "llama.cpp's architecture qwen3"


def test_random_weights_are_called_so_and_repeat_by_their_seed(export: Export, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        code, out, _ = export("tiny-gqa", "--to", "gguf", "--out", tmp_path / name, "--seed", seed)
        assert code == 0
        assert f"random weights (seed {seed}): nothing was learnt" in out
    first, same, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == same != other


def test_an_earlier_file_is_replaced_only_with_force(export: Export, tmp_path: Path) -> None:
    out = tmp_path / "my.gguf"
    out.write_text("mine")
    code, _, err = export("tiny-gqa", "--to", "gguf", "--out", out)
    assert (code, out.read_text()) == (2, "mine")
    assert f"--out: {out} exists; choose another name, or overwrite it with --force" in err
    assert export("tiny-gqa", "--to", "gguf", "--out", out, "--force")[0] == 0
    assert out.read_bytes().startswith(b"GGUF")


def test_an_earlier_folder_is_replaced_whole_only_with_force(export: Export, tmp_path: Path) -> None:
    out = tmp_path / "onnx"
    assert export("tiny-conv", "--to", "onnx", "--out", out)[0] == 0
    (out / "stale.txt").write_text("")
    assert export("tiny-conv", "--to", "onnx", "--out", out)[0] == 2
    assert (out / "stale.txt").exists()
    assert export("tiny-conv", "--to", "onnx", "--out", out, "--force")[0] == 0
    assert {p.name for p in out.iterdir()} == {"model.onnx", "weights.bin", "signature.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["onnx"]


def test_force_replaces_no_folder_but_an_export_of_its_kind(export: Export, tmp_path: Path) -> None:
    home, other, link = tmp_path / "home", tmp_path / "other", tmp_path / "link"
    (home / "thesis").mkdir(parents=True)
    (home / "model.onnx").write_text("")
    other.mkdir()
    (other / "config.json").write_text("")
    assert export("tiny-conv", "--to", "onnx", "--out", tmp_path / "real")[0] == 0
    link.symlink_to(tmp_path / "real")
    for out in (home, other, link):
        before = sorted(out.rglob("*"))
        code, _, err = export("tiny-conv", "--to", "onnx", "--out", out, "--force")
        assert code == 2
        assert f"--out: {out} is no earlier export of this kind, and --force replaces nothing else" in err
        assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 2)])
def test_an_export_that_breaks_off_leaves_the_earlier_one(
    error: BaseException, code: int, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "onnx"
    assert export("tiny-conv", "--to", "onnx", "--out", out)[0] == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def half(config: Any, weights: Any, folder: Path, *, dtype: str) -> None:
        (folder / "model.onnx").write_text("half")
        raise error

    monkeypatch.setattr("edgeprof.runtimes.export.export_onnx", half)
    ended, _, err = export("tiny-conv", "--to", "onnx", "--out", out, "--force", "--seed", 3)
    assert ended == code
    assert (
        "nothing was written" if code == 130 else f"--out: {out} cannot be written (No space left on device)"
    ) in err
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["onnx"]


def test_the_signature_describes_every_input_of_the_graph(export: Export, tmp_path: Path) -> None:
    assert export("tiny-hybrid", "--to", "onnx", "--out", tmp_path / "onnx", "--dtype", "int4")[0] == 0
    told = json.loads((tmp_path / "onnx" / "signature.json").read_text())
    by_name = {value["name"]: value for value in told["inputs"]}
    assert (told["format"], told["file"], told["dtype"]) == ("onnx", "model.onnx", "int4")
    assert by_name["x"] == {"name": "x", "dtype": "int64", "shape": ["batch", "tokens"], "meaning": "token ids"}
    assert all(value["meaning"] for value in told["inputs"])
    assert set(told["states"]) < set(by_name)
    assert set(told["states"].values()) < {value["name"] for value in told["outputs"]}
    assert by_name["layers.3.mixer.k"]["shape"] == ["batch", 2, "rows", 16]
    assert told["rope"][0]["theta"] == 1e6
