"""The winner's file: an architecture that every command reads, and where it is from."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprof.models.config import load_config
from edgeprof.search.finalists import Finalist, Kept, measured_budgets
from edgeprof.search.objective import Score
from edgeprof.search.winner import provenance_of, winner_toml

LAYOUT = {f"slot_0{i}": "conv3" for i in range(6)} | {"ffn": "ff128", "slot_02": "gqa2"}


@pytest.fixture
def winner(make_costs, budget_of, tiny) -> Finalist:
    costs = make_costs(budget_of("tpot", "12ms@256"), budget_of("params", "1M"), budget_of("state", "1MB@64"))
    budgets = measured_budgets(costs, LAYOUT, None)
    score = Score(value=0.5, se=None, seconds=1.0, parts={})
    return Finalist(layout=LAYOUT, config=tiny.config(LAYOUT), score=score, budgets=budgets)


def written(winner: Finalist, study: Any, folder: Path) -> Path:
    path = folder / "winner.toml"
    path.write_text(winner_toml(winner, provenance_of(winner, study, {"lab": "device-id", "phone": "device-id"})))
    return path


def test_the_architecture_reads_back_as_it_was(winner, study, tmp_path) -> None:
    assert load_config(str(written(winner, study, tmp_path))) == winner.config


def test_it_says_where_it_is_from(winner, study, tmp_path) -> None:
    document = tomllib.loads(written(winner, study, tmp_path).read_text())["provenance"]
    assert document["study"] == study.study_name
    assert document["trials"] == 0
    assert document["quality"] == 0.5
    assert "quality_se" not in document  # nobody knows it
    assert document["devices"] == ["device-id"]
    assert {"edgeprof", "torch", "optuna"} <= set(document["versions"])
    tpot = document["budgets"]["tpot@256"]
    assert tpot["limit"] == 12e6
    assert tpot["predicted"] < tpot["predicted_upper"]
    assert "measured" not in tpot  # nobody did
    assert tpot["kept"] is True
    assert document["budgets"]["params"]["measured"] == document["budgets"]["params"]["predicted"]


def test_the_runtimes_versions_are_those_of_the_budgets(winner, study) -> None:
    onnx = replace(winner.budgets[0].budget, runtime="onnxruntime")
    budgets = (Kept(budget=onnx, predicted=1.0, upper=1.0, measured=1.0),)
    found = provenance_of(replace(winner, budgets=budgets), study, {})
    assert "onnxruntime" in found["versions"]
    assert "executorch" not in found["versions"]


@pytest.mark.parametrize("name", ['tpot@256 on "x"', "a = 1\n[evil]", "ünïcode"])
def test_no_name_of_a_budget_breaks_the_file(name: str, winner, study, tmp_path) -> None:
    odd = replace(winner.budgets[0], budget=replace(winner.budgets[0].budget, name=name))
    path = written(replace(winner, budgets=(odd,)), study, tmp_path)
    assert list(tomllib.loads(path.read_text())["provenance"]["budgets"]) == [name]
    assert load_config(str(path)) == winner.config
