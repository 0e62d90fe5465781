"""How well the search's quality proxy agrees with itself over seeds, what it takes, and the constants that it is calibrated with.

    python benchmarks/proxy.py --out proxy.jsonl

Scores a dozen layouts of eight slots with two seeds each, on one thread, and appends each score's parts to a file, so that an
interrupted run goes on. Then it prints, for each part, mean and standard deviation over layouts and the standard deviation over
seeds (``edgeprof/search/proxy_parts.py`` has those of copying from here, most others from proxy_truth.py), and for the score
Kendall's tau between the seeds' rankings.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from edgeprof.models.config import ArchConfig, make_layer
from edgeprof.operators.base import NORM_EPSILON
from edgeprof.operators.registry import make_spec
from edgeprof.search.proxy import DEFAULT_WEIGHTS, ProxyObjective
from edgeprof.search.proxy_parts import PARTS
from edgeprof.search.twin import TwinReference

WIDTH = 1024
HEADS = {"d_model": WIDTH, "n_heads": 16, "head_dim": 64}
MIXERS = {
    "C": make_spec("short_conv", {"d_model": WIDTH, "kernel_size": 3}),
    "K": make_spec("short_conv", {"d_model": WIDTH, "kernel_size": 7}),
    "S": make_spec("swa", HEADS | {"n_kv_heads": 8, "window": 512}),
    "G": make_spec("gqa", HEADS | {"n_kv_heads": 8}),
}
FFN = make_spec("swiglu", {"d_model": WIDTH, "d_ff": 4 * WIDTH})
REFERENCE = TwinReference(context=4096, d_ff_ratio=4.0)

LAYOUTS = (
    "CCGCCGCG", "CCCCCCCC", "GGGGGGGG", "SSSSSSSS", "CSCSCSCS", "CCCCCCCG",
    "GCCCCCCC", "SSSGSSSG", "CSCGCSCG", "KCGKCGKG", "GSGSGSGS", "CCSCCSCG",
)  # fmt: skip

Row = dict[str, object]


def architecture(layout: str) -> ArchConfig:
    layers = tuple(make_layer(NORM_EPSILON, False, MIXERS[letter], FFN) for letter in layout)
    return ArchConfig(name=layout, d_model=WIDTH, vocab=65_536, layers=layers)


def score(layout: str, seed: int, weights: Mapping[str, float]) -> Row:
    objective = ProxyObjective(reference=REFERENCE, weights=weights)
    begin = time.process_time()
    found = objective.score(
        architecture(layout), seed=seed, budget=objective.stage("quick"), report=lambda _step, _value: None
    )
    cpu_s = time.process_time() - begin
    return {"layout": layout, "seed": seed, "cpu_s": round(cpu_s, 2), "parts": dict(found.parts)}


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(args: argparse.Namespace) -> None:
    kinds = {part.name: part.kind for part in PARTS}
    for seed, layout in itertools.product(args.seeds, args.layouts):
        same = [r for r in read(args.out) if (r["layout"], r["seed"]) == (layout, seed)]
        done = {kinds[name] for row in same for name in row["parts"]}
        weights = {kind: float(kind in args.kinds and kind not in done) for kind in DEFAULT_WEIGHTS}
        if any(weights.values()):
            row = score(layout, seed, weights)
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def table(rows: list[dict]) -> None:
    from scipy.stats import kendalltau

    losses: dict[tuple[str, int], dict[str, float]] = {}
    seconds: dict[tuple[str, int], float] = {}
    for row in rows:
        key = row["layout"], row["seed"]
        losses.setdefault(key, {}).update(row["parts"])
        seconds[key] = seconds.get(key, 0.0) + row["cpu_s"]
    seeds = sorted({seed for _, seed in losses})
    complete = [layout for layout in LAYOUTS if all((layout, seed) in losses for seed in seeds)]
    print(f"\n{len(complete)} layouts, seeds {seeds}, {statistics.fmean(seconds.values()):.1f} CPU-s a score")
    standard: dict[str, dict[tuple[str, int], float]] = {}
    for part in PARTS:
        found = {key: loss[part.name] for key, loss in losses.items() if key[0] in complete and part.name in loss}
        if len(found) == len(complete) * len(seeds):
            standard[part.name] = summarise(part.name, found, complete, seeds)
    totals = {
        (layout, seed): sum(
            DEFAULT_WEIGHTS[p.kind] * p.worth(losses[layout, seed][p.name]) for p in PARTS if DEFAULT_WEIGHTS[p.kind]
        )
        for layout in complete
        for seed in seeds
    }
    for layout in sorted(complete, key=lambda name: -statistics.fmean(totals[name, seed] for seed in seeds)):
        print(f"{layout}  " + "  ".join(f"{totals[layout, seed]:7.3f}" for seed in seeds))
    print(f"score: sd over seeds {seed_sd(totals, complete, seeds):.3f}")
    for one, other in itertools.combinations(seeds, 2):
        for name, values in [*standard.items(), ("score", totals)]:
            tau = kendalltau([values[x, one] for x in complete], [values[x, other] for x in complete]).statistic
            print(f"tau of {name} between seeds {one} and {other}: {tau:.2f}")


def summarise(name: str, found: dict, layouts: list[str], seeds: list[int]) -> dict:
    """Prints a part's constants; returns its standardised losses."""
    means = [statistics.fmean(found[layout, seed] for seed in seeds) for layout in layouts]
    centre, scale = statistics.fmean(means), statistics.stdev(means)
    print(f"{name}: centre {centre:.4f}, scale {scale:.4f}, sd over seeds {seed_sd(found, layouts, seeds):.4f}")
    return {key: (centre - loss) / scale for key, loss in found.items()}


def seed_sd(found: dict, layouts: list[str], seeds: list[int]) -> float:
    """The spread over seeds that is a layout's own: what a seed does to all layouts alike is no noise, as they share the seed.

    That is the interaction in a two-way analysis of variance.
    """
    grand = statistics.fmean(found[x, seed] for x in layouts for seed in seeds)
    by_layout = {x: statistics.fmean(found[x, seed] for seed in seeds) for x in layouts}
    by_seed = {seed: statistics.fmean(found[x, seed] for x in layouts) for seed in seeds}
    rest = [found[x, s] - by_layout[x] - by_seed[s] + grand for x in layouts for s in seeds]
    return (sum(r * r for r in rest) / ((len(layouts) - 1) * (len(seeds) - 1))) ** 0.5


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS)
    parser.add_argument("--kinds", nargs="+", choices=list(DEFAULT_WEIGHTS), default=["text", "recall"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    run(args)
    table(read(args.out))


if __name__ == "__main__":
    main()
