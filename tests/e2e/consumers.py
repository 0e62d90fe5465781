"""Opens exports as their users would: with transformers, ONNX Runtime, ExecuTorch and llama.cpp, fed by hand.

Each function takes an export and token ids (T,), runs them in several calls that follow each other, and returns the logits
(T, V), or of those tokens that the export gives logits for. Nothing here comes from the code that runs the cells.
"""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from edgeprof.models.config import ArchConfig
from edgeprof.models.model import model_of
from edgeprof.models.module import Model

Array = np.ndarray[Any, Any]


def torch_logits(config: ArchConfig, weights: dict[str, Array], tokens: Array) -> Array:
    """Those of the project's own model; a tied projection that was rounded by itself is taken as a weight of its own."""
    model = Model(model_of(replace(config, tied="head.w_vocab" not in weights), all_logits=True))
    model.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in weights.items()})
    with torch.inference_mode():
        return model(torch.from_numpy(tokens)[None], model.init_state(1, len(tokens)), 0)[0].numpy()


def hf_logits(folder: Path, tokens: Array) -> Array:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(torch.from_numpy(tokens)[None]).logits[0].numpy()


def onnx_logits(folder: Path, tokens: Array, calls: Sequence[int]) -> Array:
    """A prefill in calls of these lengths, then a token a call; caches go in and come out as plain arrays."""
    import onnxruntime

    told = json.loads((folder / "signature.json").read_text())
    session = onnxruntime.InferenceSession(str(folder / told["file"]), providers=["CPUExecutionProvider"])
    sizes = {"batch": 1, "rows": len(tokens)}
    state = {
        value["name"]: np.zeros([sizes.get(n, n) for n in value["shape"]], value["dtype"])
        for value in told["inputs"]
        if value["name"] in told["states"]
    }
    tables = {
        r["input"]: getattr(np, r["table"])(_angles(r, range(len(tokens)))).astype(np.float32) for r in told["rope"]
    }
    names = [output.name for output in session.get_outputs()]
    logits, pos = [], 0
    for n in [*calls, *[1] * (len(tokens) - sum(calls))]:
        call = {
            "x": tokens[None, pos : pos + n],
            "seqlens_k": np.array([pos + n - 1], np.int32),
            "total_sequence_length": np.array(pos + n, np.int32),
            "query_seqlens": np.array([n], np.int32),
            "wanted": np.arange(n),
        } | tables | state  # fmt: skip
        results = dict(zip(names, session.run(None, {v["name"]: call[v["name"]] for v in told["inputs"]}), strict=True))
        logits.append(results[names[0]][0])
        state = {name: results[after] for name, after in told["states"].items()}
        pos += n
    return np.concatenate(logits)


class Program:
    """A .pte with its state, run by ExecuTorch's bindings."""

    def __init__(self, signature: Path) -> None:
        from edgeprof.runtimes.executorch_libraries import import_runtime

        self.told = json.loads(signature.read_text())
        bindings: Any = import_runtime()  # registers the attention kernels, and nothing else
        self._program = bindings._load_program(str(signature.with_name(self.told["file"])))  # must outlive the method
        self._method = self._program.load_method(self.told["method"])
        self.state = {s["name"]: self._method.get_attribute(s["name"]) for s in self.told["state"]}
        self.reset()

    def reset(self) -> None:
        for tensor in self.state.values():
            tensor.zero_()

    def logits(self, tokens: Array) -> Array:
        """Those of each call's last token, from a zero state."""
        self.reset()
        n = self.told["q_len"]
        return np.stack([self.run(tokens[pos : pos + n], pos) for pos in range(0, len(tokens), n)])

    def run(self, tokens: Array, pos: int) -> Array:
        """The logits of the call's last token, (V,)."""
        arrays = [_pte_input(value, self.told, tokens, pos) for value in self.told["inputs"]]
        inputs = [torch.from_numpy(a) if a.ndim else torch.tensor(a.item()) for a in arrays]  # read where they lie
        self._method.set_inputs(inputs)
        self._method.execute()
        return self._method.get_outputs()[0][0, -1].numpy().copy()


