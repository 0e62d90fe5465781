"""Prediction error over layouts that the measuring did not see, and what a user would otherwise rank by.

    python benchmarks/prediction.py --runtime onnxruntime --dtype int4 --out rows.jsonl     # measure, then print
    python benchmarks/prediction.py --read rows.jsonl ...                                  # print what was measured

Every layout's whole model is measured in the same processes as rings of its distinct blocks (paired); from the second run with
the same results folder on, rows from the earlier run's cells (another process, another time) are added.
"""

import argparse
import json
import math
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from scipy import stats

from edgeprof.bench.protocol import MS, protocol_for
from edgeprof.bench.run import run_bench, run_rings
from edgeprof.cli.progress import ProgressReporter
from edgeprof.core.types import BenchCase
from edgeprof.devices.base import DEVICES, fingerprint
from edgeprof.models.config import ArchConfig, config_of_pattern, from_file
from edgeprof.models.model import model_of
from edgeprof.models.schema import parse_document
from edgeprof.operators.residual.spec import ResidualSpec
from edgeprof.predict.evidence import Conditions
from edgeprof.predict.history import append_history, error_model
from edgeprof.predict.plan import cell_case
from edgeprof.predict.predict import Knowledge
from edgeprof.predict.types import ModelCall, Target, VerifyRow
from edgeprof.predict.verify import verify_calls, verify_rings, verify_rows
from edgeprof.store import Store

VOCAB = 16_384


def layout(name: str, pattern: str, width: int, d_ff: int, heads: int, kv: int, **dims: int) -> ArchConfig:
    own = {"kernel_size": 3, "window": 256, "head_dim": 64, "n_heads": heads, "n_kv_heads": kv, "d_ff": d_ff} | dims
    return config_of_pattern(pattern, own, name=name, d_model=width, vocab=VOCAB)


def with_widths(config: ArchConfig, name: str, widths: list[int]) -> ArchConfig:
    """The same mixers with another feed-forward in each layer."""
    from edgeprof.models.block import describe_part

    layers = [
        {"mixer": describe_part(layer.mixer), "ffn": {"op": "swiglu", "d_ff": d_ff}}
        for layer, d_ff in zip(config.layers, widths, strict=True)
    ]
    document = {"schema_version": 1, "d_model": config.d_model, "vocab": config.vocab, "layers": layers}
    return from_file(parse_document(document, name), name, default_name=name)


LAYOUTS = [
    layout("conv-8", "C" * 8, 512, 1408, 8, 2),
    layout("gqa-8", "G" * 8, 512, 1408, 8, 2),
    layout("swa-8", "S" * 8, 512, 1408, 8, 2),
    layout("mixed-8", "CCGCCSCG", 512, 1408, 8, 2),
    layout("lfm-like-8", "CCGCCGCG", 640, 1792, 10, 2),
    layout("deep-thin-20", "CCG" * 6 + "CC", 256, 704, 4, 1),
    layout("shallow-wide-3", "CGS", 1024, 2816, 16, 4),
    with_widths(layout("base", "CGCSCG", 512, 1408, 8, 2), "ffn-widths-6", [704, 2048, 704, 1408, 2048, 704]),
    layout("swa-gqa-6", "SSGSSG", 640, 1792, 10, 5, window=512),
    layout("mha-4", "GGGG", 512, 2048, 8, 8),
    layout("k7-6", "CCCGCC", 768, 2048, 12, 4, kernel_size=7),
    layout("small-gqa-6", "G" * 6, 384, 1024, 6, 2),
]
SLOW = ["conv-8", "mixed-8", "shallow-wide-3", "small-gqa-6"]


