"""``edgeprof export``: a model as the files that its users' programs open."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprof.cli.options import JsonOption, completer
from edgeprof.core.errors import UsageError
from edgeprof.core.ranges import MAX_SIZE, parse_sizes
from edgeprof.core.registry import did_you_mean
from edgeprof.models.gguf import DTYPES as GGUF_DTYPES

if TYPE_CHECKING:
    from edgeprof.cli.progress import ProgressReporter
    from edgeprof.models.config import ArchConfig
    from edgeprof.operators.arrays import Weights

PTE_CONTEXT = 4096
"""Context of a .pte unless told otherwise: its caches are allocated whole when it is loaded."""

MOST_CALL_TOKENS = 4096
"""Longest call of a .pte; longer prompts are several calls."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""What a folder of Hugging Face weights says about text; it goes along into an exported folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to export: ``folder`` is where the weights came from, ``q_lens`` the tokens of a .pte's calls."""

    config: "ArchConfig"
    weights: "Weights"
    dtype: str
    folder: Path | None
    q_lens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A target: its weight formats, the first by default; how it is checked and written; a file by which it is known.

    ``mark`` is None where the export is a file itself.
    """

    dtypes: tuple[str, ...]
    check: Callable[["ArchConfig", str], None]
    write: Callable[[Order, Path, "ProgressReporter"], list[str]]
    mark: str | None


def _formats() -> list[str]:
    return list(FORMATS)


ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="A preset's name, or a .toml or .json file.")]
ToOption = Annotated[
    str,
    typer.Option("--to", metavar="hf|onnx|pte|gguf", help="What to write.", autocompletion=completer(_formats)),
]
OutOption = Annotated[Path, typer.Option("--out", metavar="PATH", help="Folder to write, or the file of a gguf.")]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="DIR|FILE", help="Safetensors, or a folder of them; without, random.", show_default=False
    ),
]
DTypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="hf: fp32. onnx: fp32, int4. pte: fp32, 8da4w. gguf: F16, Q8_0, Q4_0, F32. The first unless given.",
        show_default=False,
    ),
]
ContextOption = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="N",
        min=2,
        max=MAX_SIZE,
        help=f"Longest context: the config's unless given, at most {PTE_CONTEXT} for pte.",
        show_default=False,
    ),
]
QLenOption = Annotated[
    list[str] | None,
    typer.Option("--q-len", metavar="N", help="pte: tokens of a call, as in 1,128: a file each.", show_default="1"),
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of random weights.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an earlier export.")]


def export(
    config: ConfigArgument,
    to: ToOption,
    out: OutOption,
    weights: WeightsOption = None,
    dtype: DTypeOption = None,
    context: ContextOption = None,
    q_len: QLenOption = None,
    seed: SeedOption = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model for Hugging Face, ONNX Runtime, ExecuTorch or llama.cpp.

    hf is a folder for AutoModelForCausalLM, onnx a graph with its caches as inputs and outputs, pte one program for each
    length of call, gguf one file. A signature.json says how to feed a graph or a program. Without --weights the weights are
    random.
    """
    from edgeprof.cli.output import print_json
    from edgeprof.cli.progress import ProgressReporter

    if to not in FORMATS:
        raise UsageError(f"--to: {to!r} is no format; {did_you_mean(to, list(FORMATS))}")
    target = FORMATS[to]
    chosen = _dtype(dtype, to)
    check_replaceable(out, mark=target.mark, force=force)
    order = make_order(config, to=to, weights=weights, dtype=chosen, context=context, q_len=q_len, seed=seed)
    try:
        with ProgressReporter() as reporter, whole(out, is_folder=target.mark is not None) as building:
            notes = target.write(order, building, reporter)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was written") from None
    files = [{"path": str(p), "bytes": p.stat().st_size} for p in _files(out)]
    document = {
        "config": config,
        "to": to,
        "dtype": chosen,
        "out": str(out),
        "context": order.config.max_context,
        "weights": "random" if weights is None else str(weights),
        "seed": seed if weights is None else None,
        "files": files,
        "bytes": sum(int(str(f["bytes"])) for f in files),
        "notes": notes,
    }
    if as_json:
        print_json(document)
    else:
        _print(document)


