"""Every export is opened by its real consumer and gives the torch model's logits. Tolerances are relative L2 distances."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import consumers
import numpy as np
import pytest
from consumers import Array

from edgeprof.cli.app import run
from edgeprof.models.config import ArchConfig, config_of_pattern, config_text
from edgeprof.models.gguf import DTYPES, effective_weights, write_gguf
from edgeprof.models.model import model_of
from edgeprof.operators.arrays import random_weights
from edgeprof.runtimes.export import export_onnx, export_pte

pytestmark = pytest.mark.slow

WINDOW, CONTEXT, CHUNK = 12, 48, 16
SIZES = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "window": WINDOW, "kernel_size": 3, "d_ff": 96}
TOKENS = np.random.default_rng(3).integers(0, 512, 36)
"""Longer than the window twice over, shorter than the context."""


def make_config(pattern: str, *, ffn: str = "swiglu", dims: dict[str, Any] | None = None, **fields: Any) -> ArchConfig:
    sizes = SIZES | (dims or {})
    return config_of_pattern(
        pattern, sizes, name=pattern, ffn=ffn, d_model=64, vocab=512, max_context=CONTEXT, **fields
    )


HYBRID = make_config("CSG")
GEMMA = {"ffn": "geglu", "sandwich_norm": True, "embedding_scale": 8.0, "dims": {"head_dim": 32}}
LLAMA_CPP = {
    "lfm2": make_config("CCGC"),
    "lfm2_swa": make_config("CSCS", dims={"kernel_size": 4}),
    "lfm2_untied": make_config("GC", tied=False),
    "qwen3": make_config("GG", dims={"head_dim": 32}),
    "llama": make_config("GG", dims={"qk_norm": False}),
    "gemma3": make_config("SSG", **GEMMA),
}


def distance(logits: Array, expected: Array) -> float:
    assert logits.shape == expected.shape
    assert np.isfinite(logits).all()
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))


@pytest.fixture
def export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs ``edgeprof export`` on a config and returns the document that it prints."""

    def call(config: ArchConfig, to: str, *more: str) -> dict[str, Any]:
        (tmp_path / "my.toml").write_text(config_text(config, tmp_path / "my.toml"))
        out = tmp_path / ("my.gguf" if to == "gguf" else to)
        code = run(["export", str(tmp_path / "my.toml"), "--to", to, "--out", str(out), "--json", *more])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        document: dict[str, Any] = json.loads(captured.out)
        assert document["bytes"] == sum(Path(f["path"]).stat().st_size for f in document["files"])
        return document

    return call


def test_transformers_loads_the_folder(export: Any) -> None:
    document = export(HYBRID, "hf", "--seed", "5")
    assert (document["weights"], document["seed"], document["dtype"]) == ("random", 5, "fp32")
    expected = consumers.torch_logits(HYBRID, random_weights(model_of(HYBRID), 5), TOKENS)
    assert distance(consumers.hf_logits(Path(document["out"]), TOKENS), expected) < 1e-5


