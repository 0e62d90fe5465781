"""Whole models as files for a runtime's own users: the runtime's build, and beside it a JSON that says how to feed it."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgeprof.core.errors import UsageError
from edgeprof.core.types import ArtifactSpec, BenchCase
from edgeprof.models.config import ArchConfig
from edgeprof.models.model import ModelSpec, model_of
from edgeprof.runtimes.artifact import artifact_spec
from edgeprof.runtimes.base import RUNTIMES, Built

if TYPE_CHECKING:
    from edgeprof.operators.arrays import Weights

logger = logging.getLogger(__name__)

SIGNATURE_FILE = "signature.json"

_ONNX_INPUTS = (
    ("x", "token ids"),
    ("seqlens_k", "for each sequence: tokens so far, this run's included, less 1"),
    ("total_sequence_length", "the longest sequence: tokens so far, this run's included"),
    ("query_seqlens", "for each sequence: tokens of this run"),
    ("wanted", "which of this run's tokens get logits: [-1] the last one, [] none, 0 .. tokens - 1 all"),
    (r"rope_(cos|sin)_.*", "\\1 of position * theta^(-2i/head_dim), i < head_dim/2, a row a position of the cache"),
)  # fmt: skip

_PTE_INPUTS = (
    (r"(cos|sin)_.*", "\\1 of position * theta^(-2i/head_dim), i < head_dim/2, twice over; a row for each token of the call"),
    ("gqa_row", "position of the call's first token"),
    (r"gqa_start_(\d+)", "position of the call's last token + 1, less {queries}"),
    ("gqa_past", "0 for rows below the first token's position, else -1e9"),
    (r"swa(\d+)_row", "position modulo \\1"),
    (r"swa(\d+)_start_(\d+)", "the lesser of position + 1 and \\1, less \\2"),
    (r"swa(\d+)_rows_\d+", "each token's position modulo (\\1 + q_len - 1), for every KV head"),
    (r"swa(\d+)_mask_\d+", "0 where a row's position is one of the \\1 up to the token's own, else -1e9; for every query head"),
    (r"swa(\d+)_past", "-1e9 for those of the \\1 - 1 positions before the call that are negative, else 0"),
)  # fmt: skip
"""Patterns of inputs' names and what each holds, as ``Form.inputs`` computes it."""


def export_onnx(config: ArchConfig, weights: "Weights", folder: Path, *, dtype: str) -> Built:
    """Writes model.onnx, weights.bin and signature.json. They serve any batch, number of tokens and context.

    Raises:
        UsageError: ONNX Runtime cannot run the model in this format.
    """
    spec = _spec(config, "onnxruntime", dtype=dtype)
    built = RUNTIMES.get(spec.runtime).build(model_of(config), spec, weights, folder)
    _write(folder / SIGNATURE_FILE, _onnx_signature(config, folder / built.files["model"], spec))
    return built


def export_pte(config: ArchConfig, weights: "Weights", folder: Path, *, dtype: str, q_len: int, context: int) -> Built:
    """Writes a .pte that runs ``q_len`` tokens a call onto a past, for contexts of up to ``context``, and its JSON.

    Raises:
        UsageError: ExecuTorch cannot run the model in this format.
    """
    spec = _spec(config, "executorch", dtype=dtype, q_len=q_len, context=context)
    stem = pte_stem(q_len)
    with TemporaryDirectory(dir=folder) as building, _libraries_quiet():
        built = RUNTIMES.get(spec.runtime).build(model_of(config), spec, weights, Path(building))
        (Path(building) / built.files["model"]).rename(folder / f"{stem}.pte")
        told = json.loads((Path(building) / built.files["signature"]).read_text())
    _write(folder / f"{stem}.json", _pte_signature(config, told, spec, f"{stem}.pte"))
    return built


@contextmanager
def _libraries_quiet() -> Iterator[None]:
    """Drops what torch and torchao log while they are imported: kernels of GPUs that they miss."""
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def pte_stem(q_len: int) -> str:
    """The name of a .pte without its suffix."""
    return "decode" if q_len == 1 else f"prefill_{q_len}"


def check_model(config: ArchConfig, runtime: str, *, dtype: str) -> None:
    """Checks that a runtime can run the model in a format.

    Raises:
        UsageError: it cannot.
    """
    reason = RUNTIMES.get(runtime).unsupported(_case(model_of(config), runtime, dtype=dtype, q_len=1, context=2))
    if reason is not None:
        raise UsageError(f"config: {reason}; change the config or --dtype")


def _spec(config: ArchConfig, runtime: str, *, dtype: str, q_len: int = 1, context: int = 2) -> ArtifactSpec:
    """The artifact of a whole model for calls onto a past; its capacity is exactly ``context`` where the runtime has one.

    Raises:
        UsageError: the runtime cannot run it.
    """
    check_model(config, runtime, dtype=dtype)
    spec = artifact_spec(_case(model_of(config), runtime, dtype=dtype, q_len=q_len, context=context))
    return replace(spec, capacity=context if spec.capacity else 0)