def _dtype(asked: str | None, to: str) -> str:
    """The format's own spelling of the dtype asked for, or its first.

    Raises:
        UsageError: the format has no such dtype.
    """
    known = FORMATS[to].dtypes
    if asked is None:
        return known[0]
    spelled = {name.lower(): name for name in known}
    if asked.lower() not in spelled:
        raise UsageError(f"--dtype: {asked!r} is none of {to}'s; use {', '.join(known)}")
    return spelled[asked.lower()]


def make_order(
    config: str,
    *,
    to: str,
    weights: Path | None,
    dtype: str,
    context: int | None,
    q_len: list[str] | None,
    seed: int,
) -> Order:
    """Reads the config and the weights, or makes random ones.

    Raises:
        UsageError: an option, the config or the weights are wrong.
    """
    if q_len is not None and to != "pte":
        raise UsageError(f"--q-len: is for pte; one {to} export takes calls of any length")
    q_lens = parse_sizes(q_len or ["1"], field="--q-len", what="length of call", maximum=MOST_CALL_TOKENS)
    from edgeprof.models.config import load_config
    from edgeprof.models.model import model_of

    arch = load_config(config)
    arch = replace(arch, max_context=context or min(arch.max_context, PTE_CONTEXT if to == "pte" else arch.max_context))
    if max(q_lens) >= arch.max_context:
        raise UsageError(
            f"--q-len: a call of {max(q_lens)} does not fit a context of {arch.max_context}; use a longer --context"
        )
    FORMATS[to].check(arch, dtype)
    if weights is None:
        from edgeprof.operators.arrays import random_weights

        values = random_weights(model_of(arch), seed)
    else:
        from edgeprof.models.weights import load_weights

        values = load_weights(weights, arch)
    folder = None if weights is None else weights if weights.is_dir() else weights.parent
    return Order(config=arch, weights=values, dtype=dtype, folder=folder, q_lens=q_lens)


def _check_hf(config: "ArchConfig", dtype: str) -> None:
    from edgeprof.models.hf import hf_document

    hf_document(config)


def _check_onnx(config: "ArchConfig", dtype: str) -> None:
    from edgeprof.runtimes.export import check_model

    check_model(config, "onnxruntime", dtype=dtype)


def _check_pte(config: "ArchConfig", dtype: str) -> None:
    from edgeprof.runtimes.export import check_model

    check_model(config, "executorch", dtype=dtype)


def _check_gguf(config: "ArchConfig", dtype: str) -> None:
    from edgeprof.models.gguf_architecture import architecture

    architecture(config)


def _write_hf(order: Order, out: Path, reporter: "ProgressReporter") -> list[str]:
    from edgeprof.models.hf import save_hf

    reporter.stage("write", 1)
    save_hf(order.config, order.weights, out)
    copied = [name for name in TOKENIZER_FILES if order.folder is not None and (order.folder / name).is_file()]
    for name in copied:
        assert order.folder is not None
        shutil.copyfile(order.folder / name, out / name)
    reporter.step("safetensors")
    return [f"copied {', '.join(copied)}" if copied else "no tokenizer: the folder holds the model only"]


def _write_onnx(order: Order, out: Path, reporter: "ProgressReporter") -> list[str]:
    from edgeprof.runtimes.export import export_onnx

    reporter.stage("write", 1)
    export_onnx(order.config, order.weights, out, dtype=order.dtype)
    reporter.step("graph and weights")
    return ["for ONNX Runtime: uses operators of its own domain com.microsoft; signature.json says how to feed it"]