def measure(args: argparse.Namespace) -> list[VerifyRow]:
    device = DEVICES.get("local")
    environment = device.environment()
    store = Store(args.results)
    chosen = [c for c in LAYOUTS if args.only is None or c.name in args.only]
    targets = [
        Target(config=c, runtime=args.runtime, dtype=args.dtype, kv_dtype="fp32", n_threads=args.threads)
        for c in chosen
    ]
    calls = verify_calls(args.context, args.prompt)
    protocol = replace(protocol_for("quick"), rounds=args.rounds, time_budget_ns=50 * MS)
    rows: list[VerifyRow] = []
    for target in targets:
        with ProgressReporter() as reporter:
            run = run_rings(
                verify_rings([target], calls),
                device=device,
                store=store,
                protocol=protocol,
                reporter=reporter,
                fresh=True,
            )
        for key, reason in run.failed.items():
            print(target.config.name, key, reason)
        device_id = device.profile().id
        known = Knowledge(
            device_id=device_id,
            records=store.records(device_id),
            history=(),
            corrected=False,
            conditions=Conditions(fingerprint=fingerprint(environment)),
        )
        found = verify_rows([target], calls, known, run.session_id)
        append_history(args.results / device_id, found)
        rows += found
        with args.out.open("a") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in found)
        for row in found:
            print(one_line(row), flush=True)
    return rows


def hot_cases(target: Target, call: ModelCall) -> list[BenchCase]:
    """The bare operators of a model, each timed in a loop on one load: what a table of operators offers to add up."""
    model = model_of(target.config)
    residual = ResidualSpec(d_model=target.config.d_model)
    specs = [*model.leaves(), *[residual] * (2 * len(target.config.layers))]
    cases = []
    for spec in specs:
        q_len = 1 if spec.name == "head" else call.q_len
        cases.append(replace(cell_case(target, call, spec), q_len=q_len, cache_state="hot"))
    return cases


def hot_sums(args: argparse.Namespace) -> None:
    """Adds up hot operators for every verified row of the runtime and format, and says how far off that is."""
    device, store = DEVICES.get("local"), Store(args.results)
    rows = [VerifyRow(**json.loads(line)) for path in args.read for line in path.read_text().splitlines()]
    errors: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rows:
        if not row.paired or row.phase == "memory" or row.dtype != args.dtype or row.runtime != args.runtime:
            continue
        if row.context not in args.context + args.prompt:
            continue
        config = next(c for c in LAYOUTS if c.name == row.config)
        target = Target(config=config, runtime=row.runtime, dtype=row.dtype, kv_dtype="fp32", n_threads=row.n_threads)
        q_len = 1 if row.phase == "decode" else row.context
        cases = hot_cases(target, ModelCall(phase=row.phase, q_len=q_len, kv_len=row.context))
        with ProgressReporter() as reporter:
            report = run_bench(
                list({c.key: c for c in cases}.values()),
                device=device,
                store=store,
                protocol=replace(protocol_for("quick"), rounds=args.rounds),
                reporter=reporter,
            )
        p50 = {m.case.key: m.p50_ns for m in report.measurements if m.p50_ns is not None}
        total = sum(p50[c.key] for c in cases)
        errors[row.phase, row.context].append(total / row.measured_ns - 1)
        print(f"hot sum {row.config:16} {row.phase} {row.context} {total / row.measured_ns - 1:+.1%}", flush=True)
    for (phase, context), found in errors.items():
        print("hot sum", phase, context, "|", len(found), "|", quantiles([abs(e) for e in found]))


def one_line(row: VerifyRow) -> str:
    spread = "" if row.aa_spread is None else f"{row.aa_spread:6.1%}"
    covered = "in" if row.lo_ns <= row.measured_ns <= row.hi_ns else "OUT"
    kind = "paired" if row.paired else "stored"
    return (
        f"{row.config:16} {row.runtime:12} {row.dtype:6} {row.n_threads} {row.phase:8} {row.context:5} {kind} "
        f"{row.predicted_ns / 1e6:9.3f} {row.measured_ns / 1e6:9.3f} {row.signed_error:+7.1%} A/A {spread:>6} "
        f"width {(row.hi_ns - row.lo_ns) / row.predicted_ns:6.1%} {covered} {'; '.join(row.warnings)}"
    )


def key_of(row: VerifyRow) -> tuple[object, ...]:
    return row.runtime, row.dtype, row.n_threads, row.phase, row.paired


def quantiles(values: list[float]) -> str:
    return f"{np.quantile(values, 0.5):6.1%} {np.quantile(values, 0.9):6.1%}"


