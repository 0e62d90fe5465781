"""``edgeprof data``: makes the packed token shards that training reads, and shows what they hold."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprof.cli.model_options import complete_config
from edgeprof.cli.options import JsonOption
from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from edgeprof.train.data.prepare import Order

TEXT, TOKENS = "Text", "Tokens"

MAX_HELD_OUT = 0.5
"""Holding out more than is trained on is a slip of the hand."""

INTERRUPTED = "what was tokenised is kept; the same command goes on from there"


def prepare(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the data set.", show_default=False)],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCES",
            help=".txt, .md, .rst, .jsonl and .parquet files, folders of them, globs, folders that datasets saved. "
            "Default: stdlib, the documentation of Python's standard library.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="CONFIG",
            help="The model: gives the vocabulary and the special tokens.",
            autocompletion=complete_config,
            rich_help_panel=TOKENS,
        ),
    ] = None,
    vocab: Annotated[
        str | None,
        typer.Option("--vocab", metavar="N", help="Tokens in the vocabulary, as in 4096.", rich_help_panel=TOKENS),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            metavar="PATH",
            help="A tokenizer.json, or a folder with one. Default: train a byte-level BPE.",
            rich_help_panel=TOKENS,
        ),
    ] = None,
    field: Annotated[
        str,
        typer.Option("--field", metavar="NAME", help="Field or column that holds the text.", rich_help_panel=TEXT),
    ] = "text",
    split_blank_lines: Annotated[
        bool,
        typer.Option("--split-blank-lines", help="Blank lines part documents in text files.", rich_help_panel=TEXT),
    ] = False,
    held_out: Annotated[
        str,
        typer.Option(
            "--held-out",
            metavar="SHARE",
            help="Share of the text, in whole documents, kept for evaluation.",
            rich_help_panel=TEXT,
        ),
    ] = "1%",
    as_json: JsonOption = False,
) -> None:
    """Turn text into packed token shards, with a tokenizer, an index and checksums.

    An interrupted run goes on where it was. The same data and options give the same bytes.
    """
    from edgeprof.cli.progress import ProgressReporter
    from edgeprof.train.data.prepare import prepare as make
    from edgeprof.train.data.sources import STDLIB, Reading

    reading = Reading(field=field, paragraphs=split_blank_lines)
    order = _order(tuple(sources or [STDLIB]), out, config, vocab, tokenizer, held_out, reading)
    try:
        with ProgressReporter() as reporter:
            make(order, reporter)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(INTERRUPTED) from None
    _show(out, check=False, as_json=as_json)


def _order(
    sources: tuple[str, ...],
    out: Path,
    config: str | None,
    vocab: str | None,
    tokenizer: Path | None,
    held_out: str,
    reading: Any,
) -> "Order":
    """What the options ask for.

    Raises:
        UsageError: an option cannot be read, or two contradict each other.
    """
    from edgeprof.core.ranges import parse_sizes
    from edgeprof.models.config import load_config
    from edgeprof.train.data.prepare import Order
    from edgeprof.train.data.tokenizer import Specials

    arch = None if config is None else load_config(config)
    sizes = () if vocab is None else parse_sizes([vocab], field="--vocab", what="vocabulary")
    if len(sizes) > 1:
        raise UsageError(f"--vocab: {vocab} is more than one; give one size")
    if arch is not None and sizes and sizes[0] != arch.vocab:
        raise UsageError(f"--vocab: {sizes[0]} is not the vocab = {arch.vocab} of {arch.name}; leave one of them out")
    return Order(
        sources=sources,
        out=out,
        vocab=arch.vocab if arch is not None else sizes[0] if sizes else None,
        specials=Specials() if arch is None else Specials.of(arch),
        tokenizer=tokenizer,
        held_out=parse_share(held_out, field="--held-out"),
        reading=reading,
    )


def parse_share(text: str, *, field: str) -> float:
    """A share written ``1%``, ``0.01`` or ``0``.

    Raises:
        UsageError: it is none, or more than a half.
    """
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?|\.[0-9]{1,6})(\s*%)?", text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share <= MAX_HELD_OUT:
        raise UsageError(f"{field}: {text!r:.40} is no share up to {MAX_HELD_OUT:.0%}; write 1%, 0.01 or 0")
    return share


def stats(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a data set.", show_default=False)],
    check: Annotated[bool, typer.Option("--check", help="Read every file and compare its checksum.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a data set holds: documents, tokens, their lengths, and text that was lost."""
    _show(folder, check=check, as_json=as_json)


def _show(folder: Path, *, check: bool, as_json: bool) -> None:
    from edgeprof.cli.output import print_json
    from edgeprof.train.data.dataset import open_data
    from edgeprof.train.data.stats import data_stats

    document = data_stats(open_data(folder, checksums=check)) | {"checked": check}
    if as_json:
        print_json(document)
    else:
        _print(document)


def _print(document: dict[str, Any]) -> None:
    from edgeprof.cli.model_options import printable
    from edgeprof.cli.output import make_table, print_table, stdout_console

    columns = "split documents tokens shards bytes/token p10 p50 p90 longest unknown replaced"
    table = make_table(
        f"{printable(document['data'])}: {document['documents']:,} documents, {document['tokens']:,} tokens",
        columns,
        right=columns.removeprefix("split "),
    )
    for name, split in document["splits"].items():
        lengths = split["document_tokens"]
        table.add_row(
            name.replace("_", " "),
            *(f"{split[key]:,}" for key in ("documents", "tokens", "shards")),
            f"{split['bytes_per_token']:.2f}",
            *(f"{lengths[key]:,}" for key in ("p10", "p50", "p90", "max")),
            f"{split['unknown_share']:.2%}",
            f"{split['replacement_characters']:,}",
        )
    print_table(table)
    for line in _sentences(document):
        stdout_console().print(line, markup=False, soft_wrap=True)


def _sentences(document: dict[str, Any]) -> list[str]:
    """What the table has no column for."""
    from edgeprof.cli.model_options import printable
    from edgeprof.core.units import format_bytes

    tokenizer, empty = document["tokenizer"], document["empty_documents"]
    given = ", ".join(dict.fromkeys(printable(source["given"]) for source in document["sources"]))
    text = sum(split["text_bytes"] for split in document["splits"].values())
    lines = [
        f"Made of {given}: {format_bytes(text)} of text. Lengths are in tokens, the end of the document included.",
        f"Tokenizer: {tokenizer['n_ids']:,} ids for a vocabulary of {document['vocab']:,}; documents end with "
        f"{tokenizer['eos_token']}; {8 * document['token_bytes']} bits a token.",
    ]
    if empty:
        lines.append(f"{empty:,} documents without text were left out.")
    if document["checked"]:
        lines.append("Every checksum is right.")
    return lines
