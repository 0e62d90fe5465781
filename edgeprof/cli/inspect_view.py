"""``edgeprof inspect`` for people: tables, a drawing of the state, and what the figures mean."""

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from edgeprof.cli.model_options import large_vocabulary, printable
from edgeprof.cli.output import make_table, print_table, stdout_console
from edgeprof.cli.table import duration
from edgeprof.core.units import format_bytes, format_tokens

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from edgeprof.models.config import ArchConfig

BAR_WIDTH = 32
LONG_PATTERN = 40
"""Longer patterns are written with repeats."""


def print_inspection(config: "ArchConfig", document: dict[str, Any]) -> None:
    """Prints what ``inspection`` found."""
    console = stdout_console()
    for line in _head(config, document):
        console.print(line, soft_wrap=True, markup=False)
    for table in (_parts(document), _weights(document), _tokens(document), _states(document)):
        print_table(table)
    for line in _sentences(document):
        console.print(line, soft_wrap=True, markup=False)


def short_pattern(pattern: str) -> str:
    """The pattern, written with repeats where it is long: ``G28`` for 28 times G."""
    if len(pattern) <= LONG_PATTERN:
        return pattern
    runs = ((letter, len(list(same))) for letter, same in groupby(pattern))
    return "".join(f"{letter}{count}" if count > 1 else letter for letter, count in runs)


def _head(config: "ArchConfig", document: dict[str, Any]) -> Iterator[str]:
    tied = "tied" if config.tied else "untied"
    yield (
        f"{printable(config.name)}: {short_pattern(config.pattern)}, {len(config.layers)} layers, d_model {config.d_model}, "
        f"vocabulary {config.vocab:,} ({tied}), contexts up to {format_tokens(config.max_context)}"
    )
    yield f"{document['parameters']:,} parameters, embedding share {document['embedding_share']:.2%}"
    if warning := large_vocabulary(config):
        yield warning


def _parts(document: dict[str, Any]) -> "Table":
    table = make_table("parameters", "part operators parameters share", right="operators parameters share")
    for part in document["parts"]:
        share = part.parameters / document["parameters"]
        table.add_row(part.name, str(part.count), f"{part.parameters:,}", f"{share:.2%}")
    return table


def _weights(document: dict[str, Any]) -> "Table":
    copies = any(w.tied_copy_bytes for w in document["weights"])
    columns = "weights of_them_embedding" + (" copy_of_the_tied_head" if copies else "")
    table = make_table("weights, scales included", f"format {columns}", right=columns)
    for w in document["weights"]:
        cells = [format_bytes(w.weight_bytes), f"{format_bytes(w.embedding_bytes)}"]
        copy = [f"+ {format_bytes(w.tied_copy_bytes)}" if w.tied_copy_bytes else "-"] if copies else []
        table.add_row(w.dtype, *cells, *copy)
    return table


def _tokens(document: dict[str, Any]) -> "Table":
    """What decoding a token takes: a row for each format and context."""
    floors = document["bandwidth"] is not None
    numbers = "context MFLOP state bytes" + (" floor at_most" if floors else "")
    table = make_table("decoding one token, batch 1", f"format KV {numbers}", right=numbers)
    for t in document["tokens"]:
        sizes = [f"{t['flops'] / 1e6:,.1f}", format_bytes(t["state_bytes"]), format_bytes(t["bytes_moved"])]
        table.add_row(t["dtype"], t["kv_dtype"], format_tokens(t["context"]), *sizes, *(_floor(t) if floors else []))
    return table


def _floor(token: dict[str, Any]) -> list[str]:
    if token["fits_cache"]:
        return ["-", "fits the cache"]
    rate = 1e9 / token["floor_ns"]
    return [duration(token["floor_ns"]), f"{rate:.3g} tok/s" if rate < 1000 else f"{rate:,.0f} tok/s"]


def _states(document: dict[str, Any]) -> "Table":
    """State against context: a column for each cache format, and the first of them drawn."""
    states = document["state"]
    formats = list(dict.fromkeys(s["kv_dtype"] for s in states))
    table = make_table(
        f"state, batch 1; drawn: KV {formats[0]}",
        f"context {' '.join(formats)} _",
        right=f"context {' '.join(formats)}",
    )
    largest = max(s["state_bytes"] for s in states)
    for context in dict.fromkeys(s["context"] for s in states):
        sizes = [s["state_bytes"] for s in states if s["context"] == context]
        table.add_row(format_tokens(context), *map(format_bytes, sizes), _bar(sizes[0], largest))
    return table


def _bar(value: int, largest: int) -> "RenderableType":
    """A bar in eighths of a character; nothing where there is no state at all."""
    from rich.bar import Bar

    return Bar(largest, 0, value, width=BAR_WIDTH) if largest else ""


def _sentences(document: dict[str, Any]) -> Iterator[str]:
    yield "Counted, not measured: a multiply-add is two FLOPs; bytes are what a token must move at least once."
    if any(w.tied_copy_bytes for w in document["weights"]):
        yield "Quantised formats store the tied head a second time, packed for a matrix product."
    beyond = [t["context"] for t in document["tokens"] if t["context"] > document["max_context"]]
    if beyond:
        yield f"warning: context {beyond[0]} is beyond max_context = {document['max_context']}, which this model is meant for."
    bandwidth = document["bandwidth"]
    if bandwidth is None:
        yield "No floor: no roof of this device is stored; run edgeprof bench, or give --bandwidth 84.8GB/s."
    elif not bandwidth.measured:
        yield f"Floor: these bytes over the given {bandwidth.bytes_per_s / 1e9:.4g} GB/s."
    else:
        threads = f"{bandwidth.n_threads} thread{'s' if bandwidth.n_threads != 1 else ''}"
        yield (
            f"Floor: these bytes over {bandwidth.bytes_per_s / 1e9:.3g} GB/s, the roof of {bandwidth.device_id} as measured "
            f"{bandwidth.measured_at[:10]} with {threads}."
        )
        if any(t["fits_cache"] for t in document["tokens"]):
            cache = format_bytes(bandwidth.cache_bytes)
            yield f"What fits the cache ({cache}) need not come from memory, which then sets no floor."
