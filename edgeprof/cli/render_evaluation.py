"""An evaluation as people and programs see it."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprof.train.evaluate.held_out_text import HeldOutScore
    from edgeprof.train.evaluate.recall import RecallRow
    from edgeprof.train.evaluate.samples import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was found of a model."""

    model: str
    data: str
    held_out: "HeldOutScore"
    recall: "list[RecallRow]"
    samples: "list[Sample]"


def show(result: Evaluation, *, as_json: bool) -> None:
    """Prints an evaluation."""
    from edgeprof.cli.output import print_json

    if as_json:
        print_json(evaluation_json(result))
    else:
        _print(result)


def evaluation_json(result: Evaluation) -> dict[str, Any]:
    """The document; a perplexity beyond what a float holds is null."""
    from edgeprof.core.canonical import plain

    document: dict[str, Any] = plain(result)
    if not math.isfinite(result.held_out.perplexity):
        document["held_out"]["perplexity"] = None
    return document


def _print(result: Evaluation) -> None:
    from edgeprof.cli.model_options import printable
    from edgeprof.cli.output import make_table, print_table, stdout_console

    score = result.held_out
    columns = "loss perplexity bits/byte tokens seq_len"
    table = make_table(f"{printable(result.model)} on what {printable(result.data)} holds out", columns, right=columns)
    table.add_row(
        f"{score.loss:.4f}",
        f"{score.perplexity:,.2f}",
        f"{score.bits_per_byte:.4f}",
        f"{score.tokens:,}",
        f"{score.seq_len:,}",
    )
    print_table(table)
    say = stdout_console().print
    if score.retokenised:
        say("The model has another tokenizer than the data: loss is by its own tokens.", markup=False, soft_wrap=True)
    if result.recall:
        _print_recall(result.recall)
    for sample in result.samples:
        given = f"after {printable(sample.prompt)!r:.80}" if sample.prompt else "from nothing"
        say(f"temperature {sample.temperature:g}, {given}:", style="bold", markup=False, soft_wrap=True)
        say(f"  {_one_line(sample.text)}", markup=False, soft_wrap=True)


def _print_recall(rows: "list[RecallRow]") -> None:
    from edgeprof.cli.output import make_table, print_table

    columns = "pairs sequences accuracy ci95 chance"
    table = make_table("In-context recall of pairs of the vocabulary's tokens", columns, right=columns)
    for row in rows:
        ci95 = f"{row.ci95[0]:.1%} - {row.ci95[1]:.1%}"
        table.add_row(f"{row.pairs}", f"{row.n}", f"{row.accuracy:.1%}", ci95, f"{row.chance:.1%}")
    print_table(table)


def _one_line(text: str) -> str:
    """A generated text on one line, without what could move the cursor."""
    from edgeprof.cli.model_options import printable

    return printable(text.replace("\n", "\u23ce"))
