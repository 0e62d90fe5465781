"""The Optuna study that a search keeps its trials in: where it is stored, what it is about, and which trials count."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprof.core.errors import EdgeprofError, UsageError
from edgeprof.search.linear import Layout
from edgeprof.search.objective import Direction

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

SETUP = "edgeprof"
"""The study's attribute with its setup; a trial's attributes are named below."""
PREDICTED, SCORE_SE, PARTS, SECONDS, CELLS, WORKER, SEEN, REJECTED, FAILED = (
    "predicted",
    "score_se",
    "parts",
    "seconds",
    "cells",
    "worker",
    "seen",
    "rejected",
    "failed",
)

PRUNE_P = 0.05
"""One-sided p of the paired test below which a trial is ended."""

PRUNE_FROM = 10
"""Reported values before which no trial is ended.

Source: the proxy's quick stage on nine layouts, seed 0: what the values so far foretell orders them with Kendall's tau 0.50
after 5 of 20 values, 0.89 after 10, 0.94 after 14.
"""

JOURNAL = "studies.journal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """All that decides what a study's trials mean.

    ``space`` is the space file's text, ``budgets`` are budgets as documents, ``also`` names the budgets whose figures are
    minimised beside the quality. ``scores`` is the objective's name for what it measures: scores of another one cannot be
    compared with these. ``devices`` are the ids of the devices, by the budgets' names for them: ``local`` is another
    one elsewhere.
    """

    space_name: str
    space: str
    budgets: tuple[dict[str, Any], ...]
    objective: str
    also: tuple[str, ...]
    sampler: str
    stage: str
    seed: int
    scores: str = ""
    devices: Mapping[str, str] = field(default_factory=dict)

    def differences(self, other: "Setup") -> list[str]:
        """Names of the fields in which another setup differs."""
        mine, theirs = json.loads(json.dumps(asdict(self))), json.loads(json.dumps(asdict(other)))
        return [name for name in mine if mine[name] != theirs[name]]


def open_storage(url: str | None, folder: Path) -> "BaseStorage":
    """Any storage of Optuna's by its URL (PostgreSQL, MySQL, SQLite), or a journal file, by default one in ``folder``.

    Raises:
        UsageError: it cannot be opened: says why.
    """
    import optuna

    from edgeprof.search.journal import Journal

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # what fails is told by whoever catches it
    path = folder / JOURNAL if url is None else Path(url)
    if url is not None and path.is_dir():
        raise UsageError(f"--storage: {url} is a folder; give a file's name")
    with storage_errors(url or str(path)):
        if url is not None and "://" in url:
            return optuna.storages.get_storage(url)
        if url is None:
            folder.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(Journal(path))


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Tells what goes wrong while a storage is opened in one line, without its password.

    Raises:
        UsageError: it did.
    """
    try:
        yield
    except EdgeprofError:
        raise
    except ImportError as error:
        lacking = error.name or getattr(error.__cause__, "name", None)
        what = f"needs a driver: pip install {lacking}" if lacking else f"needs a driver: {_first_line(error)}"
        raise UsageError(f"--storage: {_shown(url)} {what}") from None
    except OSError as error:
        raise UsageError(f"--storage: {error.filename or _shown(url)}: {error.strerror}") from None
    except KeyError as error:
        raise UsageError(f"--storage: {_shown(url)}: is no storage of studies ({_first_line(error)})") from None
    except Exception as error:  # SQLAlchemy, drivers and Optuna each have errors of their own
        told = _first_line(error).replace(url, _shown(url))
        raise UsageError(f"--storage: {told if _shown(url) in told else f'{_shown(url)}: {told}'}") from None


@contextmanager
def lost_storage() -> Iterator[None]:
    """Tells in one line that the storage went away while trials were done.

    Raises:
        UsageError: it did; what it has by then is kept.
    """
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except StorageInternalError as error:
        told = _first_line(error)
        if error.__cause__ is not None and not isinstance(error.__cause__, OSError | ValueError):
            told += f" {_first_line(error.__cause__)}"
        raise UsageError(f"--storage: {told}; what it holds is kept, and the same command goes on") from error