def _case(model: ModelSpec, runtime: str, *, dtype: str, q_len: int, context: int) -> BenchCase:
    return BenchCase(
        op=model.name,
        op_version=model.version,
        phase="decode",
        dims=model.dims(),
        q_len=q_len,
        kv_len=context,
        dtype=dtype,
        kv_dtype="fp32",
        runtime=runtime,
        n_threads=1,
        cache_state="hot",
    )


def _onnx_signature(config: ArchConfig, path: Path, spec: ArtifactSpec) -> dict[str, Any]:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    told = {p.key: json.loads(p.value) for p in model.metadata_props}
    states: dict[str, str] = told["states"]
    inputs = [_onnx_value(v) for v in model.graph.input]
    for entry in inputs:
        name = entry["name"]
        is_state = name in states
        entry["meaning"] = f"zeros at first, then {states[name]}" if is_state else _meaning(name, _ONNX_INPUTS)
    return {
        "format": "onnx",
        "file": path.name,
        "model": config.name,
        "dtype": spec.dtype,
        "inputs": inputs,
        "outputs": [_onnx_value(v) for v in model.graph.output],
        "states": states,
        "rope": [
            {"input": name, "table": kind, "head_dim": size, "theta": theta}
            for name, (kind, size, theta) in told["rope"].items()
        ],
        "tokens_per_run": told["tokens_per_run"],
        "notes": [
            f"made for ONNX Runtime {spec.runtime_version}: uses operators of its own domain com.microsoft",
            "rows is the longest context: the caller allocates caches of that many rows",
            "a state's output may be bound to its input's memory, which saves copying it",
            "more than tokens_per_run tokens are faster as several runs in a row",
        ],
    }


def _onnx_value(value: Any) -> dict[str, Any]:
    import onnx

    kind = value.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return {"name": value.name, "dtype": dtype, "shape": [d.dim_param or d.dim_value for d in kind.shape.dim]}


def _pte_signature(config: ArchConfig, told: dict[str, Any], spec: ArtifactSpec, file: str) -> dict[str, Any]:
    inputs = [{"name": "x", "dtype": "int64", "shape": [spec.batch, spec.q_len], "meaning": "token ids"}]
    for entry in told["inputs"]:
        group = entry["name"].rpartition("_")[2]
        queries = group if spec.q_len == 1 else str(spec.q_len)
        inputs.append(entry | {"meaning": _meaning(entry["name"], _PTE_INPUTS).replace("{queries}", queries)})
    return {
        "format": "pte",
        "file": file,
        "model": config.name,
        "method": "forward",
        "dtype": spec.dtype,
        "q_len": spec.q_len,
        "context": spec.capacity,
        "inputs": inputs,
        "rope": _pte_rope(config, {entry["name"] for entry in told["inputs"]}),
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [spec.batch, 1, config.vocab]}],
        "state": list(_pte_state(config, told["state"], spec)),
        "notes": [
            f"made for ExecuTorch {spec.runtime_version} with XNNPACK; attention needs its llama::custom_sdpa kernels",
            "the state lies in the program's mutable buffers: fill it with zeros before the first call",
        ],
    }


def _pte_rope(config: ArchConfig, names: set[str]) -> list[dict[str, Any]]:
    """The exact sizes and bases of the rotations, whose inputs' names round them."""
    from edgeprof.operators.executorch_form import rope_names

    mixers = (layer.mixer.dims() for layer in config.layers)
    pairs = dict.fromkeys((int(m["head_dim"]), float(m["rope_theta"])) for m in mixers if "rope_theta" in m)
    assert names >= {name for size, theta in pairs for name in rope_names(size, theta)}
    return [{"inputs": rope_names(size, theta), "head_dim": size, "theta": theta} for size, theta in pairs]


def _pte_state(config: ArchConfig, told: list[dict[str, Any]], spec: ArtifactSpec) -> Iterator[dict[str, Any]]:
    from edgeprof.operators.executorch_form import call_shape

    is_decode = call_shape(spec).is_decode
    for entry in told:
        found = re.search(r"layers\.(\d+)\.", entry["name"])
        assert found is not None
        mixer = config.layers[int(found[1])].mixer
        match mixer.name:
            case "gqa":
                meaning = "position p in row p, KV heads in the first axis"
            case "swa" if is_decode:
                meaning = f"position p in row p modulo {entry['shape'][1]}, KV heads in the first axis"
            case "swa":
                meaning = "the last positions in order, KV heads in the first axis"
            case _:
                meaning = "the last gated inputs in order"
        yield entry | {"meaning": meaning}


def _meaning(name: str, patterns: tuple[tuple[str, str], ...]) -> str:
    for pattern, meaning in patterns:
        found = re.fullmatch(pattern, name)
        if found:
            return found.expand(meaning)
    raise AssertionError(f"input {name} has no description")


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n")