def _write_pte(order: Order, out: Path, reporter: "ProgressReporter") -> list[str]:
    from edgeprof.runtimes.export import export_pte, pte_stem

    reporter.stage("lower", len(order.q_lens))
    notes = []
    for q_len in order.q_lens:
        built = export_pte(
            order.config, order.weights, out, dtype=order.dtype, q_len=q_len, context=order.config.max_context
        )
        reporter.step(pte_stem(q_len))
        share = "" if built.delegated_share is None else f"; XNNPACK takes {built.delegated_share:.0%} of its operators"
        notes.append(f"{pte_stem(q_len)}.pte: contexts of up to {order.config.max_context}{share}")
    return notes


def _write_gguf(order: Order, out: Path, reporter: "ProgressReporter") -> list[str]:
    from edgeprof.models.gguf import count_tensors, write_gguf

    reporter.stage("write", count_tensors(order.config))
    return write_gguf(
        order.config, order.weights, out, dtype=order.dtype, tokenizer=order.folder, on_tensor=reporter.step
    )


FORMATS = {
    "hf": Format(dtypes=("fp32",), check=_check_hf, write=_write_hf, mark="config.json"),
    "onnx": Format(dtypes=("fp32", "int4"), check=_check_onnx, write=_write_onnx, mark="model.onnx"),
    "pte": Format(dtypes=("fp32", "8da4w"), check=_check_pte, write=_write_pte, mark="*.pte"),
    "gguf": Format(dtypes=GGUF_DTYPES, check=_check_gguf, write=_write_gguf, mark=None),
}


def check_replaceable(out: Path, *, mark: str | None, force: bool) -> None:
    """Checks, before any work is done, that the export may be written; ``mark`` is a file that folders of its kind hold.

    A folder is replaced whole, so it must be one that an export made: plain files, the mark among them.

    Raises:
        UsageError: it may not.
    """
    from edgeprof.cli.files import check_target

    if mark is None or not out.is_dir():
        if out.exists() and mark is not None:
            raise UsageError(f"--out: {out} is a file; give a folder's name")
        check_target(out, field="--out", force=force)
        return
    if not force:
        raise UsageError(f"--out: {out} exists; choose another name, or replace an earlier export with --force")
    entries = list(out.iterdir())
    if out.is_symlink() or any(not p.is_file() for p in entries) or (entries and not any(out.glob(mark))):
        raise UsageError(f"--out: {out} is no earlier export of this kind, and --force replaces nothing else")


@contextmanager
def whole(out: Path, *, is_folder: bool) -> Iterator[Path]:
    """A place beside ``out`` that takes its name when the context ends well, and is gone if it does not.

    Raises:
        UsageError: the file system refuses.
    """
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name[:100]}.") as scratch:
            building = Path(scratch) / "new"
            if is_folder:
                building.mkdir()
            yield building
            if is_folder and out.exists():
                out.rename(Path(scratch) / "old")
            building.replace(out)
    except OSError as error:
        raise UsageError(f"--out: {out} cannot be written ({error.strerror or error}); choose another place") from None


def _files(out: Path) -> list[Path]:
    return sorted(out.iterdir()) if out.is_dir() else [out]


def _print(document: dict[str, Any]) -> None:
    from rich.markup import escape

    from edgeprof.cli.output import make_table, print_table, stdout_console
    from edgeprof.core.units import format_bytes

    source = "random weights" if document["weights"] == "random" else f"weights of {document['weights']}"
    if document["seed"] is not None:
        source += f" (seed {document['seed']}): nothing was learnt"
    title = f"{document['config']} as {document['to']} {document['dtype']}, {source}; {format_bytes(document['bytes'])}"
    table = make_table(escape(title), "file size", right="size")
    for file in document["files"]:
        table.add_row(escape(file["path"]), format_bytes(file["bytes"]))
    print_table(table)
    console = stdout_console()
    for note in document["notes"]:
        console.print(note, soft_wrap=True, markup=False)
