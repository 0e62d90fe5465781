"""``edgeprof ops``: the operators, and what they cost on paper."""

from dataclasses import MISSING, fields
from typing import Annotated, Any

import typer

from edgeprof.bench.selection import Selection
from edgeprof.cli.options import JsonOption, completer, operator_names, with_options

DEFAULT_KV_LENS = (4096,)


@with_options(
    "kv_len", "q_len", "batch", "dtype", "kv_dtype", "suite",
    "d_model", "n_heads", "n_kv_heads", "head_dim", "window", "kernel_size", "d_ff", "vocab", "qk_norm",
)  # fmt: skip
def ops(
    selection: Selection,
    name: Annotated[
        str | None, typer.Argument(help="One operator.", metavar="NAME", autocompletion=completer(operator_names))
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the operators: dimensions, FLOPs, bytes, state.

    Counted, not measured: FLOPs count a multiply-add as two, bytes are what a call must move at least once.
    Dimensions are the suite's unless given.
    """
    from edgeprof.cli.output import print_json

    document = {"operators": describe_operators(name, selection)}
    if as_json:
        print_json(document)
    else:
        _print(document["operators"], details=name is not None)


def describe_operators(name: str | None, selection: Selection) -> list[dict[str, Any]]:
    """One operator, or all single ones: meaning, dimensions, forms, and costs at the selected dims and lengths.

    Raises:
        UsageError: a name is unknown or a dimension does not fit.
    """
    from edgeprof.bench.plan import check_dims_used, check_names, specs_of
    from edgeprof.bench.suite import load_suite
    from edgeprof.operators.registry import OPERATORS

    check_names(selection)
    names = [OPERATORS.check(name)] if name else operator_names()
    check_dims_used(selection, set(names))
    suite_dims = load_suite(selection.suite).dims
    return [
        {
            "name": op,
            "version": OPERATORS.get(op).version,
            "meaning": OPERATORS.get(op).meaning,
            "dims": [
                {"name": f.name, "default": None if f.default is MISSING else f.default}
                for f in fields(OPERATORS.get(op))
            ],
            "forms": {"torch": OPERATORS.get(op).module, **OPERATORS.get(op).forms},
            "costs": [row for spec in specs_of(op, suite_dims, selection.dims) for row in _costs(spec, selection)],
        }
        for op in names
    ]


def _costs(spec: Any, selection: Selection) -> list[dict[str, Any]]:
    """What a call costs, for every combination of lengths, batch and formats."""
    from itertools import product

    from edgeprof.bench.plan import default_kv_dtype
    from edgeprof.bench.suite import length_pairs, split_dtype

    q_lens, kv_lens = selection.q_lens, selection.kv_lens
    if q_lens is None:
        q_lens, kv_lens = (1,), kv_lens or DEFAULT_KV_LENS
    lengths = length_pairs("prefill", q_lens, kv_lens)
    rows = []
    for (q_len, kv_len), batch, name in product(lengths, selection.batches or (1,), selection.dtypes or ("fp32",)):
        dtype, named_kv = split_dtype(name)
        for kv_dtype in (named_kv,) if named_kv else selection.kv_dtypes or (default_kv_dtype(dtype),):
            call = {"batch": batch, "q_len": q_len, "kv_len": kv_len}
            rows.append(
                {
                    "dims": spec.dims(),
                    **call,
                    "dtype": dtype,
                    "kv_dtype": kv_dtype,
                    "params": spec.params(),
                    "flops": spec.flops(**call),
                    "bytes_moved": spec.bytes_moved(**call, dtype=dtype, kv_dtype=kv_dtype),
                    "weight_bytes": spec.weight_bytes(dtype),
                    "state_bytes": spec.state_bytes(batch=batch, kv_len=kv_len, kv_dtype=kv_dtype),
                }
            )
    return rows


CALL_COLUMNS = ("batch", "q_len", "kv_len", "dtype", "kv_dtype")


def _print(operators: list[dict[str, Any]], details: bool) -> None:
    """Prints a row for each cost; what is the same in every row stands above the table instead."""
    from edgeprof.cli.output import make_table, print_table, stdout_console

    rows = [(op, row) for op in operators for row in op["costs"]]
    varying = [c for c in CALL_COLUMNS if len({row[c] for _, row in rows}) > 1]
    same = [f"{c} {rows[0][1][c]}" for c in CALL_COLUMNS if c not in varying]
    dims = _varying_dims(operators)
    if details:
        _print_details(operators[0], stdout_console())
    numbers = "batch q_len kv_len params MFLOP bytes_moved state"
    columns = ["operator", *(["dims"] if dims else []), *varying, "params MFLOP bytes_moved state"]
    title = f"one call: {', '.join(same)}; counted, not measured"
    table = make_table(title, " ".join([*columns, *([] if details else ["meaning"])]), right=numbers)
    for op, row in rows:
        own_dims = [_dims_text({n: v for n, v in row["dims"].items() if n in dims})] if dims else []
        meaning = [] if details else [op["meaning"]]
        table.add_row(op["name"], *own_dims, *(str(row[c]) for c in varying), *_cost_texts(row), *meaning)
    print_table(table)


def _varying_dims(operators: list[dict[str, Any]]) -> set[str]:
    """Names of the dimensions that have several values within an operator."""
    firsts = [(op["costs"][0]["dims"], row["dims"]) for op in operators for row in op["costs"]]
    return {name for first, dims in firsts for name, value in dims.items() if value != first.get(name)}


def _print_details(op: dict[str, Any], console: Any) -> None:
    defaults = [d["name"] + (f" = {d['default']}" if d["default"] is not None else "") for d in op["dims"]]
    console.print(f"{op['name']} (version {op['version']}): {op['meaning']}", soft_wrap=True)
    console.print(f"dimensions: {', '.join(defaults)}", soft_wrap=True)
    console.print(f"here: {_dims_text(op['costs'][0]['dims'])}", soft_wrap=True)
    for runtime, where in op["forms"].items():
        console.print(f"form for {runtime}: {where}", soft_wrap=True)


def _dims_text(dims: dict[str, Any]) -> str:
    return " ".join(f"{name}={str(v).lower() if isinstance(v, bool) else format(v, 'g')}" for name, v in dims.items())


def _cost_texts(row: dict[str, Any]) -> list[str]:
    from edgeprof.core.units import format_bytes

    sizes = [format_bytes(row[c]) for c in ("bytes_moved", "state_bytes")]
    return [f"{row['params']:,}", f"{row['flops'] / 1e6:,.3f}", *sizes]