def tau(rows: list[VerifyRow], score: str) -> float:
    """Kendall's tau of a score with the measured time, over the layouts, averaged over contexts."""
    by_call: dict[int, list[VerifyRow]] = defaultdict(list)
    for row in rows:
        by_call[row.context].append(row)
    found = [
        stats.kendalltau([getattr(r, score) for r in same], [r.measured_ns for r in same]).statistic
        for same in by_call.values()
        if len(same) > 2
    ]
    return float(np.mean(found)) if found else math.nan


def tell(rows: list[VerifyRow]) -> None:
    print(
        "\nruntime dtype threads phase paired | rows | error p50 p90 | A/A p50 p90 | tau: predicted params FLOPs | covered width"
    )
    for key, same in sorted(_grouped(rows).items(), key=str):
        spread = [r.aa_spread for r in same if r.aa_spread is not None]
        covered = np.mean([r.lo_ns <= r.measured_ns <= r.hi_ns for r in same])
        width = np.median([(r.hi_ns - r.lo_ns) / r.predicted_ns for r in same])
        columns = (
            f"{len(same):3}",
            quantiles([abs(r.signed_error) for r in same]),
            quantiles(spread) if spread else "-",
            " ".join(f"{tau(same, score):5.2f}" for score in ("predicted_ns", "parameters", "flops")),
            f"{covered:.0%} {width:.1%}",
        )
        print(*key, "|", " | ".join(columns))
    leave_one_out(rows)


def leave_one_out(rows: list[VerifyRow]) -> None:
    """Each layout predicted with the error history of the others: correction off and on."""
    print("\nleave one layout out: correction | error p50 p90 | covered width")
    for corrected in (False, True):
        for key, same in sorted(_grouped(rows).items(), key=str):
            if key[3] == "memory":
                continue
            left_out = [predicted_without(row, same, corrected=corrected) for row in same]
            errors = [
                abs(math.exp(centre) / row.measured_ns - 1) for row, (centre, _) in zip(same, left_out, strict=True)
            ]
            covered = np.mean(
                [abs(math.log(row.measured_ns) - c) <= half for row, (c, half) in zip(same, left_out, strict=True)]
            )
            width = np.median([2 * math.sinh(half) for _, half in left_out])
            print(*key, "on " if corrected else "off", "|", quantiles(errors), "|", f"{covered:.0%} {width:.1%}")


def predicted_without(row: VerifyRow, rows: list[VerifyRow], *, corrected: bool) -> tuple[float, float]:
    """The logarithm of the prediction and its half-width, had only the other layouts been verified."""
    kind = {"runtime": row.runtime, "dtype": row.dtype, "phase": row.phase, "paired": row.paired}
    prior = error_model([], **kind)
    others = error_model(rows, **kind, corrected=corrected, without=row.config_hash)
    measuring = math.sqrt(max(0.0, (math.log(row.hi_ns / row.lo_ns) / 2) ** 2 - prior.half**2))
    return math.log(row.uncorrected_ns) + others.shift, math.hypot(measuring, others.half)


def _grouped(rows: list[VerifyRow]) -> dict[tuple[object, ...], list[VerifyRow]]:
    groups: dict[tuple[object, ...], list[VerifyRow]] = defaultdict(list)
    for row in rows:
        groups[key_of(row)].append(row)
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, nargs="*", default=[512, 2048, 4096])
    parser.add_argument("--prompt", type=int, nargs="*", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--slow", action="store_true", help="the four layouts for slow lowerings")
    parser.add_argument("--results", type=Path, default=Path("prediction-results"))
    parser.add_argument("--out", type=Path, default=Path("prediction-rows.jsonl"))
    parser.add_argument("--read", type=Path, nargs="*")
    parser.add_argument("--hot", action="store_true", help="add up hot operators for the rows read")
    args = parser.parse_args()
    args.only = SLOW if args.slow else args.only
    if args.hot:
        hot_sums(args)
    elif args.read:
        tell([VerifyRow(**json.loads(line)) for path in args.read for line in path.read_text().splitlines()])
    else:
        tell(measure(args))


if __name__ == "__main__":
    main()
