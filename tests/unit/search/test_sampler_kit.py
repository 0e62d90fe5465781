"""Optuna's own conformance kit for samplers, run on the additive sampler.

Once as it is, so that all cases meet its start, and once without a start, so that all meet its surrogate and its solver.
"""

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase

from edgeprof.search.sampler import AdditiveSampler


class TestAdditiveSampler(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: AdditiveSampler(seed=0)


class TestSurrogateFromTheFirstTrial(BasicSamplerTestCase, RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: AdditiveSampler(seed=0, n_startup_trials=0)
