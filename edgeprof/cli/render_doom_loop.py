"""The doom-loop ratio as people and programs see it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprof.train.evaluate.doom_loop import LoopRow, Outcome
    from edgeprof.train.evaluate.language_model import LanguageModel


def show(
    model: "LanguageModel",
    outcomes: "Sequence[Outcome]",
    *,
    max_tokens: int,
    seed: int,
    complete: bool,
    as_json: bool,
) -> None:
    """Prints the ratios; the document holds every generated text, too. ``complete`` says that nothing was interrupted."""
    from edgeprof.cli.output import print_json

    document = doom_loop_json(model, outcomes, max_tokens=max_tokens, seed=seed, complete=complete)
    if as_json:
        print_json(document)
    else:
        _print(model, outcomes, max_tokens)


def doom_loop_json(
    model: "LanguageModel", outcomes: "Sequence[Outcome]", *, max_tokens: int, seed: int, complete: bool
) -> dict[str, Any]:
    """Rows, and below them what they were made from."""
    from edgeprof.train.evaluate.doom_loop import MAX_PERIOD, MIN_CHARS, MIN_REPEATS, doom_loop_ratio

    return {
        "model": model.name,
        "complete": complete,
        "rule": {"min_repeats": MIN_REPEATS, "min_chars": MIN_CHARS, "max_period": MAX_PERIOD},
        "max_tokens": max_tokens,
        "seed": seed,
        "chat_template": model.text.chat,
        "rows": doom_loop_ratio(outcomes),
        "generations": [
            {
                "prompt_set": o.prompt.prompt_set,
                "prompt": o.prompt.text,
                "temperature": o.temperature,
                "sample": o.sample,
                "tokens": o.generation.tokens,
                "ended": o.generation.ended,
                "loop": o.loop,
                "text": o.generation.text,
            }
            for o in outcomes
        ],
    }


def _print(model: "LanguageModel", outcomes: "Sequence[Outcome]", max_tokens: int) -> None:
    from edgeprof.cli.model_options import printable
    from edgeprof.cli.output import make_table, print_table, stdout_console
    from edgeprof.train.evaluate.doom_loop import doom_loop_ratio

    columns = "prompts temperature texts loops ratio ci95 ended onset_p10 onset_p50 onset_p90"
    table = make_table(
        f"Endless repetition of {printable(model.name)}, up to {max_tokens:,} tokens a text",
        columns,
        right=columns.removeprefix("prompts "),
    )
    rows = doom_loop_ratio(outcomes)
    for row in rows:
        table.add_row(*_cells(row))
    print_table(table)
    put = "put into the model's chat template" if model.text.chat else "continued as they are"
    for line in (
        f"Prompts are {put}. ended: texts that the model ended itself. onset: where the second occurrence begins, in characters.",
        "The interval (Wilson) is that of the texts, taken to be independent; it says nothing of other prompts.",
    ):
        stdout_console().print(line, markup=False, soft_wrap=True)


def _cells(row: "LoopRow") -> list[str]:
    from edgeprof.cli.model_options import printable

    onset = row.onset
    found = (None, None, None) if onset is None else (onset.p10, onset.p50, onset.p90)
    return [
        printable(row.prompt_set),
        f"{row.temperature:g}",
        f"{row.n}",
        f"{row.loops}",
        f"{row.ratio:.1%}",
        f"{row.ci95[0]:.1%} - {row.ci95[1]:.1%}",
        f"{row.ended}",
        *("-" if value is None else f"{value:,.0f}" for value in found),
    ]
