"""Does the quick quality proxy order layouts as a training of ten times its budget does?

Sixteen layouts of eight slots that nothing was calibrated on. The long training is of the final stage's tasks, which are longer
and wider than the quick ones, and it counts with its last losses; the proxy counts with the means that it is scored by. Rows go
to a file, so that an interrupted run goes on. Then: Kendall's tau with a bootstrap interval over layouts, tau between the long
training's own seeds, the share of pairs that are ordered right among those that truly differ (by more than half of a standard
deviation over layouts), and what counting parameters or FLOPs would say.

    python benchmarks/proxy_truth.py --out truth.jsonl [--layouts 16] [--seeds 0 1]
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import numpy as np
from proxy import LAYOUTS, MIXERS, REFERENCE, architecture, read
from scipy.stats import kendalltau

from edgeprof.models.accounting import parameters
from edgeprof.models.model import model_of
from edgeprof.search.proxy import DEFAULT_WEIGHTS
from edgeprof.search.proxy_parts import PARTS
from edgeprof.search.twin_training import TwinTraining

SLOTS = 8
STAGES = {"proxy": "quick", "long": "final"}
TRULY = 0.5


def fresh_layouts(n: int) -> list[str]:
    rng = np.random.default_rng(7)
    found: dict[str, None] = {}
    while len(found) < n:
        layout = "".join(rng.choice(list(MIXERS), SLOTS, p=[0.4, 0.1, 0.25, 0.25]))
        if layout not in LAYOUTS:
            found[layout] = None
    return list(found)


def losses(layout: str, what: str, seed: int) -> dict[str, float]:
    """By part the mean loss of all segments, or the last one's of the long training."""
    found = {}
    for part in PARTS[STAGES[what]]:
        if DEFAULT_WEIGHTS[part.kind]:
            told = list(
                TwinTraining(
                    architecture(layout), part.recipe, part.make_batch, reference=REFERENCE, name=part.name, seed=seed
                ).segments()
            )
            found[part.name] = told[-1] if what == "long" else statistics.fmean(told)
    return found


def measure(args: argparse.Namespace) -> None:
    for seed, layout, what in itertools.product(args.seeds, fresh_layouts(args.layouts), STAGES):
        if any((r["layout"], r["what"], r["seed"]) == (layout, what, seed) for r in read(args.out)):
            continue
        begin = time.process_time()
        found = losses(layout, what, seed)
        row = {"layout": layout, "what": what, "seed": seed, "losses": found, "cpu_s": time.process_time() - begin}
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def scores(rows: list[dict], what: str, layouts: list[str], seed: int) -> np.ndarray:
    """Each kind's standardised losses, better ones higher, with the proxy's weights; parts of a kind share its weight."""
    of = {r["layout"]: r["losses"] for r in rows if r["what"] == what and r["seed"] == seed}
    total = np.zeros(len(layouts))
    parts = [part for part in PARTS[STAGES[what]] if DEFAULT_WEIGHTS[part.kind]]
    for part in parts:
        values = np.array([of[layout][part.name] for layout in layouts])
        same_kind = sum(other.kind == part.kind for other in parts)
        total -= DEFAULT_WEIGHTS[part.kind] * (values - values.mean()) / values.std(ddof=1) / same_kind
    return total


def tell(rows: list[dict]) -> None:
    seeds = sorted({r["seed"] for r in rows})
    done = [{r["layout"] for r in rows if (r["seed"], r["what"]) == key} for key in itertools.product(seeds, STAGES)]
    layouts = sorted(set.intersection(*done))
    seconds = {w: statistics.fmean(r["cpu_s"] for r in rows if r["what"] == w) for w in STAGES}
    print(f"\n{len(layouts)} layouts, seeds {seeds}; CPU-seconds a training: {seconds}")
    truth = np.mean([scores(rows, "long", layouts, seed) for seed in seeds], axis=0)
    if len(seeds) > 1:
        pair = [scores(rows, "long", layouts, seed) for seed in seeds[:2]]
        print(f"long training, tau between its seeds: {kendalltau(*pair).statistic:.2f}")
    models = [model_of(architecture(layout)) for layout in layouts]
    rivals = {
        "parameters": np.array([parameters(architecture(layout)) for layout in layouts], dtype=float),
        "FLOPs": np.array([m.flops(batch=1, q_len=1, kv_len=REFERENCE.context) for m in models], dtype=float),
    }
    for name, score in [*((f"proxy, seed {s}", scores(rows, "proxy", layouts, s)) for s in seeds), *rivals.items()]:
        print(f"{name}: tau {kendalltau(score, truth).statistic:.2f} {interval(score, truth)}, {right(score, truth)}")
    both = np.mean([scores(rows, "proxy", layouts, seed) for seed in seeds], axis=0)
    print(
        f"proxy, mean of seeds: tau {kendalltau(both, truth).statistic:.2f} {interval(both, truth)}, {right(both, truth)}"
    )


def interval(score: np.ndarray, truth: np.ndarray, n: int = 2000) -> str:
    """The middle 95 % of tau over resampled layouts; pairs of a layout with itself are ties."""
    rng = np.random.default_rng(0)
    found = [kendalltau(score[i], truth[i]).statistic for i in rng.integers(0, len(truth), (n, len(truth)))]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return f"({low:.2f} to {high:.2f})"


def right(score: np.ndarray, truth: np.ndarray) -> str:
    apart = [
        (i, j)
        for i, j in itertools.combinations(range(len(truth)), 2)
        if abs(truth[i] - truth[j]) > TRULY * truth.std(ddof=1)
    ]
    good = sum((score[i] - score[j]) * (truth[i] - truth[j]) > 0 for i, j in apart)
    return f"{good} of {len(apart)} pairs that truly differ in the right order ({good / len(apart):.1%})"


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layouts", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--read", action="store_true", help="only tell what is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.read:
        measure(args)
    tell(read(args.out))


if __name__ == "__main__":
    main()
