"""Weight files: safetensors by this project's names, or a Hugging Face folder. A pickle is never opened: it can run code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeprof.core.errors import UsageError
from edgeprof.models.config import ArchConfig, config_to_json
from edgeprof.models.hf_config import parse_hf_config, read_hf_config
from edgeprof.models.hf_weights import NOT_TEXT, from_hf, head_tensor, sources, text_prefix
from edgeprof.models.model import model_of
from edgeprof.models.schema import clipped, read_document
from edgeprof.operators.arrays import Array, Weights

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

DTYPES = ("F32", "BF16", "F16", "F64")
"""Formats of tensors that are read; others are quantised, or no weights."""


class TensorFiles:
    """The tensors of one or more safetensors files, read one by one.

    Raises:
        UsageError: a file is missing, truncated or no safetensors.
    """

    def __init__(self, path: Path, files: list[Path]) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        self._where: dict[str, Any] = {}
        for file in files:
            try:
                opened: Any = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise UsageError(f"{file}: cannot be read as safetensors: {clipped(error)}") from None
            self._where |= dict.fromkeys(opened.keys(), opened)

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._where)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Checks that a tensor is there, of this shape and of a format that is read.

        Raises:
            UsageError: names the tensor.
        """
        if name not in self._where:
            raise UsageError(f"{self.path}: {name}: is missing; the model needs it, shape {shape}")
        tensor = self._where[name].get_slice(name)
        if tuple(tensor.get_shape()) != shape:
            raise UsageError(f"{self.path}: {name}: shape {tuple(tensor.get_shape())}; the model needs {shape}")
        if tensor.get_dtype() not in DTYPES:
            raise UsageError(
                f"{self.path}: {name}: format {tensor.get_dtype()} cannot be read; use {', '.join(DTYPES)}"
            )

    def read(self, name: str, rows: slice = slice(None)) -> Array:
        """Rows of a tensor in fp32, in memory of their own."""
        import torch

        array: Array = self._where[name].get_slice(name)[rows].to(torch.float32, copy=True).numpy()
        return array


def load_weights(path: Path, config: ArchConfig) -> Weights:
    """The model's weights in fp32 by name, from a safetensors file by these names or from a Hugging Face folder.

    Raises:
        UsageError: a file is missing, truncated, pickled, or of another model: names the tensor.
    """
    if path.is_dir() and (path / "config.json").is_file():
        return _load_hf(path, config)
    tensors = TensorFiles(path, _files(path))
    if f"{text_prefix(tensors.names())}embed_tokens.weight" in tensors.names():
        raise UsageError(f"{path}: has Hugging Face's names; name the folder that holds it with its config.json")
    shapes = {name: weight.shape for name, weight in model_of(config).weights().items()}
    for name, shape in shapes.items():
        tensors.check(name, shape)
    _refuse_others(tensors, tensors.names() - set(shapes))
    return {name: tensors.read(name) for name in shapes}