def _pte_input(value: dict[str, Any], told: dict[str, Any], tokens: Array, pos: int) -> Array:
    """An input, computed from what the signature says of it."""
    name, n = value["name"], told["q_len"]
    sizes = [int(size) for size in re.findall(r"\d+", name)]
    rope = next((r for r in told["rope"] if name in r["inputs"]), None)
    if rope is not None:
        angles = np.tile(_angles(rope, range(pos, pos + n)), 2)[:, None]
        array = (np.cos if name.startswith("cos") else np.sin)(angles).astype(np.float32)
    elif name == "x":
        array = tokens[None]
    elif name == "gqa_row":
        array = np.array(pos)
    elif name.startswith("gqa_start"):
        array = np.array(pos + n - (sizes[0] if n == 1 else n))
    elif name == "gqa_past":
        array = np.where(np.arange(value["shape"][1]) < pos, 0, -1e9)[None].astype(np.float32)
    elif name.endswith("_row"):
        array = np.array(pos % sizes[0])
    elif "_start_" in name:
        array = np.array(min(pos + 1, sizes[0]) - sizes[1])
    else:
        assert name == f"swa{sizes[0]}_past"
        array = np.where(np.arange(pos - sizes[0] + 1, pos) < 0, -1e9, 0)[None].astype(np.float32)
    assert list(array.shape) == value["shape"]
    return array.copy()


def _angles(rope: dict[str, Any], positions: range) -> Array:
    return np.outer(positions, rope["theta"] ** (-np.arange(0, rope["head_dim"], 2) / rope["head_dim"]))


LLAMA_PYTHON = "EDGEPROF_LLAMA_PYTHON"
"""Names the variable with an interpreter that has llama_cpp, where this one has not."""

LLAMA_SCRIPT = """
import sys, llama_cpp, numpy as np
path, tokens, prompt, out = sys.argv[1:]
tokens, prompt, fp32 = np.load(tokens).tolist(), int(prompt), llama_cpp.GGML_TYPE_F32
llama = llama_cpp.Llama(
    path, n_ctx=len(tokens) + 8, logits_all=True, verbose=False, n_threads=1, type_k=fp32, type_v=fp32, flash_attn=False
)
llama.eval(tokens[:prompt])
for token in tokens[prompt:]:
    llama.eval([token])
np.save(out, llama.scores[: len(tokens)])
print(llama_cpp.__version__, llama.tokenize(b"Hi!!", add_bos=False))
"""


@functools.cache
def llama_python() -> str | None:
    """An interpreter that can import llama_cpp, or None."""
    for python in filter(None, (os.environ.get(LLAMA_PYTHON), sys.executable)):
        if subprocess.run([python, "-c", "import llama_cpp"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def gguf_logits(path: Path, tokens: Array, prompt: int) -> tuple[Array, str]:
    """A prefill of ``prompt`` tokens, then a token a call, with caches in F32; and what llama.cpp says of itself.

    In a process of its own: llama.cpp ends the process where a model is not as it expects.
    """
    python = llama_python()
    assert python is not None
    with tempfile.TemporaryDirectory() as scratch:
        given, out = Path(scratch) / "tokens.npy", Path(scratch) / "logits.npy"
        np.save(given, tokens)
        command = [python, "-c", LLAMA_SCRIPT, str(path), str(given), str(prompt), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return np.load(out), done.stdout.strip()


@contextmanager
def llama_rounding(dtype: str) -> Iterator[None]:
    """Makes torch's linear layers round their inputs as llama.cpp's kernels do: to Q8_0 for quantised weights, or to F16."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    kind = GGMLQuantizationType["Q8_0" if dtype.startswith("Q") else dtype]
    linear = F.linear

    def rounded(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rows = np.ascontiguousarray(x.numpy().reshape(-1, x.shape[-1]))
        return linear(torch.from_numpy(dequantize(quantize(rows, kind), kind)).view(x.shape), weight)

    F.linear = rounded
    try:
        yield
    finally:
        F.linear = linear
