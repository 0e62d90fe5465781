"""Does the quality proxy order fresh layouts as a training of ten times its budget does, and is the best one chosen at the end?

Sixteen layouts of eight slots that nothing was calibrated on. The truth of a layout is a twin that is wider, sees longer
sequences and trains for longer than any stage of the proxy: its held-out loss on two texts (the proxy's own kind, and the
standard library's source code, which the proxy never sees) and on recall of more keys. Rows go to a file, so that an interrupted
run goes on, and several processes with seeds of their own may share it.

    python benchmarks/proxy_truth.py --out truth.jsonl [--layouts 16] [--seeds 0 1]      measures, then tells
    python benchmarks/proxy_truth.py --out benchmarks/proxy_truth.jsonl --read           tells what is committed: seven CPU-hours
"""

import argparse
import itertools
import json
import statistics
import sysconfig
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from proxy import LAYOUTS, MIXERS, REFERENCE, architecture, read
from scipy.stats import kendalltau

from edgeprof.models.accounting import parameters
from edgeprof.models.config import ArchConfig
from edgeprof.models.model import model_of
from edgeprof.search.proxy import DEFAULT_WEIGHTS, STAGES
from edgeprof.search.proxy_parts import PARTS
from edgeprof.search.tasks import Batch, Ids, recall, text_windows
from edgeprof.search.text import VOCAB, built_in_corpus, corpus_of
from edgeprof.search.twin import TwinSize
from edgeprof.search.twin_training import Recipe, TwinTraining, batch_loss

SLOTS = 8
ROUNDS = ("init", "quick", "long", "long recall")
"""What is trained of each layout and seed: nothing, a score with one seed, the truth, and more of the truth's recall, as when a
layout learns that is partly luck."""

TRULY = 0.5
"""Layouts differ truly if their truths do by more than this many standard deviations over layouts."""

CODE_CHARACTERS = 2_000_000
N_KEYS = 24
TEXT = Recipe(
    size=TwinSize(d_model=96, vocab=VOCAB, tokens=256),
    batch=4, steps=600, learning_rate=4e-3, decay=0.3, embedding_sd=0.15,
)  # fmt: skip
RECALL = Recipe(
    size=TwinSize(d_model=48, vocab=2 * N_KEYS, tokens=128),
    batch=16, steps=700, learning_rate=4e-3, decay=0.3, embedding_sd=0.1,
)  # fmt: skip
TRUTHS = {"docs": ("docs", "recall"), "code": ("code", "recall"), "both": ("docs", "code", "recall")}
HELD_OUT_BATCHES = 32


def fresh_layouts(n: int) -> list[str]:
    rng = np.random.default_rng(7)
    found: dict[str, None] = {}
    while len(found) < n:
        layout = "".join(rng.choice(list(MIXERS), SLOTS, p=[0.4, 0.1, 0.25, 0.25]))
        if layout not in LAYOUTS:
            found[layout] = None
    return list(found)


def source_code() -> str:
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return "\n\n".join(path.read_text(encoding="utf-8") for path in paths)[:CODE_CHARACTERS]


def windows(stream: Ids) -> Callable[[np.random.Generator], Batch]:
    return partial(text_windows, stream=stream, batch=TEXT.batch, tokens=TEXT.size.tokens)


def long_losses(config: ArchConfig, seed: int, wanted: Sequence[str] = ("docs", "code", "recall")) -> dict[str, float]:
    """Held-out losses in nats after the long trainings."""
    docs, code = built_in_corpus(), corpus_of(source_code())
    pairs = partial(recall, batch=RECALL.batch, tokens=RECALL.size.tokens, n_keys=N_KEYS)
    plan = {
        "docs": (TEXT, windows(docs.train), windows(docs.held_out)),
        "code": (TEXT, windows(code.train), windows(code.held_out)),
        "recall": (RECALL, pairs, pairs),
    }
    return {name: long_loss(config, *plan[name], name=name, seed=seed) for name in wanted}


def long_loss(
    config: ArchConfig, recipe: Recipe, train: Callable, held_out: Callable, *, name: str, seed: int
) -> float:
    import torch

    training = TwinTraining(config, recipe, train, reference=REFERENCE, name=f"long {name}", seed=seed)
    for _ in training.segments():
        pass
    rng = np.random.default_rng(12345)
    with torch.no_grad():
        return statistics.fmean(batch_loss(training.model, held_out(rng)).item() for _ in range(HELD_OUT_BATCHES))


def score_losses(config: ArchConfig, seed: int) -> dict[str, float]:
    """By part the mean training loss that a score is made of."""
    found = {}
    for part in PARTS:
        if DEFAULT_WEIGHTS[part.kind]:
            training = TwinTraining(
                config, part.recipe, part.make_batch, reference=REFERENCE, name=part.name, seed=seed
            )
            found[part.name] = statistics.fmean(training.segments())
    return found


