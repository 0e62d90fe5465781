"""The export matrix: each export, opened by its consumer, against the model in torch.

    python benchmarks/exports.py [--positions 256] [--only hf,onnx,pte,gguf]

A small hybrid with random weights goes into every format, and one model into each further architecture of llama.cpp. Prompts are
prefilled, then decoded token by token. "stored" compares with torch on the weights as the file stores them (dequantised): what
is left is how the consumer computes. "fp32" compares with torch on the weights that were given: what a user gets. For llama.cpp
"rounded alike" is torch on the stored weights with the activations rounded as its kernels round them. Set
EDGEPROF_LLAMA_PYTHON to an interpreter with llama_cpp, where this one has none.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.models.gguf import DTYPES, effective_weights, write_gguf
from edgeprof.models.gguf_architecture import architecture
from edgeprof.models.hf import save_hf
from edgeprof.models.model import model_of
from edgeprof.operators.arrays import Array, Weights, random_weights
from edgeprof.runtimes.export import export_onnx, export_pte

sys.path.append(str(Path(__file__).parent.parent / "tests" / "e2e"))
import consumers

PROMPT = 64
SIZES = {"n_heads": 8, "n_kv_heads": 2, "head_dim": 32, "window": 48, "kernel_size": 3, "d_ff": 512}
FIELDS = {"d_model": 256, "vocab": 4096}
HYBRID = config_of_pattern("CCGCGC", SIZES, name="hybrid", **FIELDS)
SLIDING = config_of_pattern("CSGCSG", SIZES, name="hybrid with swa", **FIELDS)
GEMMA = config_of_pattern("SSG", SIZES, name="gemma", ffn="geglu", sandwich_norm=True, embedding_scale=16.0, **FIELDS)
LLAMA_CPP = (
    HYBRID,
    config_of_pattern("CCSCSC", SIZES, name="hybrid, all swa", **FIELDS),
    config_of_pattern("GGG", SIZES, name="qwen", **FIELDS),
    config_of_pattern("GGG", SIZES | {"qk_norm": False}, name="llama", **FIELDS),
    GEMMA,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=256)
    parser.add_argument("--only", default="hf,onnx,pte,gguf")
    args = parser.parse_args()
    tokens = np.random.default_rng(0).integers(0, FIELDS["vocab"], args.positions)
    print(
        f"{args.positions} positions, {PROMPT} of them prefilled; a random model's logits have a deviation of about 16\n"
    )
    print(
        "| export | dtype | model | consumer | stored: max | relative L2 | argmax | fp32: max | argmax | rounded alike |"
    )
    print("|---|---|---|---|---:|---:|---:|---:|---:|---:|")
    for name in args.only.split(","):
        for row in FORMATS[name](tokens):
            print(f"| {name} | {' | '.join(row)} |", flush=True)


def compared(logits: Array, expected: Array) -> tuple[str, str, str]:
    """Largest difference, relative L2 distance, and the share of positions with the same likeliest token."""
    same = logits.argmax(-1) == expected.argmax(-1)
    distance = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    return f"{np.abs(logits - expected).max():.1e}", f"{distance:.1e}", f"{same.mean():.3f}"


def row(
    config: ArchConfig, dtype: str, consumer: str, logits: Array, stored: Weights | None, tokens: Array, alike: str = ""
) -> list[str]:
    given = consumers.torch_logits(config, random_weights(model_of(config), 0), tokens)
    expected = given if stored is None else consumers.torch_logits(config, stored, tokens)
    most, _, same = compared(logits, given)
    return [dtype, config.name, consumer, *compared(logits, expected), most, same, alike]


def hf(tokens: Array) -> Iterator[list[str]]:
    for config in (HYBRID, SLIDING):
        with tempfile.TemporaryDirectory() as folder:
            save_hf(config, random_weights(model_of(config), 0), Path(folder))
            logits = consumers.hf_logits(Path(folder), tokens)
        yield row(config, "fp32", f"transformers {version('transformers')}", logits, None, tokens)


def onnx(tokens: Array) -> Iterator[list[str]]:
    for config in (HYBRID, SLIDING, GEMMA):
        for dtype in ("fp32", "int4"):
            with tempfile.TemporaryDirectory() as folder:
                built = export_onnx(config, random_weights(model_of(config), 0), Path(folder), dtype=dtype)
                logits = consumers.onnx_logits(Path(folder), tokens, [PROMPT])
            yield row(config, dtype, f"onnxruntime {version('onnxruntime')}", logits, built.effective, tokens)


def pte(tokens: Array) -> Iterator[list[str]]:
    for config in (HYBRID, SLIDING):
        for dtype in ("fp32", "8da4w"):
            with tempfile.TemporaryDirectory() as folder:
                weights = random_weights(model_of(config), 0)
                built = export_pte(config, weights, Path(folder), dtype=dtype, q_len=1, context=len(tokens))
                logits = consumers.Program(Path(folder) / "decode.json").logits(tokens)
            yield row(config, dtype, f"executorch {version('executorch')}", logits, built.effective, tokens)


def gguf(tokens: Array) -> Iterator[list[str]]:
    for config in LLAMA_CPP:
        for dtype in DTYPES:
            weights = random_weights(model_of(config), 0)
            with tempfile.TemporaryDirectory() as folder:
                write_gguf(config, weights, Path(folder) / "model.gguf", dtype=dtype)
                logits, said = consumers.gguf_logits(Path(folder) / "model.gguf", tokens, PROMPT)
            stored = effective_weights(config, weights, dtype=dtype)
            with consumers.llama_rounding(dtype):
                alike = compared(logits, consumers.torch_logits(config, stored, tokens))
            consumer = f"llama-cpp-python {said.split()[0]}, {architecture(config).name}"
            yield row(config, dtype, consumer, logits, stored, tokens, f"{alike[0]}, {alike[2]}")


FORMATS = {"hf": hf, "onnx": onnx, "pte": pte, "gguf": gguf}

if __name__ == "__main__":
    main()
