"""The options that commands share, and the selection they make.

A command takes the options that pick cells by having a parameter ``selection: Selection`` and the decorator
``with_selection`` (or ``with_options`` for some of them): they are the parameters of ``make_selection`` and nowhere
else.
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeprof.bench.selection import DimValue, Selection
from edgeprof.cli.output import start_logging
from edgeprof.core.ranges import parse_sizes, split_list
from edgeprof.core.units import parse_bytes

CELLS = "What to measure"
DIMS = "Dimensions, instead of the suite's"


def operator_names() -> list[str]:
    """Names of the registered operators, without blocks and models."""
    from edgeprof.models.composite import composite_ops
    from edgeprof.operators.registry import OPERATORS

    return [name for name in OPERATORS if name not in composite_ops()]


def registered_runtimes() -> list[str]:
    """Names of the registered runtimes."""
    from edgeprof.runtimes.base import RUNTIMES

    return list(RUNTIMES)


def _registered_devices() -> list[str]:
    from edgeprof.devices.base import DEVICES

    return list(DEVICES)


def weight_dtypes() -> list[str]:
    """Names of the weight formats."""
    from edgeprof.core.dtypes import WEIGHT_DTYPES

    return list(WEIGHT_DTYPES)


def _kv_dtypes() -> list[str]:
    from edgeprof.core.dtypes import KV_ITEMSIZE

    return list(KV_ITEMSIZE)


def _suites() -> list[str]:
    from edgeprof.bench.suite import shipped_suites

    return shipped_suites()


def completer(names: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    """Completes the last of several names that are separated by commas."""

    def complete(incomplete: str) -> list[str]:
        done, comma, last = incomplete.rpartition(",")
        return [done + comma + name for name in names() if name.startswith(last)]

    return complete


def _names(flag: str, metavar: str, help_text: str, names: Callable[[], list[str]]) -> Any:
    """An option that takes names, repeatable and separated by commas."""
    return typer.Option(flag, metavar=metavar, help=help_text, autocompletion=completer(names), rich_help_panel=CELLS)


def _sizes(flag: str, help_text: str, panel: str = CELLS) -> Any:
    """An option that takes sizes and ranges of sizes, repeatable and separated by commas."""
    return typer.Option(flag, metavar="RANGE", help=help_text, rich_help_panel=panel)


Texts = list[str] | None

OpOption = Annotated[Texts, _names("--op", "OP", "Operators, as in short_conv,gqa.", operator_names)]
RuntimeOption = Annotated[Texts, _names("--runtime", "RUNTIME", "Runtimes.", registered_runtimes)]
DTypeOption = Annotated[
    Texts, _names("--dtype", "DTYPE", "Weight formats; WEIGHT/KV names the cache's too.", weight_dtypes)
]
KvDTypeOption = Annotated[Texts, _names("--kv-dtype", "DTYPE", "Formats of the KV cache.", _kv_dtypes)]
PhaseOption = Annotated[Texts, _names("--phase", "PHASE", "prefill, decode.", lambda: ["prefill", "decode"])]
CacheStateOption = Annotated[
    Texts,
    _names("--cache-state", "STATE", "hot (a loop on one load), streaming (in a ring).", lambda: ["hot", "streaming"]),
]
KvLenOption = Annotated[
    Texts, _sizes("--kv-len", "Context, new tokens included: 4096, 1k,4k or 256-32768*2. Alone: decode.")
]
QLenOption = Annotated[
    Texts, _sizes("--q-len", "New tokens of a call: 1 to 8 decode, more prefill. Alone: a full prefill.")
]
BatchOption = Annotated[Texts, _sizes("--batch", "Sequences in a batch.")]
ThreadsOption = Annotated[Texts, _sizes("--threads", "Threads, each pinned to a CPU of its own.")]
RingOption = Annotated[
    Texts,
    typer.Option(
        "--ring", metavar="SIZE", help="Working sets of streaming cells, as in 256MiB.", rich_help_panel=CELLS
    ),
]
QkNormOption = Annotated[
    bool | None, typer.Option("--qk-norm/--no-qk-norm", help="Norm queries and keys.", rich_help_panel=DIMS)
]
SuiteOption = Annotated[
    str,
    typer.Option(
        "--suite",
        metavar="NAME|FILE.toml",
        help="The cells to start from: quick, talk, lfm2-350m, lfm2-1.2b, ci, or a file.",
        autocompletion=completer(_suites),
        rich_help_panel=CELLS,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Device.",
        autocompletion=completer(_registered_devices),
        rich_help_panel=CELLS,
    ),
]
ResultsOption = Annotated[
    Path | None,
    typer.Option(
        "--results", metavar="DIR", envvar="EDGEPROF_RESULTS", help="Folder of the results.", show_default=False
    ),
]
EffortOption = Annotated[
    str,
    typer.Option("--effort", metavar="quick|normal|thorough", help="How many instances; never how they are taken."),
]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Log to stderr what is done.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def make_selection(
    op: OpOption = None,
    runtime: RuntimeOption = None,
    dtype: DTypeOption = None,
    kv_dtype: KvDTypeOption = None,
    phase: PhaseOption = None,
    kv_len: KvLenOption = None,
    q_len: QLenOption = None,
    batch: BatchOption = None,
    threads: ThreadsOption = None,
    cache_state: CacheStateOption = None,
    ring: RingOption = None,
    suite: SuiteOption = "quick",
    device: DeviceOption = "local",
    d_model: Annotated[Texts, _sizes("--d-model", "Width of the residual stream.", DIMS)] = None,
    n_heads: Annotated[Texts, _sizes("--n-heads", "Query heads.", DIMS)] = None,
    n_kv_heads: Annotated[Texts, _sizes("--n-kv-heads", "Key and value heads.", DIMS)] = None,
    head_dim: Annotated[Texts, _sizes("--head-dim", "Width of a head.", DIMS)] = None,
    window: Annotated[Texts, _sizes("--window", "Tokens that sliding-window attention sees.", DIMS)] = None,
    kernel_size: Annotated[Texts, _sizes("--kernel-size", "Taps of the short convolution.", DIMS)] = None,
    d_ff: Annotated[Texts, _sizes("--d-ff", "Width of the feed-forward.", DIMS)] = None,
    vocab: Annotated[Texts, _sizes("--vocab", "Tokens in the vocabulary.", DIMS)] = None,
    qk_norm: QkNormOption = None,
) -> Selection:
    """The selection that the options ask for; its names are checked when a plan is made of it.

    Raises:
        UsageError: a range or a size cannot be read; names the option and the fix.
    """
    dims: dict[str, tuple[DimValue, ...]] = {}
    for name, texts in (
        ("d_model", d_model),
        ("n_heads", n_heads),
        ("n_kv_heads", n_kv_heads),
        ("head_dim", head_dim),
        ("window", window),
        ("kernel_size", kernel_size),
        ("d_ff", d_ff),
        ("vocab", vocab),
    ):
        if texts is not None:
            dims[name] = parse_sizes(texts, field=f"--{name.replace('_', '-')}")
    if qk_norm is not None:
        dims["qk_norm"] = (qk_norm,)
    return Selection(
        suite=suite,
        ops=_split("--op", op),
        runtimes=_split("--runtime", runtime),
        dtypes=_split("--dtype", dtype),
        kv_dtypes=_split("--kv-dtype", kv_dtype),
        phases=_split("--phase", phase),
        q_lens=_parse("--q-len", "length", q_len),
        kv_lens=_parse("--kv-len", "length", kv_len),
        batches=_parse("--batch", "batch size", batch),
        threads=_parse("--threads", "number of threads", threads),
        cache_states=_split("--cache-state", cache_state),
        ring_bytes=None
        if ring is None
        else tuple(parse_bytes(t, field="--ring") for t in split_list(ring, field="--ring")),
        dims=dims,
        device=device,
    )


def _split(flag: str, texts: Texts) -> tuple[str, ...] | None:
    return None if texts is None else tuple(dict.fromkeys(split_list(texts, field=flag)))


def _parse(flag: str, what: str, texts: Texts) -> tuple[int, ...] | None:
    return None if texts is None else parse_sizes(texts, field=flag, what=what)


Command = Callable[..., None]


def expanded(parameter: str, maker: Callable[..., Any], *names: str) -> Callable[[Command], Command]:
    """Gives a command, in place of ``parameter``, the options that are ``maker``'s parameters (all, or those named)."""
    picked = [p for name, p in inspect.signature(maker).parameters.items() if not names or name in names]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(**kwargs: Any) -> None:
            made = maker(**{p.name: kwargs.pop(p.name) for p in picked})
            command(**{parameter: made}, **kwargs)

        own = inspect.signature(command)
        rest = [p for p in own.parameters.values() if p.name != parameter]
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*picked, *rest)]
        wrapper.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return wrapper

    return decorate


def with_options(*names: str) -> Callable[[Command], Command]:
    """Gives a command, in place of its parameter ``selection``, those options of ``make_selection`` that are named.

    It also gets ``--verbose``, so that this may stand behind the command's name too.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def logging_too(verbose: VerboseOption = False, **kwargs: Any) -> None:
            if verbose:
                start_logging(verbose)
            command(**kwargs)

        own = inspect.signature(command)
        extra = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=VerboseOption)
        logging_too.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[*(p.replace(kind=p.KEYWORD_ONLY) for p in own.parameters.values()), extra]
        )
        return expanded("selection", make_selection, *names)(logging_too)

    return decorate


with_selection = with_options(*inspect.signature(make_selection).parameters)
"""All of the options that pick cells."""