def test_weights_of_a_folder_go_into_another_format(export: Any, tmp_path: Path) -> None:
    folder = export(HYBRID, "hf", "--seed", "5")["out"]
    (Path(folder) / "tokenizer_config.json").write_text("{}")
    document = export(HYBRID, "onnx", "--weights", folder)
    assert (document["weights"], document["seed"]) == (folder, None)
    expected = consumers.torch_logits(HYBRID, random_weights(model_of(HYBRID), 5), TOKENS)
    assert distance(consumers.onnx_logits(Path(document["out"]), TOKENS, [7, CHUNK]), expected) < 1e-5
    again = export(HYBRID, "hf", "--weights", folder, "--force")
    assert [Path(f["path"]).name for f in again["files"]] == [
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize("config", [HYBRID, make_config("SG", **GEMMA, tied=False)], ids=["hybrid", "gemma"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("int4", 5e-2)])
def test_onnx_runtime_runs_the_graph(config: ArchConfig, dtype: str, tolerance: float, tmp_path: Path) -> None:
    """Against the weights as the file stores them; int4's activations are rounded to 8 bits by the kernels."""
    weights = random_weights(model_of(config), 0)
    built = export_onnx(config, weights, tmp_path, dtype=dtype)
    assert (built.effective is None) == (dtype == "fp32")
    expected = consumers.torch_logits(config, built.effective or weights, TOKENS)
    assert distance(consumers.onnx_logits(tmp_path, TOKENS, [CHUNK, 3]), expected) < tolerance


def test_executorch_runs_4_bit_weights(tmp_path: Path) -> None:
    """Against the weights as the file stores them; 8da4w rounds each token's activations to 8 bits."""
    config = make_config("CG")
    weights = random_weights(model_of(config), 0)
    built = export_pte(config, weights, tmp_path, dtype="8da4w", q_len=1, context=CONTEXT)
    assert built.effective is not None
    expected = consumers.torch_logits(config, built.effective, TOKENS)
    assert distance(consumers.Program(tmp_path / "decode.json").logits(TOKENS), expected) < 8e-2


def test_executorch_decodes_and_prefills_in_chunks_and_hands_over(export: Any) -> None:
    out = Path(export(HYBRID, "pte", "--q-len", f"1,{CHUNK}")["out"])
    expected = consumers.torch_logits(HYBRID, random_weights(model_of(HYBRID), 0), TOKENS)
    decode, prefill = consumers.Program(out / "decode.json"), consumers.Program(out / f"prefill_{CHUNK}.json")
    assert distance(decode.logits(TOKENS), expected) < 1e-5
    done = 2 * CHUNK
    assert distance(prefill.logits(TOKENS[:done]), expected[CHUNK - 1 : done : CHUNK]) < 1e-5
    decode.reset()
    for name, tensor in decode.state.items():
        given = prefill.state[name]
        if given.shape == tensor.shape:
            tensor.copy_(given)
        else:  # the window's last positions in order, and the ring
            positions = np.arange(done - WINDOW + 1, done)
            tensor[:, positions % WINDOW] = given
    steps = np.stack([decode.run(TOKENS[pos : pos + 1], pos) for pos in range(done, len(TOKENS))])
    assert distance(steps, expected[done:]) < 1e-5


@pytest.fixture(scope="session")
def llama_cpp() -> None:
    if consumers.llama_python() is None:
        pytest.skip(f"llama_cpp cannot be imported; set {consumers.LLAMA_PYTHON} to an interpreter that can")


LLAMA_TOLERANCES = {"F32": (1e-5, 1e-5), "F16": (3e-3, 2e-3), "Q8_0": (6e-2, 2e-2), "Q4_0": (6e-2, 2e-2)}
"""To torch in fp32 on the stored weights, and to torch that also rounds activations."""

GELU_TABLE = 2e-4
"""llama.cpp looks gelu up in a table of fp16 values."""


@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize("name", LLAMA_CPP)
@pytest.mark.parametrize("dtype", DTYPES)
def test_llama_cpp_runs_the_file(name: str, dtype: str, tmp_path: Path) -> None:
    """Against the weights as the file stores them, and with activations rounded as llama.cpp's kernels round them."""
    config = LLAMA_CPP[name]
    weights = random_weights(model_of(config), 0)
    write_gguf(config, weights, tmp_path / "my.gguf", dtype=dtype)
    logits, _ = consumers.gguf_logits(tmp_path / "my.gguf", TOKENS, CHUNK)
    effective = effective_weights(config, weights, dtype=dtype)
    least = GELU_TABLE if name == "gemma3" else 0.0
    tolerance, rounded_alike = LLAMA_TOLERANCES[dtype]
    assert distance(logits, consumers.torch_logits(config, effective, TOKENS)) < max(tolerance, least)
    with consumers.llama_rounding(dtype):
        alike = consumers.torch_logits(config, effective, TOKENS)
    assert distance(logits, alike) < max(rounded_alike, least)


@pytest.mark.usefixtures("llama_cpp")
def test_llama_cpp_opens_what_the_command_wrote_and_reads_its_bytes(export: Any) -> None:
    document = export(LLAMA_CPP["lfm2"], "gguf", "--dtype", "f32")
    assert document["dtype"] == "F32"
    logits, said = consumers.gguf_logits(Path(document["out"]), TOKENS, CHUNK)
    weights = random_weights(model_of(LLAMA_CPP["lfm2"]), 0)
    assert distance(logits, consumers.torch_logits(LLAMA_CPP["lfm2"], weights, TOKENS)) < 1e-5
    assert said.endswith("[72, 105, 33, 33]")
