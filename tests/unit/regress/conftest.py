"""Recordings and results as a check leaves them, made without measuring anything."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeprof.core.types import BenchCase
from edgeprof.regress.recording import ORDERS, RawBlock, Recording
from edgeprof.regress.sequential import Plan
from edgeprof.regress.verdict import Verdict

FACTS = {
    "base": {"edgeprof": "0.1", "packages": {"numpy": "2.0"}},
    "head": {"edgeprof": "0.1", "packages": {"numpy": "2.1"}},
}


def raw_block(
    case_key: str, rng: np.random.Generator, *, change: float = 0.0, run: int = 1, sd: float = 0.005
) -> RawBlock:
    order = str(rng.choice(ORDERS))
    loads = []
    for letter in order:
        ns = 1e6 * (1 + change if letter == "B" else 1) * np.exp(rng.normal(0, sd, 2))
        loads.append(tuple((round(one),) * 3 for one in ns))
    return RawBlock(case_key=case_key, run=run, order=order, processes=tuple(loads), at="2026-01-02T03:04:05+00:00")


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recording of some cases, each with its change; slower ones were run again."""

    def write(changes: dict[BenchCase, float] | list[tuple[BenchCase, float]], *, n: int = 10, **more: object) -> Path:
        rng = np.random.default_rng(0)
        pairs = list(changes.items()) if isinstance(changes, dict) else changes
        recording = Recording(tmp_path / "device")
        plan = Plan(n_cases=max(1, len(pairs)))
        recording.begin(
            plan,
            {case.key: case for case, _ in pairs},
            sides={"base": "main (abc)", "head": "def with changes"},
            facts=FACTS,
            device_id="device",
            with_memory=True,
            **more,
        )
        recording.prepared(identical=[case.key for case, _ in pairs], untimed=[], file_bytes={})
        for case, change in pairs:
            for _ in range(n):
                recording.block(raw_block(case.key, rng, change=change))
            for _ in range(n if change > 0.05 else 0):
                recording.block(raw_block(case.key, rng, change=change, run=2))
        recording.end(seconds=100.0, seconds_a_block=10.0)
        recording.close()
        return recording.path

    return write


@pytest.fixture
def make_verdict() -> Callable[..., Verdict]:
    def make(case: BenchCase, outcome: str, ratio: float | None = 1.2, **changes: object) -> Verdict:
        fields = {
            "case_key": case.key,
            "ratio": ratio,
            "ratio_ci95": None if ratio is None else (ratio - 0.05, ratio + 0.05),
            "p": 0.001,
            "p_corrected": 0.002,
            "outcome": outcome,
            "n_blocks": 10,
            "floor": 0.025,
            "reason": f"it is {outcome}",
        }
        return Verdict(**{**fields, **changes})

    return make
