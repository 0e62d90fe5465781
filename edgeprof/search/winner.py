"""The winner as a configuration file: the architecture, and where it is from."""

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeprof.core.toml import toml_table
from edgeprof.core.version import VERSION
from edgeprof.models.config import to_toml
from edgeprof.search.finalists import Finalist, Kept
from edgeprof.search.study import n_counted

if TYPE_CHECKING:
    from optuna import Study


def winner_toml(winner: Finalist, provenance: Mapping[str, Any]) -> str:
    """The configuration with a ``[provenance]`` table behind it, which every command but for reports ignores."""
    return to_toml(winner.config) + "\n" + toml_table("provenance", provenance)


def provenance_of(winner: Finalist, study: "Study", devices: Mapping[str, str]) -> dict[str, Any]:
    """Study, devices and versions, the quality with its noise, and each budget with its predicted and measured figure.

    ``devices`` are the ids of the devices, by the budgets' names for them.
    """
    from importlib.metadata import version

    runtimes = {kept.budget.runtime or "" for kept in winner.budgets if not kept.budget.is_static}
    return {
        "study": study.study_name,
        "trials": n_counted(study),
        "found_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quality": winner.score.value,
        "quality_se": winner.score.se,
        "devices": sorted(set(devices.values())),
        "versions": {"edgeprof": VERSION, "torch": version("torch"), "optuna": version("optuna")}
        | {name: version(name) for name in sorted(runtimes & {"onnxruntime", "executorch"})},
        "budgets": {kept.budget.name: budget_json(kept) for kept in winner.budgets},
    }


def budget_json(kept: Kept) -> dict[str, Any]:
    """A budget with its limit and the winner's figures; times in ns, sizes in bytes."""
    found = {"limit": kept.budget.limit, "predicted": kept.predicted, "predicted_upper": kept.upper}
    return found | {"measured": kept.measured, "kept": kept.kept}