def open_study(
    storage: "BaseStorage",
    name: str,
    setup: Setup,
    directions: Sequence[Direction],
    parameters: Mapping[str, Sequence[str]],
) -> "Study":
    """The study of this name, made anew or resumed.

    Raises:
        UsageError: it is there, but about something else: names what differs.
    """
    import optuna

    _check_choices(parameters)
    try:
        study = optuna.create_study(storage=storage, study_name=name, directions=list(directions), load_if_exists=True)
    except ValueError as error:
        raise UsageError(f"--study: {name}: {_first_line(error)}; give another name") from None
    stored = study.user_attrs.get(SETUP)
    if stored is None:
        if study.trials:
            raise UsageError(f"--study: {name} has trials that are not a search's; give another name")
        study.set_user_attr(SETUP, asdict(setup))
        return study
    different = setup.differences(setup_of(study))
    if different:
        raise UsageError(f"--study: {name} is about another {', another '.join(different)}; give another --study")
    return study


def load_study(storage: "BaseStorage", name: str | None) -> "Study":
    """A stored study, or the only one there is.

    Raises:
        UsageError: there is none, or several and no name: says which there are.
    """
    import optuna

    names = sorted(optuna.get_all_study_names(storage))
    known = ", ".join(names) or "none; edgeprof search makes one"
    if name is None and len(names) == 1:
        name = names[0]
    if name is None or name not in names:
        asked = "name one" if name is None else f"no study {name!r:.80}"
        raise UsageError(
            f"--study: {asked}; there is {known}" if len(names) < 2 else f"--study: {asked}; there are {known}"
        )
    study = optuna.load_study(study_name=name, storage=storage)
    setup_of(study)
    return study


def setup_of(study: "Study") -> Setup:
    """What a study is about.

    Raises:
        UsageError: it is no search's study.
    """
    try:
        fields = dict(study.user_attrs[SETUP])
        return Setup(**fields | {"budgets": tuple(fields["budgets"]), "also": tuple(fields["also"])})
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"--study: {study.study_name} was not made by edgeprof search; give another name") from None


def attach(study: "Study", sampler: "BaseSampler", pruner: "BasePruner") -> None:
    """Gives the study the sampler and the pruner of this process."""
    study.sampler, study.pruner = sampler, pruner


def make_pruner(study: "Study") -> "BasePruner":
    """Ends a trial early where its losses so far are worse than the best trial's at the same steps, by a paired test.

    Only in studies of quality alone: a trial that is worse there may be on the front of several objectives.
    """
    import warnings

    from optuna.exceptions import ExperimentalWarning
    from optuna.pruners import NopPruner, WilcoxonPruner

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        pruner = WilcoxonPruner(p_threshold=PRUNE_P, n_startup_steps=PRUNE_FROM)
        return pruner if len(study.directions) == 1 else NopPruner()


def layout_of(trial: "FrozenTrial") -> Layout:
    """The layout that a trial is about."""
    return {name: str(value) for name, value in trial.params.items()}


def scored(study: "Study") -> "list[FrozenTrial]":
    """The trials with a score, in order."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def trained(study: "Study") -> "list[FrozenTrial]":
    """The trials with a score and those that were pruned on their way to one, in order."""
    from optuna.trial import TrialState

    found = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [trial for trial in found if REJECTED not in trial.user_attrs]


def n_counted(study: "Study", *, before: int | None = None) -> int:
    """Trials that a search has spent: those with a score or pruned on the way to one, and those being worked at.

    What a budget ruled out before any training is no trial spent, nor is one that failed or whose worker died. ``before``
    counts those with a lower number only.
    """
    from optuna.trial import TrialState

    spent = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING))
    return sum(REJECTED not in t.user_attrs and (before is None or t.number < before) for t in spent)


def _check_choices(parameters: Mapping[str, Sequence[str]]) -> None:
    """A space without a choice needs no search.

    Raises:
        UsageError: there is no parameter.
    """
    if not parameters:
        raise UsageError("--space: has a single layout: there is nothing to search; edgeprof predict tells its figures")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _shown(url: str) -> str:
    """A URL as an error may show it: without its password."""
    scheme, found, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    user = login.partition(":")[0]
    return f"{scheme}{found}{user}:***{at}{place}" if ":" in login else url