def gradient_norm(config: ArchConfig, seed: int) -> dict[str, float]:
    """The zero-cost rival: the gradient's norm before any training, of one batch of the proxy's text.

    Source: grad_norm of Abdelfattah et al., arXiv 2101.08134, section 3.2.
    """
    import torch

    part = PARTS[0]
    training = TwinTraining(config, part.recipe, part.make_batch, reference=REFERENCE, name=part.name, seed=seed)
    torch.autograd.backward(batch_loss(training.model, part.make_batch(np.random.default_rng(seed))))
    norms = [p.grad.norm() for p in training.model.parameters() if p.grad is not None]
    return {"gradient norm": float(torch.stack(norms).norm())}


def losses(layout: str, what: str, seed: int) -> dict[str, float]:
    config = architecture(layout)
    if what == "init":
        return gradient_norm(config, seed)
    if what == "long recall":
        return long_losses(config, seed, ["recall"])
    return long_losses(config, seed) if what == "long" else score_losses(config, seed)


def measure(args: argparse.Namespace) -> None:
    for what, layout, seed in itertools.product(args.rounds, fresh_layouts(args.layouts), args.seeds):
        if any((r["layout"], r["what"], r["seed"]) == (layout, what, seed) for r in read(args.out)):
            continue
        begin = time.process_time()
        found = losses(layout, what, seed)
        row = {"layout": layout, "what": what, "seed": seed, "losses": found, "cpu_s": time.process_time() - begin}
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


class Rows:
    """What was measured. ``layouts`` have the truth of ``seeds``; the rest counts with the seeds that all these layouts have."""

    def __init__(self, rows: list[dict]) -> None:
        self.of = {(r["what"], r["layout"], r["seed"]): r["losses"] for r in rows}
        self.cpu_s = {w: statistics.fmean(r["cpu_s"] for r in rows if r["what"] == w) for w in ROUNDS if self._has(w)}
        self.seeds = sorted({seed for what, _, seed in self.of if what == "long"})
        tried = dict.fromkeys(r["layout"] for r in rows)
        self.layouts = [x for x in tried if all(("long", x, seed) in self.of for seed in self.seeds)]

    def _has(self, what: str) -> bool:
        return any(one == what for one, _, _ in self.of)

    def seeds_of(self, what: str) -> list[int]:
        """The seeds for which all layouts have it."""
        tried = sorted({seed for one, _, seed in self.of if one == what})
        return [seed for seed in tried if all((what, layout, seed) in self.of for layout in self.layouts)]

    def loss(self, what: str, part: str, seed: int) -> np.ndarray:
        """A part's loss in nats, by layout."""
        return np.array([self.of[what, layout, seed][part] for layout in self.layouts])

    def long(self, part: str) -> list[np.ndarray]:
        """A long training's held-out losses, by seed and layout; recall has more seeds than texts."""
        found = [self.loss("long", part, seed) for seed in self.seeds]
        more = self.seeds_of("long recall") if part == "recall" else []
        return found + [self.loss("long recall", part, seed) for seed in more]

    def truth(self, name: str, half: int | None = None) -> np.ndarray:
        """Standardised held-out losses, better ones higher, of all seeds or of a half; recall weighs as much as all texts do."""
        parts = TRUTHS[name]
        total = np.zeros(len(self.layouts))
        for part in parts:
            mean = np.mean(self.long(part)[slice(half, None, 1 if half is None else 2)], axis=0)
            total -= (mean - mean.mean()) / mean.std(ddof=1) * (1.0 if part == "recall" else 1 / (len(parts) - 1))
        return total

    def scores(self) -> np.ndarray:
        """As the search scores, with the proxy's own constants: (seeds, layouts)."""
        parts = [part for part in PARTS if DEFAULT_WEIGHTS[part.kind]]
        return np.array(
            [
                sum(DEFAULT_WEIGHTS[p.kind] * p.worth(self.loss("quick", p.name, seed)) for p in parts)
                for seed in self.seeds_of("quick")
            ]
        )


def tell(rows: Rows) -> None:
    seconds = ", ".join(f"{what} {cpu_s:.1f}" for what, cpu_s in rows.cpu_s.items())
    print(f"\n{len(rows.layouts)} layouts; CPU-seconds a layout and seed: {seconds}")
    if not rows.layouts:
        return
    for part in ("docs", "code", "recall"):
        losses = rows.long(part)
        mean = np.mean(losses, axis=0)
        print(f"long {part}, {len(losses)} seeds: {mean.min():.3f} to {mean.max():.3f} nats, {spreads(losses)}")
    for p in PARTS:
        if DEFAULT_WEIGHTS[p.kind]:  # what edgeprof/search/proxy_parts.py holds
            losses = [rows.loss("quick", p.name, seed) for seed in rows.seeds_of("quick")]
            print(f"{p.name}, {len(losses)} seeds: centre {np.mean(losses):.4f}, {spreads(losses)}")
    for name in TRUTHS:
        truth, scores = rows.truth(name), rows.scores()
        print(f"\ntruth: {' + '.join(TRUTHS[name])}")
        print(f"  {'one half of its seeds':24s} {agreement(rows.truth(name, 0), rows.truth(name, 1))}")
        for stage in STAGES:
            if stage.seeds <= len(scores):
                print(f"  {f'{stage.name}, {stage.seeds} seeds':24s} {typical(scores, stage.seeds, truth)}")
        for rival, score in sizes(rows):
            print(f"  {rival:24s} {agreement(score, truth)}")
        print(f"  {chosen(rows, name)}")


