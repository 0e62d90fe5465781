"""The samplers that ``edgeprof search`` offers, by name: its own, and Optuna's."""

from collections.abc import Callable, Sequence
from typing import Any

from optuna.samplers import BaseSampler

from edgeprof.core.registry import Registry
from edgeprof.search.linear import LinearLimit, Parameters
from edgeprof.search.sampler_proposal import Check

DEFAULT_SAMPLER = "additive"

SAMPLERS: Registry[Callable[..., BaseSampler]] = Registry("sampler")
SAMPLERS.add(DEFAULT_SAMPLER, "edgeprof.search.sampler:AdditiveSampler")
SAMPLERS.add("tpe", "optuna.samplers:TPESampler")
SAMPLERS.add("gp", "optuna.samplers:GPSampler")  # needs torch and scipy, which are here anyway
SAMPLERS.add("nsga2", "optuna.samplers:NSGAIISampler")
SAMPLERS.add("random", "optuna.samplers:RandomSampler")

OPTIONS: dict[str, dict[str, Any]] = {"nsga2": {"population_size": 20}}
"""What differs from Optuna's defaults: searches have some hundred trials, of which a population of 50 is too large a part."""


def make_sampler(
    name: str,
    *,
    seed: int | None = None,
    parameters: Parameters | None = None,
    limits: Sequence[LinearLimit] = (),
    check: Check | None = None,
) -> BaseSampler:
    """The sampler of this name.

    Only ``additive`` keeps ``limits`` and ``check`` in what it proposes. The others know neither: whoever uses them refuses a
    layout before it is trained, and tells by ``trial.set_constraint`` how far it was off (``random`` makes no use of that).

    Raises:
        UsageError: there is no such sampler.
    """
    make = SAMPLERS.get(name)
    if name == DEFAULT_SAMPLER:
        return make(seed=seed, parameters=parameters, limits=limits, check=check)
    return make(seed=seed, **OPTIONS.get(name, {}))
