"""``edgeprof compare``: two devices, runtimes, formats or result sets against each other, cell by cell."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprof.cli.options import JsonOption, ResultsOption

if TYPE_CHECKING:
    from edgeprof.bench.comparison import Comparison, Pair, Selector
    from edgeprof.bench.report import Measurement

COLUMNS = "op runtime A B B/A rounds verdict"

VERDICTS = {
    "faster": "B faster",
    "slower": "B slower",
    "same": "same within noise",
    "too_few_rounds": "too few rounds",
}


def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="The base: key=value,... as in runtime=onnxruntime,dtype=int4.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="What is compared with it, likewise.")],
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two devices, runtimes or result sets.

    A and B are selectors: fields of a cell (op, runtime, dtype, kv_dtype, phase, q_len, kv_len, batch, threads, cache_state,
    ring, or a dimension such as window), and where to look: results=DIR, device=ID, session=ID. Cells that agree in
    everything else are compared, round by round where both sides share rounds.

    Ratios are B over A. This command judges and does not gate: it exits with 0 whatever the ratios say.
    """
    from edgeprof.bench.comparison import compare_sides, load_side, parse_selector
    from edgeprof.cli.output import print_json
    from edgeprof.store import results_root

    selectors = parse_selector(a, side="A"), parse_selector(b, side="B")
    root = results_root(results)
    side_a, side_b = (load_side(selector, root) for selector in selectors)
    comparison = compare_sides(side_a, side_b)
    if as_json:
        print_json(comparison_json(comparison, *selectors))
    else:
        _print(comparison, *selectors)


def comparison_json(comparison: "Comparison", a: "Selector", b: "Selector") -> dict[str, Any]:
    """The comparison as plain data: ratios are B over A, times in ns."""
    return {
        "a": a.text,
        "b": b.text,
        "pairs": [_pair_json(pair) for pair in comparison.pairs],
        "unmeasured": [{"case_key_a": x.case.key, "case_key_b": y.case.key} for x, y in comparison.unmeasured],
        "n_only_a": comparison.n_only_a,
        "n_only_b": comparison.n_only_b,
        "geometric_mean": comparison.geometric_mean,
        "n_different": comparison.count("faster", "slower"),
    }


def _pair_json(pair: "Pair") -> dict[str, Any]:
    sides = {}
    for name, device, m in (("a", pair.device_a, pair.a), ("b", pair.device_b, pair.b)):
        bounds = None if m.time is None else m.time.bounds
        sides[name] = {
            "device_id": device,
            "case_key": m.case.key,
            "case": m.case,
            "runtime_version": m.runtime_version,
            "p50_ns": m.p50_ns,
            "ci95_ns": None if bounds is None else list(bounds),
            "n_instances": len(m.instances),
            "n_rounds": len(m.rounds),
            "stable": m.stable,
        }
    ratio = pair.ratio
    return sides | {
        "ratio": ratio.estimate,
        "ratio_ci95": None if ratio.bounds is None else list(ratio.bounds),
        "paired": ratio.n_pairs > 0,
        "n_pairs": ratio.n_pairs,
        "noise_floor": pair.noise_floor,
        "verdict": pair.verdict,
    }


def _print(comparison: "Comparison", a: "Selector", b: "Selector") -> None:
    from edgeprof.cli.output import make_table, print_table, stdout_console
    from edgeprof.cli.table import group_title, op_label, runtime_label

    console = stdout_console()
    devices = {(pair.device_a, pair.device_b) for pair in comparison.pairs}
    for name, selector, ids in zip("AB", (a, b), zip(*devices, strict=True), strict=True):
        console.print(f"{name}: {selector.text} on {', '.join(sorted(set(ids)))}", soft_wrap=True)
    groups: dict[str, list[Pair]] = {}
    for pair in comparison.pairs:
        where = f"{_both(pair.device_a, pair.device_b)}: " if len(devices) > 1 else ""
        groups.setdefault(where + _both(group_title(pair.a.case), group_title(pair.b.case)), []).append(pair)
    for title, pairs in groups.items():
        table = make_table(title, COLUMNS, right="A B")
        for pair in pairs:
            labels = [_both(label(pair.a.case), label(pair.b.case)) for label in (op_label, runtime_label)]
            table.add_row(*labels, _time(pair.a), _time(pair.b), _ratio(pair), _rounds(pair), VERDICTS[pair.verdict])
        print_table(table)
    for line in sentences(comparison):
        console.print(line, soft_wrap=True)


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a} | {b}"


def _time(m: "Measurement") -> str:
    from edgeprof.cli.table import duration, spread

    assert m.time is not None
    return f"{duration(m.time.estimate)} {spread(m)}{'' if m.stable else ' unstable'}"


def _ratio(pair: "Pair") -> str:
    if pair.ratio.bounds is None:
        return f"{pair.ratio.estimate:.2f}x"
    low, high = pair.ratio.bounds
    return f"{pair.ratio.estimate:.2f}x [{low:.2f}, {high:.2f}]"


def _rounds(pair: "Pair") -> str:
    if pair.ratio.n_pairs:
        return f"paired, {pair.ratio.n_pairs}"
    return f"unpaired, {len(pair.a.rounds)} and {len(pair.b.rounds)}"


def sentences(comparison: "Comparison") -> list[str]:
    """What the pairs show together, and what is not among them."""
    pairs = comparison.pairs
    n_different, n_open = comparison.count("faster", "slower"), comparison.count("too_few_rounds")
    lines = [
        f"B takes {comparison.geometric_mean:.2f}x the time of A (geometric mean of {len(pairs)} ratios); {n_different} of "
        f"{len(pairs)} differ beyond the noise: B is faster in {comparison.count('faster')}, slower in "
        f"{comparison.count('slower')}."
    ]
    floors = sorted({pair.noise_floor for pair in pairs if pair.noise_floor is not None})
    if floors:
        span = f"{floors[0]:.1%}" if len(floors) == 1 else f"{floors[0]:.1%} to {floors[-1]:.1%}"
        lines.append(
            f"A/A noise floor: {span}, the larger one of the two sides; [ ] is the 95 % interval of the ratio."
        )
    if any(not pair.ratio.n_pairs for pair in pairs):
        lines.append("Unpaired sides share no rounds: their intervals hold the host's drift too, and are wider for it.")
    if n_open:
        lines.append(f"{n_open} pairs have too few rounds to tell: run edgeprof bench with more --effort.")
    left_out = len(comparison.unmeasured), comparison.n_only_a, comparison.n_only_b
    if any(left_out):
        lines.append("Left out: {} pairs without times on a side, {} cells only in A, {} only in B.".format(*left_out))
    return lines
