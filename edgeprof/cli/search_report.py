"""``edgeprof search report``: what a stored study found, as tables, a drawing of its best layout, and a plot."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprof.cli.options import EffortOption, JsonOption, VerboseOption, expanded
from edgeprof.cli.search_options import Where, make_where
from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from optuna import Study

    from edgeprof.cli.targets import Place
    from edgeprof.search.budgets import Budget
    from edgeprof.search.costs import Costs
    from edgeprof.search.finalists import Kept
    from edgeprof.search.report import Report, Tried
    from edgeprof.search.study import Setup
    from edgeprof.store import Store

logger = logging.getLogger(__name__)


@expanded("where", make_where)
def report(
    where: Where,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="WINNER.toml",
            help="The winner that the search wrote, to show with its measured figures.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="NAME", help="The budget whose front to show, as in tpot@4096. Default: all."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Draw the front: a .svg, .png or .html; replaced if it is there."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", metavar="NAME", help="A baseline to hold it against, as in lfm2. Default: all."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Build the best layout and the baselines as whole models and measure them side by side."
        ),
    ] = False,
    effort: EffortOption = "quick",
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show what a study found: its front, its best layout, what decides quality, and the baselines beside it.

    Read from what the trials store; the devices need not be at hand, but for --measure. Quality is told twice: as the single
    score that a layout got, and as expected after all trials, which luck moves less. --out draws the front of --budget, or of
    the first budget that is measured.
    """
    from edgeprof.bench.protocol import protocol_for
    from edgeprof.cli.files import write_whole
    from edgeprof.cli.output import print_json, start_logging
    from edgeprof.cli.plot import drawn
    from edgeprof.cli.render_search_report import print_report, report_json
    from edgeprof.cli.search_figures import front_figure

    if verbose:
        start_logging(verbose)
    file_format = None if out is None else _checked_format(out)
    protocol_for(effort)
    told = read(where, config)
    told = replace(told, report=replace(told.report, baselines=_of_names(told.report.baselines, baseline)))
    if measure:
        told = replace(told, measured=measured(told, where, effort))
    shown = _chosen(told.report.budgets, budget)
    if out is not None and file_format is not None:
        drawn_budget = next((b for b in shown if not b.is_static), shown[0])
        figure = front_figure(told.report, drawn_budget, None if told.winner is None else told.winner.tried)
        write_whole(out, drawn(figure, file_format), field="--out")
        typer.echo(f"{out}: {figure.title}", err=True)
    print_json(report_json(told)) if as_json else print_report(told, shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """The winner that a search wrote: its layout in the study, and what the file says of it.

    ``quality`` is of the final stage, so it is not comparable with trials' scores. ``measured`` has figures by budget.
    """

    path: Path
    tried: "Tried"
    quality: float | None
    quality_se: float | None
    measured: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """All that is shown of a study. ``places`` are the devices whose records are at hand, by the budgets' names.

    ``measured`` holds the budgets of layouts as measured side by side, by the names that ``named_layouts`` gives them.
    """

    setup: "Setup"
    costs: "Costs"
    places: "Mapping[str, Place]"
    report: "Report"
    winner: Winner | None
    measured: "Mapping[str, tuple[Kept, ...]]" = field(default_factory=dict)

    @property
    def reference(self) -> "Tried | None":
        """What baselines are held against: the winner where it is known, else the layout that is expected to be best."""
        return self.report.best if self.winner is None else self.winner.tried

    @property
    def named_layouts(self) -> "dict[str, Tried]":
        """The baselines, and last the reference, by what the report calls them."""
        named = {str(one.baseline): one for one in self.report.baselines}
        last = "best" if self.winner is None else "winner"
        return named if self.reference is None else named | {last: self.reference}


def read(where: Where, config: Path | None) -> Told:
    """The stored study, and its winner if a file is given.

    Raises:
        UsageError: there is no such study, or the file is not a winner of it.
    """
    from edgeprof.cli.search_session import STUDIES
    from edgeprof.search.report import build_report
    from edgeprof.search.study import load_study, open_storage, setup_of
    from edgeprof.store import Store, results_root

    store = Store(results_root(where.results))
    study = load_study(open_storage(where.storage, store.root / STUDIES), where.study)
    setup = setup_of(study)
    budgets, costs, places = _costs(setup, store)
    report = build_report(study, costs, budgets)
    winner = None if config is None else read_winner(config, study, report)
    return Told(setup=setup, costs=costs, places=places, report=report, winner=winner)


def measured(told: Told, where: Where, effort: str) -> "dict[str, tuple[Kept, ...]]":
    """The budgets of the baselines and of the reference, measured on whole models in turns.

    Raises:
        UsageError: a budget's device is not at hand.
        EdgeprofError: the device was lost.
    """
    from edgeprof.bench.protocol import protocol_for
    from edgeprof.cli.verify import verify_models
    from edgeprof.search.finalists import measured_side_by_side
    from edgeprof.store import Store, results_root

    store = Store(results_root(where.results))

    def verify(device: str, targets: Any, calls: Any) -> Any:
        return verify_models(targets, calls, told.places[device], store, protocol_for(effort))

    for budget in told.report.budgets:
        if not budget.is_static and (budget.device not in told.places or told.places[budget.device].device is None):
            raise UsageError(f"--measure: device {budget.device} of budget {budget.name} is not at hand; run it there")
    named = told.named_layouts
    found = measured_side_by_side(told.costs, [one.layout for one in named.values()], verify)
    return dict(zip(named, found, strict=True))


def _costs(setup: "Setup", store: "Store") -> "tuple[tuple[Budget, ...], Costs, dict[str, Place]]":
    """All budgets; costs under those whose device is known here; and these devices.

    Raises:
        UsageError: the study's space or a budget of it cannot be read.
    """
    from edgeprof.cli.search_session import costs_of, place_of
    from edgeprof.search.budgets import check_budgets, load_budget

    budgets = check_budgets(map(load_budget, setup.budgets))
    places = {}
    for name in dict.fromkeys(b.device for b in budgets if not b.is_static):
        try:
            places[name] = place_of(name, setup.devices.get(name), store)
        except UsageError as error:
            logger.warning("%s; its figures of baselines without a trial are unknown", error)

    known = [b for b in budgets if b.is_static or b.device in places]
    costs = costs_of(setup, known, places, store)
    return budgets, costs, places


def read_winner(path: Path, study: "Study", report: "Report") -> Winner:
    """The winner of a study from its file.

    Raises:
        UsageError: the file cannot be read, or is not of this study.
    """
    from edgeprof.models.config import read_config
    from edgeprof.models.schema import read_document

    config = read_config(path)
    provenance = read_document(path, "").get("provenance") or {}
    if provenance.get("study") != study.study_name:
        raise UsageError(
            f"--config: {path}: is no winner of study {study.study_name}; give the file that its search wrote"
        )
    tried = report.find(report.space.layout_of(config))
    if tried is None:
        raise UsageError(f"--config: {path}: its layout has no trial in study {study.study_name}; was it edited?")
    budgets = provenance.get("budgets")
    rows = budgets if isinstance(budgets, dict) else {}
    measured = {name: _number(row.get("measured")) for name, row in rows.items() if isinstance(row, dict)}
    return Winner(
        path=path,
        tried=tried,
        quality=_number(provenance.get("quality")),
        quality_se=_number(provenance.get("quality_se")),
        measured={name: value for name, value in measured.items() if value is not None},
    )


def _number(value: Any) -> float | None:
    """A number that somebody may have edited; anything else is none."""
    import math

    return value if type(value) in (int, float) and math.isfinite(value) else None


def _chosen(budgets: "Sequence[Budget]", name: str | None) -> "list[Budget]":
    """The budgets to show.

    Raises:
        UsageError: there is none of that name.
    """
    from edgeprof.core.registry import did_you_mean

    chosen = [b for b in budgets if name is None or b.name == name]
    if not chosen:
        raise UsageError(
            f"--budget: {name!r:.80} is no budget of the study; {did_you_mean(f'{name:.80}', [b.name for b in budgets])}"
        )
    return chosen


def _of_names(baselines: "Sequence[Tried]", names: Sequence[str] | None) -> "tuple[Tried, ...]":
    """The baselines of these names, or all.

    Raises:
        UsageError: there is none of a name.
    """
    from edgeprof.core.registry import did_you_mean

    known = [str(one.baseline) for one in baselines]
    for name in names or ():
        if name not in known:
            raise UsageError(f"--baseline: {name!r:.80} is none here; {did_you_mean(f'{name:.80}', known)}")
    return tuple(one for one in baselines if not names or one.baseline in names)


def _checked_format(out: Path) -> str:
    """The format of the plot; before anything is read, that it can be written.

    Raises:
        UsageError: its name tells no format, or the place refuses.
    """
    from edgeprof.cli.files import check_target
    from edgeprof.cli.plot import format_of

    check_target(out, field="--out", force=True)
    return format_of(out)
