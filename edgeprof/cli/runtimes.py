"""``edgeprof runtimes``: what can be measured with, and what cannot and why."""

from typing import Any

from edgeprof.cli.options import JsonOption


def runtimes(as_json: JsonOption = False) -> None:
    """Show the runtimes: versions, dtypes, why not."""
    from edgeprof.cli.output import print_json

    document = {"runtimes": describe_runtimes()}
    if as_json:
        print_json(document)
    else:
        _print(document["runtimes"])


def describe_runtimes() -> list[dict[str, Any]]:
    """Every registered runtime: its version (None if absent) and its dtypes, each with the reason why not, or None."""
    from edgeprof.runtimes.base import RUNTIMES, runtime_version

    found = []
    for name in RUNTIMES:
        runtime = RUNTIMES.get(name)
        version = runtime_version(runtime)
        dtypes = [
            {"dtype": dtype, "kv_dtype": kv_dtype, "why_not": runtime.unsupported(_probe(name, dtype, kv_dtype))}
            for dtype, kv_dtype in runtime.dtypes
        ]
        installed = None if version == "absent" else version
        found.append({"name": name, "distribution": runtime.distribution, "version": installed, "dtypes": dtypes})
    return found


def _probe(runtime: str, dtype: str, kv_dtype: str) -> Any:
    """A small decode with weights and a KV cache: what a runtime offers anywhere, it offers for this one."""
    from edgeprof.core.types import BenchCase
    from edgeprof.operators.registry import make_spec

    spec = make_spec("gqa", {"d_model": 64, "n_heads": 2, "n_kv_heads": 1, "head_dim": 32})
    return BenchCase(
        op=spec.name, op_version=spec.version, phase="decode", dims=spec.dims(), q_len=1, kv_len=8, dtype=dtype,
        kv_dtype=kv_dtype, runtime=runtime, n_threads=1, cache_state="hot",
    )  # fmt: skip


def _print(found: list[dict[str, Any]]) -> None:
    from edgeprof.cli.output import make_table, print_table

    table = make_table("", "runtime version dtypes not_here")
    for runtime in found:
        offered = [f"{d['dtype']}/{d['kv_dtype']}" for d in runtime["dtypes"] if d["why_not"] is None]
        why_not = [f"{d['dtype']}/{d['kv_dtype']}: {d['why_not']}" for d in runtime["dtypes"] if d["why_not"]]
        if runtime["version"] is None:
            why_not = [f"not installed: pip install {runtime['distribution']}"]
        table.add_row(
            runtime["name"],
            f"{runtime['distribution']} {runtime['version'] or '-'}",
            ", ".join(offered) if runtime["version"] else "-",
            "; ".join(why_not) or "-",
        )
    print_table(table)