def save_weights(weights: Weights, path: Path) -> None:
    """Writes weights as safetensors.

    Raises:
        UsageError: the file cannot be written.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: np.ascontiguousarray(w) for n, w in weights.items()}, path, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: cannot be written: {clipped(error)}") from None


def check_weights(weights: Weights, config: ArchConfig) -> None:
    """Checks that these are the weights of this model.

    Raises:
        UsageError: names one that is missing, too many, or of another shape.
    """
    shapes = {name: weight.shape for name, weight in model_of(config).weights().items()}
    for name in sorted(set(shapes) | set(weights)):
        if name not in weights:
            raise UsageError(f"weights: {name}: is missing; the model needs it, shape {shapes[name]}")
        if name not in shapes:
            raise UsageError(f"weights: {name}: is no weight of this model; leave it out or correct the configuration")
        if weights[name].shape != shapes[name]:
            raise UsageError(f"weights: {name}: shape {weights[name].shape}; the model needs {shapes[name]}")


def _load_hf(folder: Path, config: ArchConfig) -> Weights:
    _same_model(read_hf_config(folder), config, folder / "config.json")
    _, hf = parse_hf_config(folder)
    tensors = TensorFiles(folder, _files(folder))
    prefix = text_prefix(tensors.names())
    found = sources(config, hf, prefix)
    for source in found.values():
        tensors.check(source.tensor, source.shape)
    others = tensors.names() - {source.tensor for source in found.values()}
    head = head_tensor(prefix)
    if config.tied and head in others:
        _check_tied(tensors, head, found["embedding.table"].tensor)
        others.remove(head)
    _refuse_others(tensors, {n for n in others if not n.startswith(NOT_TEXT) and not n.endswith("rotary_emb.inv_freq")})
    return from_hf(found, tensors.read)


def _check_tied(tensors: TensorFiles, head: str, table: str) -> None:
    """Checks that a projection that is stored although it is tied is the embedding's table."""
    import numpy as np

    if not np.array_equal(tensors.read(head), tensors.read(table)):
        raise UsageError(f"{tensors.path}: {head}: differs from {table}, but tie_word_embeddings is true; correct one")


def _refuse_others(tensors: TensorFiles, others: set[str]) -> None:
    if others:
        name = clipped(min(others), 120)
        raise UsageError(f"{tensors.path}: {name}: is no weight of this model; is it the weights' own configuration?")


def _same_model(theirs: ArchConfig, ours: ArchConfig, file: Path) -> None:
    """Checks that the folder's configuration computes what ours does; token ids and longest context aside."""
    if config_to_json(theirs) == config_to_json(ours):
        return
    field, their, our = next(_differences(theirs, ours))
    raise UsageError(f"{file}: {field}: {their}, but the configuration says {our}: the weights are another model's")


def _differences(theirs: ArchConfig, ours: ArchConfig) -> Iterator[tuple[str, Any, Any]]:
    for name in ("d_model", "vocab", "tied", "norm_eps", "embedding_scale", "sandwich_norm"):
        their, our = getattr(theirs, name), getattr(ours, name)
        if their != our:
            yield name, their, our
    if len(theirs.layers) != len(ours.layers):
        yield "layers", len(theirs.layers), len(ours.layers)
    for index, layers in enumerate(zip(theirs.layers, ours.layers, strict=False)):
        for part in ("mixer", "ffn"):
            their, our = (getattr(layer, part) for layer in layers)
            if their != our:
                yield f"layers[{index}].{part}", f"{their.name} {their.dims()}", f"{our.name} {our.dims()}"


def _files(path: Path) -> list[Path]:
    """The safetensors files that ``path`` is or holds, shards by their index.

    Raises:
        UsageError: there are none, or the index is wrong.
    """
    if not path.is_dir():
        if any(path.match(pattern) for pattern in PICKLES):
            raise UsageError(f"{path}: is a pickle, which can run code; convert it to safetensors")
        if not path.is_file():
            raise UsageError(f"{path}: no such file or folder; name a .safetensors file or a Hugging Face folder")
        return [path]
    if (path / WEIGHTS_FILE).is_file():
        return [path / WEIGHTS_FILE]
    if (path / INDEX_FILE).is_file():
        return _shards(path / INDEX_FILE)
    if any(file for pattern in PICKLES for file in path.glob(pattern)):
        raise UsageError(f"{path}: holds pickled weights only, which can run code; convert them to {WEIGHTS_FILE}")
    raise UsageError(f"{path}: holds no {WEIGHTS_FILE} and no {INDEX_FILE}")


def _shards(index: Path) -> list[Path]:
    document = read_document(index, "")
    table = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(table, dict) or not table:
        raise UsageError(f"{index}: weight_map: is no table of tensors and files")
    names = sorted({str(name) for name in table.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UsageError(f"{index}: weight_map: {clipped(name)} is no safetensors file in this folder")
    return [index.parent / name for name in names]
