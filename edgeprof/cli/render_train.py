"""A run as people and programs see it: one table, one document, and the loss curve."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprof.cli.figures import Figure
    from edgeprof.train.summary import Summary

CURVE = "loss.svg"
CURVE_POINTS = 500
"""Points of a curve at most: each is the mean of the steps that it stands for."""


def show(summary: "Summary", *, as_json: bool) -> None:
    """Prints a run and draws its curve into its folder; of several processes only the first does."""
    from edgeprof.cli.output import print_json

    if os.environ.get("RANK", "0") != "0":
        return
    draw_curve(summary)
    if as_json:
        print_json(summary_json(summary))
    else:
        _print(summary)


def summary_json(summary: "Summary") -> dict[str, Any]:
    """The document of the scripting contract, and what else is known."""
    settings = summary.run.settings
    return {
        "run": str(summary.run.folder),
        "config": summary.run.config.name,
        "finished": summary.finished,
        "steps": summary.steps,
        "of_steps": settings.steps,
        "tokens": summary.tokens,
        "loss": summary.loss,
        "held_out_loss": summary.held_out_loss,
        "bits_per_byte": summary.bits_per_byte,
        "tokens_per_s": summary.tokens_per_s,
        "skipped_steps": summary.skipped,
        "precision": summary.run.precision,
        "checkpoint": None if summary.checkpoint is None else str(summary.checkpoint),
        "model": None if summary.model is None else str(summary.model),
    }


def draw_curve(summary: "Summary") -> None:
    """Writes the loss curve as SVG and PNG, where there is anything to draw yet."""
    from edgeprof.cli.files import write_whole
    from edgeprof.cli.plot import drawn
    from edgeprof.train.metrics import read_metrics
    from edgeprof.train.run_folder import METRICS_FILE

    folder = summary.run.folder
    figure = curve(summary, read_metrics(folder / METRICS_FILE))
    if figure is not None:
        for path in (folder / CURVE, (folder / CURVE).with_suffix(".png")):
            write_whole(path, drawn(figure, path.suffix[1:]), field="--out")


def curve(summary: "Summary", rows: list[dict[str, Any]]) -> "Figure | None":
    """Training loss, averaged over a few steps, and held-out loss, over tokens; None before the first step."""
    from edgeprof.cli.figures import PALETTE, Figure, Panel, Series

    run = summary.run
    trained = [(row["tokens"], row["loss"]) for row in rows if row.get("loss") is not None]
    if not trained:
        return None
    size = -(-len(trained) // CURVE_POINTS)
    groups = [trained[i : i + size] for i in range(0, len(trained), size)]
    x, y = [g[-1][0] for g in groups], [sum(loss for _, loss in g) / len(g) for g in groups]
    series = [Series(label="training", kind="rule", x=x, y=y, color=PALETTE[0])]
    held_out = [
        (row["step"] * run.settings.step_tokens, row["held_out_loss"]) for row in rows if "held_out_loss" in row
    ]
    if held_out:
        series.append(
            Series(
                label="held out", kind="line", x=[t for t, _ in held_out], y=[v for _, v in held_out], color=PALETTE[4]
            )
        )
    ticks = _loss_ticks(min(s for one in series for s in one.y), max(s for one in series for s in one.y))
    return Figure(
        title=f"Loss of {run.config.name}",
        subtitle=f"{summary.tokens:,} of {run.settings.tokens:,} tokens; nats a token",
        x_label="tokens",
        y_label="loss (nats a token)",
        panels=(Panel(title="", series=tuple(series)),),
        x_log=False,
        y_ticks=ticks,
    )


def _loss_ticks(low: float, high: float) -> dict[float, str]:
    steps = (0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12)
    inside = [s for s in steps if low / 1.3 <= s <= high * 1.3]
    return {s: f"{s:g}" for s in inside}


def _print(summary: "Summary") -> None:
    from edgeprof.cli.output import make_table, print_table, stdout_console
    from edgeprof.train.amounts import format_count

    run = summary.run
    state = "finished" if summary.finished else f"step {summary.steps:,} of {run.settings.steps:,}"
    columns = "tokens loss held_out bits/byte tokens/s skipped precision"
    table = make_table(f"{run.config.name} in {run.folder}: {state}", columns, right=columns.removesuffix(" precision"))
    table.add_row(
        f"{format_count(summary.tokens)} of {format_count(run.settings.tokens)}",
        *(_number(v) for v in (summary.loss, summary.held_out_loss, summary.bits_per_byte)),
        "-" if summary.tokens_per_s is None else f"{summary.tokens_per_s:,.0f}",
        f"{summary.skipped:,}",
        run.precision,
    )
    print_table(table)
    for line in _sentences(summary):
        stdout_console().print(line, markup=False, soft_wrap=True)


def _sentences(summary: "Summary") -> list[str]:
    """Where things are, and what to do with them."""
    run = summary.run
    lines = [] if summary.checkpoint is None else [f"Last checkpoint: {summary.checkpoint}"]
    if (run.folder / CURVE).is_file():
        lines.append(f"Loss curve: {run.folder / CURVE}")
    if summary.model is None:
        return lines
    config = summary.model / "config.toml"
    lines += [f"Model: {summary.model}", "To export it:"]
    for target, name in (("gguf", "model.gguf"), ("pte", "model-pte"), ("onnx", "model-onnx")):
        out = Path(run.folder) / name
        lines.append(f"  edgeprof export {config} --weights {summary.model} --to {target} --out {out}")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