def spreads(losses: Sequence[np.ndarray]) -> str:
    """Standard deviations over layouts of the mean, and over seeds of what is a layout's own."""
    own = np.array(losses) - np.mean(losses, axis=1, keepdims=True) - np.mean(losses, axis=0) + np.mean(losses)
    over_seeds = np.sqrt((own**2).sum() / (len(losses) - 1) / (len(losses[0]) - 1))
    return f"sd over layouts {np.mean(losses, axis=0).std(ddof=1):.4f}, over seeds {over_seeds:.4f}"


def typical(scores: np.ndarray, n_seeds: int, truth: np.ndarray, n: int = 200) -> str:
    """The agreement of the mean score of so many seeds: by all seeds in turn, and how far it moves with the choice of seeds."""
    rng = np.random.default_rng(0)
    drawn = [scores[rng.choice(len(scores), n_seeds, replace=False)].mean(axis=0) for _ in range(n)]
    taus = np.array([kendalltau(score, truth).statistic for score in drawn])
    middle = drawn[int(np.argsort(taus)[n // 2])]
    return f"{agreement(middle, truth)}; sd of tau over seeds {taus.std():.2f}"


def sizes(rows: Rows) -> list[tuple[str, np.ndarray]]:
    configs = [architecture(layout) for layout in rows.layouts]
    flops = [model_of(config).flops(batch=1, q_len=1, kv_len=REFERENCE.context) for config in configs]
    found = [
        ("parameters", np.array([parameters(config) for config in configs], dtype=float)),
        ("FLOPs", np.array(flops, dtype=float)),
        ("attention layers", np.array([sum(c in "SG" for c in layout) for layout in rows.layouts], dtype=float)),
    ]
    norms = [rows.loss("init", "gradient norm", seed) for seed in rows.seeds_of("init")]
    if norms:
        found.append(("gradient norm", np.mean(norms, axis=0)))
    return found


def agreement(score: np.ndarray, truth: np.ndarray, n: int = 2000) -> str:
    """Kendall's tau with the middle 95 % over resampled layouts, and the share of truly different pairs in the right order."""
    rng = np.random.default_rng(0)
    found = [kendalltau(score[i], truth[i]).statistic for i in rng.integers(0, len(truth), (n, len(truth)))]
    low, high = np.nanquantile(found, [0.025, 0.975])
    apart = [
        (i, j)
        for i, j in itertools.combinations(range(len(truth)), 2)
        if abs(truth[i] - truth[j]) > TRULY * truth.std(ddof=1)
    ]
    good = sum((score[i] - score[j]) * (truth[i] - truth[j]) > 0 for i, j in apart)
    tau = kendalltau(score, truth).statistic
    pairs = f"{good} of {len(apart)} ({good / len(apart):.1%})"
    return f"tau {tau:5.2f} ({low:5.2f} to {high:5.2f}), pairs in the right order {pairs}"


def chosen(rows: Rows, name: str, n: int = 2000, n_few: int = 5, n_candidates: int = 12) -> str:
    """Searches over some of the layouts: the best few by one seed, the best of them by the final stage's other seeds.

    A tie with the best: the truths of the two differ by no more than twice the standard error of their difference, as the
    halves of the long trainings' seeds tell it.
    """
    rng = np.random.default_rng(0)
    truth, scores = rows.truth(name), rows.scores()
    apart = rows.truth(name, 0) - rows.truth(name, 1)
    se = np.sqrt(2) * np.std(apart, ddof=1) / 2
    n_final = min(STAGES[-1].seeds, len(scores) - 1)
    n_best, n_tied, without = 0, 0, 0
    for _ in range(n):
        candidates = rng.choice(len(truth), min(n_candidates, len(truth)), replace=False)
        first, *others = rng.permutation(len(scores))[: n_final + 1]
        few = sorted(candidates, key=lambda i: -scores[first][i])[:n_few]
        second = scores[others].mean(axis=0)
        pick, best = max(few, key=lambda i: second[i]), truth[candidates].max()
        n_best += truth[pick] == best
        n_tied += best - truth[pick] <= 2 * se
        without += best - truth[few[0]] <= 2 * se
    return (
        f"searches of {n_candidates} layouts, the best {n_few} scored with {n_final} more seeds: the truth's best chosen in "
        f"{n_best / n:.1%}, it or a tie (within {2 * se:.2f}; sd over layouts {truth.std(ddof=1):.2f}) in {n_tied / n:.1%}; "
        f"without the second stage {without / n:.1%}"
    )


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layouts", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", nargs="+", choices=ROUNDS, default=ROUNDS)
    parser.add_argument("--read", action="store_true", help="only tell what is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.read:
        measure(args)
    tell(Rows(read(args.out)))


if __name__ == "__main__":
    main()
