"""The layouts that people would try without a search, held to the same budgets."""

from collections.abc import Iterator
from itertools import cycle, islice
from typing import TYPE_CHECKING

from edgeprof.models.config import LETTERS
from edgeprof.search.costs import Costs
from edgeprof.search.linear import Layout
from edgeprof.search.slots import PLUS
from edgeprof.search.space import Space
from edgeprof.search.study import FAILED, scored

if TYPE_CHECKING:
    from optuna import Study

BASELINES = {
    "all conv": "C",
    "all gqa": "G",
    "all swa": "S",
    "lfm2": "CCGCCGCCGCGCGCGC",
    "gemma 5:1": "SSSSSG",
}
"""Patterns to repeat or cut to a space's depth.

Source: LFM2-350M's attention layers 2, 5, 8, 10, 12 and 14 of 16 (arXiv 2511.23404, table 1); Gemma 3's five sliding-window
layers to a full one (arXiv 2503.19786, section 2)."""

BASELINE = "baseline"
"""The trial's attribute that says which baseline it is."""


def baseline_layouts(costs: Costs) -> dict[str, Layout]:
    """Each baseline as a layout of the space; of its variants the first that keeps the budgets, or else the first one.

    A slot that does not have the operator keeps its first choice; a baseline that no slot can follow is left out.
    """
    found: dict[str, Layout] = {}
    for name, pattern in BASELINES.items():
        variants = list(_variants(costs.space, pattern))
        if variants:
            found[name] = next((layout for layout in variants if costs.keeps(layout)), variants[0])
    return found


def enqueue_baselines(study: "Study", costs: Costs) -> None:
    """Makes the baselines that keep their budgets the study's first trials.

    One whose trial was interrupted gets another; so do those that the objective failed on before it had any score.
    """
    from optuna.trial import TrialState

    tried = [
        {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.FAIL or (FAILED in trial.user_attrs and scored(study))
    ]
    for name, layout in baseline_layouts(costs).items():
        if layout not in tried and costs.keeps(layout):
            study.enqueue_trial(dict(layout), user_attrs={BASELINE: name})
            tried.append(dict(layout))


def _variants(space: Space, pattern: str) -> Iterator[Layout]:
    """A layout for each choice that the pattern's operators leave: the n-th variant takes each operator's n-th label."""
    letters = list(islice(cycle(pattern), space.n_layers))
    most = max(len(choices) for choices in space.slots.choices)
    seen = set()
    for n in range(most):
        layout = {name: choices[0] for name, choices in space.parameters.items()}
        followed = 0
        for slot, choices in enumerate(space.slots.choices):
            name = space.slots.parameter(slot)
            same = [c for c in choices if _letter(space, c) == letters[slot]]
            followed += bool(same)
            if name in layout and same:
                layout[name] = same[min(n, len(same) - 1)]
        key = tuple(layout.values())
        if followed and key not in seen:
            seen.add(key)
            yield layout


def _letter(space: Space, choice: str) -> str:
    """The pattern letter of a choice's mixer."""
    mixer = choice.partition(PLUS)[0]
    return LETTERS[space.table[mixer, space.ffns[0]].mixer.name]
