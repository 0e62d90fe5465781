"""What ``edgeprof search`` prints at its end."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from edgeprof.cli import render_search
from edgeprof.cli.output import json_text
from edgeprof.cli.render_search import (
    infeasible_json,
    outcome_json,
    print_infeasible,
    print_outcome,
    shown_storage,
)
from edgeprof.search.budgets import Budget, parse_budget
from edgeprof.search.costs import Costs
from edgeprof.search.feasibility import Relaxation
from edgeprof.search.finalists import Finalist, Kept
from edgeprof.search.objective import Score
from edgeprof.search.run import Outcome
from edgeprof.search.space import load_space
from edgeprof.search.study import PREDICTED, REJECTED
from edgeprof.store import Store

optuna.logging.set_verbosity(optuna.logging.ERROR)

TINY = load_space("tiny")
TPOT = parse_budget("tpot", "12ms@4096").filled(runtime="onnxruntime", dtype="fp32", n_threads=2)
TTFT = parse_budget("ttft", "900ms@1024").filled(runtime="onnxruntime", dtype="fp32", n_threads=2)
PARAMS = parse_budget("params", "330k")
OUT = Path("winner.toml")


def kept(budget: Budget, measured: float | None, **changes: Any) -> Kept:
    upper = 300_000.0 if budget is PARAMS else 0.95 * budget.limit
    fields = {"budget": budget, "predicted": 0.9 * upper, "upper": upper, "measured": measured}
    return Kept(**(fields | changes))


def finalist(
    letters: str, score: float, *budgets: Kept, se: float | None = 0.004, failed: str | None = None
) -> Finalist:
    labels = {"C": "conv3", "G": "gqa2"}
    layout = {f"slot_{i:02d}": labels[letter] for i, letter in enumerate(letters)} | {"ffn": "ff128"}
    return Finalist(
        layout=layout,
        config=TINY.config(layout),
        score=Score(value=score, se=se, parts={}, seconds=1.0),
        budgets=budgets,
        failed=failed,
    )


GOOD = finalist("CCGCCG", 0.8123, kept(TPOT, 11e6), kept(TTFT, 8e8), kept(PARAMS, 300_000.0))
SLOW = finalist("GGGGGG", 0.9, kept(TPOT, 13e6, disagrees=True), kept(TTFT, 8e8), kept(PARAMS, 300_000.0))
WON = Outcome(finalists=(SLOW, GOOD), winner=GOOD)
LOST = Outcome(finalists=(SLOW,), winner=None)


@pytest.fixture
def session(tmp_path: Path) -> SimpleNamespace:
    """A search without devices: three proposals, of which one was ruled out."""
    study = optuna.create_study(study_name="my study", direction="maximize")
    for state, attrs in ((TrialState.COMPLETE, {}), (TrialState.PRUNED, {}), (TrialState.PRUNED, {REJECTED: True})):
        study.add_trial(
            create_trial(
                params={"slot_00": "conv3"},
                distributions={"slot_00": CategoricalDistribution(["conv3", "gqa2"])},
                value=0.5 if state == TrialState.COMPLETE else None,
                state=state,
                user_attrs={PREDICTED: {}} | attrs,
            )
        )
    costs = Costs(space=TINY, budgets=[TPOT, TTFT, PARAMS], knowledge={}, make_target=None)  # type: ignore[arg-type]
    objective = SimpleNamespace(direction="maximize")
    return SimpleNamespace(
        setup=SimpleNamespace(objective="proxy"),
        study=study,
        problem=SimpleNamespace(costs=costs, maximise=True, objective=objective),
        store=Store(tmp_path),
        storage=None,
    )


@pytest.fixture
def said(session: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> Callable[[Outcome], str]:
    def printed(outcome: Outcome) -> str:
        print_outcome(session, outcome, OUT)
        return capsys.readouterr().out

    return printed


def cells(text: str) -> dict[str, list[str]]:
    """The rows of printed tables, by their first cell."""
    rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_json_keeps_the_contract_of_scripts(session) -> None:
    document = json.loads(json_text(outcome_json(session, WON, OUT)))
    assert {"study", "trials", "feasible", "winner"} <= set(document)
    assert document["study"] == "my study"
    assert (document["trials"], document["proposed"], document["feasible"], document["rejected"]) == (2, 3, 2, 1)
    winner = document["winner"]
    assert {"path", "quality", "predicted", "measured", "budgets"} <= set(winner)
    assert winner["path"] == "winner.toml"
    assert winner["quality"] == 0.8123
    assert winner["measured"][TPOT.name] == 11e6
    assert winner["predicted"][TPOT.name] == {"value": pytest.approx(10.26e6), "upper": pytest.approx(11.4e6)}
    row = winner["budgets"][0]
    assert (row["name"], row["limit"], row["measured"], row["kept"]) == (TPOT.name, 12e6, 11e6, True)
    assert [row["unit"] for row in winner["budgets"]] == ["ns", "ns", "parameters"]
    assert document["disagreements"] == {TPOT.name: ["GGGGGG"]}
    assert [one["keeps"] for one in document["finalists"]] == [False, True]


def test_without_a_winner_json_says_null_and_keeps_the_rest(session) -> None:
    document = json.loads(json_text(outcome_json(session, LOST, OUT)))
    assert document["winner"] is None
    assert document["finalists"][0]["budgets"][0]["kept"] is False


def test_an_impossible_search_has_the_same_keys_as_another(session) -> None:
    rows = [Relaxation(budget=TPOT, needed=14e6), Relaxation(budget=PARAMS, needed=None)]
    document = json.loads(json_text(infeasible_json(rows)))
    assert document["winner"] is None
    assert {"study", "trials", "proposed", "feasible", "winner", "infeasible"} <= set(document)
    assert set(document["infeasible"][0]) == {"name", "unit", "limit", "needed", "together"}
    assert [row["needed"] for row in document["infeasible"]] == [14e6, None]
    assert outcome_json(session, WON, OUT)["infeasible"] == []


def test_an_impossible_budget_is_told_with_what_it_would_need(capsys: pytest.CaptureFixture[str]) -> None:
    print_infeasible(
        [Relaxation(budget=TPOT, needed=14.4e6, together=13e6), Relaxation(budget=PARAMS, needed=None, together=330e3)]
    )
    rows = cells(capsys.readouterr().out)
    assert rows[TPOT.name] == ["12 ms", "14.4 ms", "+20.0%", "13 ms"]
    assert rows["params"] == ["330,000", "-", "does not help alone", "as it is"]


def test_a_budget_that_is_not_what_is_in_the_way_does_not_help_when_relaxed() -> None:
    (row,) = infeasible_json([Relaxation(budget=TPOT, needed=11e6)])["infeasible"]
    assert row["needed"] is None


def test_where_no_budget_helps_alone_another_way_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_infeasible([Relaxation(budget=TPOT, needed=None), Relaxation(budget=PARAMS, needed=None)])
    assert "No relaxing helps" in capsys.readouterr().out
    print_infeasible([Relaxation(budget=b, needed=None, together=1.1 * b.limit) for b in (TPOT, PARAMS)])
    assert "Relaxing all of them to the last column leaves a layout" in capsys.readouterr().out
    print_infeasible([Relaxation(budget=TPOT, needed=14e6), Relaxation(budget=PARAMS, needed=None)])
    assert "Relaxing one of them to what it needs alone leaves a layout" in capsys.readouterr().out


def test_the_winner_is_drawn_with_its_quality(said) -> None:
    lines = said(WON).splitlines()
    assert lines[:6] == [
        "winner: CCGCCG",
        " 0  conv3  ff128  x2",
        " 2  gqa2   ff128",
        " 3  conv3  ff128  x2",
        " 5  gqa2   ff128",
        "quality 0.8123 ± 0.0040 (proxy; more is better; ± is one standard error)",
    ]


def test_every_budget_has_its_limit_prediction_and_measurement(said) -> None:
    rows = cells(said(WON))
    assert rows[TPOT.name] == ["12 ms", "10.3 ms", "11.4 ms", "11 ms", "+8.3%", "yes"]
    assert rows["params"] == ["330,000", "270,000", "300,000", "300,000 (exact)", "+9.1%", "yes"]


def test_a_finalist_that_breaks_a_budget_says_which(said) -> None:
    rows = cells(said(WON))
    assert rows["GGGGGG ff128"] == ["0.9000 ± 0.0040", "13 ms !", "800 ms", "300,000", f"breaks {TPOT.name}"]
    assert rows["CCGCCG ff128"] == ["0.8123 ± 0.0040", "11 ms", "800 ms", "300,000", "winner"]


def test_a_finalist_that_failed_says_why_as_it_is_written(said) -> None:
    failed = finalist("CGCCCC", 0.7, kept(TPOT, None), failed="timeout: [bold]no answer")
    assert "failed: timeout: [bold]no answer" in said(replace(WON, finalists=(GOOD, failed)))


def test_a_measurement_outside_of_the_interval_is_a_sentence(said) -> None:
    (line,) = [line for line in said(WON).splitlines() if line.startswith("warning: ")]
    assert line.startswith(f"warning: GGGGGG: {TPOT.name} measured 13 ms, predicted 10.3 ms: +26.7%, outside of")
    assert not [line for line in said(Outcome(finalists=(GOOD,), winner=GOOD)).splitlines() if "warning" in line]


def test_the_next_commands_can_be_pasted(said, session, tmp_path: Path) -> None:
    lines = said(WON).splitlines()
    assert "written to winner.toml" in lines
    assert lines[lines.index("next:") + 1 :] == [
        "  edgeprof inspect winner.toml",
        "  edgeprof verify winner.toml --runtime onnxruntime --dtype fp32 --threads 2 --context 4096 --prompt 1024 "
        f"--results {tmp_path}",
        "  edgeprof train winner.toml",
        f"  edgeprof search report --study 'my study' --results {tmp_path}",
    ]


def test_without_a_winner_nothing_was_written(said) -> None:
    text = said(LOST)
    assert "No finalist keeps all its budgets." in text
    assert "written to" not in text
    assert "edgeprof train" not in text
    assert "edgeprof search report" in text


def test_a_winner_that_nobody_measured_says_so(said) -> None:
    unmeasured = finalist("CCGCCG", 0.8, kept(TPOT, None, only_predicted=True), se=None)
    text = said(Outcome(finalists=(unmeasured,), winner=unmeasured))
    assert "as predicted" in text
    assert "--no-measure" in text
    assert "noise unknown" in text


def test_a_measurement_that_failed_keeps_nothing(said) -> None:
    assert "NO, not measured" in said(Outcome(finalists=(GOOD,), winner=finalist("CCGCCG", 0.8, kept(TPOT, None))))


@pytest.mark.parametrize(
    ("storage", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("study.journal", "study.journal"),
    ],
)
def test_a_storages_password_is_never_shown(said, session, storage: str, shown: str) -> None:
    session.storage = storage
    assert shown_storage(session) == shown
    assert outcome_json(session, WON, OUT)["storage"] == shown
    text = said(WON)
    assert "secret" not in text
    assert "--storage" in text


def test_a_device_that_is_not_at_hand_has_no_command_to_verify(said, session) -> None:
    session.problem.costs.budgets = [replace(TPOT, device="phone"), PARAMS]
    assert "edgeprof verify" not in said(Outcome(finalists=(), winner=GOOD))


def test_amounts_are_in_the_units_of_their_metric() -> None:
    assert render_search.amount(TPOT, 12e6) == "12 ms"
    assert render_search.amount(PARAMS, 330_000.0) == "330,000"
    assert render_search.amount(parse_budget("peak_memory", "300MiB"), 300 * 2**20) == "300 MiB"
    assert render_search.amount(TPOT, None) == "-"
