"""A training plan as people read it: a table of the run, then what it buys and what is worth a change."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprof.train.plan import TrainingPlan


def print_plan(plan: "TrainingPlan") -> None:
    """Prints it."""
    from edgeprof.cli.output import make_table, print_table, stdout_console
    from edgeprof.core.units import format_bytes
    from edgeprof.train.amounts import format_count, format_time

    settings, step = plan.settings, plan.step
    columns = "tokens tokens/param. steps batch lr precision tokens/s time peak_memory"
    table = make_table(
        f"{plan.config.name} ({plan.config.pattern}): {plan.parameters:,} parameters", columns, right=columns
    )
    table.add_row(
        format_count(settings.tokens),
        f"{settings.tokens / plan.parameters:.1f}",
        f"{settings.steps:,}",
        f"{settings.batch} x {settings.seq_len}",
        f"{settings.lr:g}",
        step.precision,
        f"{plan.tokens_per_s:,.0f}",
        format_time(plan.hours * 3600),
        format_bytes(step.peak_bytes),
    )
    print_table(table)
    for line in sentences(plan):
        stdout_console().print(line, markup=False, soft_wrap=True)


def sentences(plan: "TrainingPlan") -> list[str]:
    """What the table has no column for."""
    from edgeprof.core.units import format_bytes

    step = plan.step
    lines = [
        f"Measured: a micro-batch of {step.micro_batch} sequences takes {step.gradient_s:.3g} s, an update "
        f"{step.update_s:.3g} s. {step.choice}.",
        f"Memory: {format_bytes(plan.state_bytes)} of weights, gradients and moments; the peak is of the whole process in the "
        "measured steps.",
        *_over_training(plan),
    ]
    smaller = plan.smaller_vocabulary
    if smaller is not None:
        lines.append(
            f"warning: the vocabulary takes {plan.vocabulary_share:.1%} of the parameters, more than a third; {smaller.vocab:,} "
            f"tokens would take {smaller.share:.1%} and save {smaller.saved_parameters:,} parameters."
        )
    return lines


def _over_training(plan: "TrainingPlan") -> list[str]:
    from edgeprof.train.amounts import format_count

    over = plan.over_training
    optimal = format_count(plan.optimal_tokens)
    lines = [
        f"Compute-optimal are {optimal} tokens, 20 a parameter (Hoffmann et al., arXiv 2203.15556); this plan has "
        f"{over.ratio:.3g} times as many.",
        f"Predicted loss: {over.loss:.3g} nats a token, {over.optimal_loss:.3g} at compute-optimal tokens; of the fit's data "
        "and tokenizer, so that differences carry over to others and values do not.",
        _equal_loss(plan),
        f"Fit: {over.source}.",
    ]
    if not over.in_range:
        lines.append(
            "warning: the fit is of models from 44M to 16B parameters; this one is outside, and its predictions are stretched."
        )
    return lines


def _equal_loss(plan: "TrainingPlan") -> str:
    """What the same predicted loss costs a model that is trained compute-optimally."""
    from edgeprof.train.amounts import format_count

    over = plan.over_training
    if over.equal_parameters is None or over.inference_saving is None or over.training_cost is None:
        return "Predicted: no compute-optimal model reaches that loss."
    return (
        f"Predicted: a compute-optimal model of equal loss has {format_count(over.equal_parameters)} parameters, and costs "
        f"{over.inference_saving:.3g} times as much a token in use; this run takes {over.training_cost:.3g} times its training "
        "compute."
    )
