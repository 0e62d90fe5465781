"""``edgeprof search report``: a stored study as tables, JSON and a plot."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from edgeprof.cli import app
from edgeprof.cli.render_search_report import front_table, neighbour_lines
from edgeprof.cli.search_figures import front_figure
from edgeprof.cli.search_options import Where
from edgeprof.cli.search_report import Told, read
from edgeprof.core.toml import toml_table
from edgeprof.models.accounting import parameters
from edgeprof.models.config import to_toml
from edgeprof.search.baselines import BASELINE
from edgeprof.search.budgets import parse_budget
from edgeprof.search.importance import NeighbourEffect
from edgeprof.search.linear import Layout
from edgeprof.search.space import SHIPPED_FOLDER, load_space
from edgeprof.search.study import PREDICTED, REJECTED, SCORE_SE, SETUP, Setup, open_storage

TINY = load_space("tiny")
TPOT = parse_budget("tpot", "13ms@64").filled(runtime="onnxruntime", dtype="fp32", n_threads=1)
PARAMS = parse_budget("params", "330k")
SETUP_OF_TESTS = Setup(
    space_name="tiny",
    space=(SHIPPED_FOLDER / "tiny.toml").read_text(),
    budgets=(asdict(TPOT), asdict(PARAMS)),
    objective="proxy",
    also=(),
    sampler="additive",
    stage="",
    seed=3,
)
ALL_GQA = dict.fromkeys(TINY.parameters, "gqa2") | {"ffn": "ff128"}

Run = Callable[..., tuple[int, str, str]]
SVG = "{http://www.w3.org/2000/svg}"


class Lab:
    """A storage of hand-made studies; a convolution takes 1 ms a token, anything else 2 ms, and quality is attention."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "study.journal"
        self.storage = open_storage(str(self.path), folder)

    def study(
        self, name: str = "small", *, setup: Any = SETUP_OF_TESTS, directions: tuple[str, ...] = ("maximize",)
    ) -> Any:
        study = optuna.create_study(storage=self.storage, study_name=name, directions=list(directions))
        study.set_user_attr(SETUP, asdict(setup))
        return study

    def fill(self, study: Any, n: int = 20) -> None:
        rng = random.Random(1)
        for _ in range(n):
            chosen = TINY.random(rng)
            add(study, chosen, [quality(chosen), *[1.0] * (len(study.directions) - 1)])


def quality(chosen: Layout) -> float:
    return sum(choice in ("gqa2", "swa16") for choice in chosen.values()) / 10


def add(study: Any, chosen: Layout, values: Any = None, **attrs: Any) -> None:
    ns = 1e6 * sum(1 if choice == "conv3" else 2 for name, choice in chosen.items() if name != "ffn")
    n = float(parameters(TINY.config(chosen)))
    trial = create_trial(
        params=dict(chosen),
        distributions={name: CategoricalDistribution(choices) for name, choices in TINY.parameters.items()},
        values=values,
        state=TrialState.PRUNED if values is None else TrialState.COMPLETE,
        user_attrs={PREDICTED: {TPOT.name: [ns, 1.05 * ns], PARAMS.name: [n, n]}, SCORE_SE: 0.01} | attrs,
    )
    study.add_trial(trial)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], lab: Lab, tmp_path: Path) -> Run:
    """Runs the command on the storage of the test and returns the exit code, stdout and stderr."""

    def invoke(*args: Any) -> tuple[int, str, str]:
        words = ["search", "report", "--storage", str(lab.path), "--results", str(tmp_path / "results")]
        code = app.run([*words, *(str(a) for a in args)])
        return code, *capsys.readouterr()

    return invoke


def winner_file(folder: Path, chosen: Layout, provenance: dict[str, Any]) -> Path:
    path = folder / "winner.toml"
    path.write_text(to_toml(TINY.config(chosen)) + "\n" + toml_table("provenance", provenance))
    return path


def cells(text: str) -> dict[str, list[str]]:
    """The rows of printed tables, by their first cell."""
    rows = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_a_study_is_told_without_any_records_of_its_devices(run: Run, lab: Lab) -> None:
    study = lab.study()
    lab.fill(study)
    add(study, ALL_GQA, [0.6], **{BASELINE: "all gqa"})
    code, out, _ = run()
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "study small: space tiny, objective proxy (more is better), sampler additive, seed 3"
    assert lines[1] == "trials: 21 scored"
    assert lines[2] == "best layout, by expected quality:"
    rows = cells(out)
    assert rows["all gqa"][0] == "GGGGGG ff128"
    assert rows["all gqa"][3].endswith(" =")  # as good as the best within the noise
    assert not rows["lfm2"][3].endswith("=")
    assert rows["all gqa"][-3:] == ["12.6 ms", "254,976", "keeps"]
    assert rows["all conv"][-1].startswith("breaks at least 1 attention")
    assert rows["lfm2"][-1] == f"unknown: {TPOT.name}"
    assert "front: expected quality against tpot@64, limit 13 ms" in out
    assert "front: expected quality against params, limit 330,000" in out


def test_the_front_of_one_budget_can_be_asked_for(run: Run, lab: Lab) -> None:
    lab.fill(lab.study())
    out = run("--budget", "params")[1]
    assert "against params" in out
    assert "against tpot@64" not in out
    code, _, err = run("--budget", "parms")
    assert code == 2
    assert "--budget: 'parms' is no budget" in err
    assert "did you mean params" in err


def test_an_empty_study_has_nothing_to_tell_but_what_it_is_about(run: Run, lab: Lab) -> None:
    lab.study()
    code, out, _ = run()
    assert code == 0
    assert out.splitlines()[1:3] == ["trials: none yet", "no layout has a score yet"]
    assert "front:" not in out
    assert json.loads(run("--json")[1])["best"] is None


def test_a_study_of_rejected_trials_tells_what_ruled_them_out(run: Run, lab: Lab) -> None:
    study = lab.study()
    for _ in range(3):
        add(
            study,
            ALL_GQA | {"ffn": "ff192"},
            **{REJECTED: True, PREDICTED: {TPOT.name: [14e6, 15e6], PARAMS.name: [1, 1]}},
        )
    code, out, _ = run()
    assert code == 0
    assert "trials: 3 ruled out by budgets before training" in out
    assert f"ruled out by: {TPOT.name} (3)" in out


def test_a_lucky_score_is_called_luck(run: Run, lab: Lab) -> None:
    study = lab.study()
    lab.fill(study)
    assert "luck" not in run()[1]
    add(study, ALL_GQA | {"slot_00": "conv3"}, [2.0], **{SCORE_SE: 0.5})
    (line,) = [line for line in run()[1].splitlines() if "luck" in line]
    assert line.startswith("The best single score, 2.0000 ± 0.5000, was CGGGGG's (trial 20); after all trials ")
    expected = float(line.split("after all trials ")[1].split()[0])
    assert 0.4 < expected < 0.6


@pytest.fixture
def told(lab: Lab, tmp_path: Path) -> Told:
    lab.fill(lab.study())
    return read(Where(study=None, storage=str(lab.path), results=tmp_path / "results"), None)


def test_a_long_front_is_thinned_with_both_ends_kept(told: Told) -> None:
    long = tuple(replace(told.report.tried[0], number=n) for n in range(30))
    table = front_table(replace(told.report, fronts={TPOT.name: long}), TPOT)
    trials = list(next(column for column in table.columns if column.header == "trial").cells)
    assert (len(trials), trials[0], trials[-1]) == (12, "0", "29")
    assert "12 of 30 rows, --json has all" in str(table.title)


def test_whether_neighbours_help_depends_on_the_direction(told: Told) -> None:
    effect = NeighbourEffect(first="gqa2", then="conv3", effect=0.1, sd=0.01)
    more = replace(told.report, neighbours=(effect,))
    (line,) = neighbour_lines(more)
    assert line.startswith("neighbours: conv3 after gqa2 adds to quality: +0.1000 ± 0.0100")
    (line,) = neighbour_lines(replace(more, maximise=False))
    assert "costs quality" in line


def test_whiskers_reach_the_upper_ends(told: Told) -> None:
    scored = next(s for s in front_figure(told.report, TPOT, None).panels[0].series if s.label == "scored")
    assert list(scored.high) == pytest.approx([1.05 * y for y in scored.y])
    assert set(scored.low) == {None}


def test_json_has_what_scripts_need(run: Run, lab: Lab) -> None:
    study = lab.study()
    lab.fill(study)
    add(study, ALL_GQA, **{REJECTED: True})
    document = json.loads(run("--json")[1])
    assert {
        "schema_version", "study", "space", "objective", "direction", "also", "sampler", "seed", "budgets", "trials",
        "proposed", "feasible", "ruled_out_by", "best", "luckiest", "winner", "fronts", "pareto", "importances",
        "neighbours", "baselines", "measured",
    } == set(document)  # fmt: skip
    assert document["trials"]["scored"] == 20
    assert (document["proposed"], document["feasible"]) == (21, 20)
    assert document["budgets"][0] == {"name": TPOT.name, "unit": "ns", "limit": 13e6}
    best = document["best"]
    assert best["layout"].keys() == TINY.parameters.keys()
    assert best["figures"][TPOT.name]["upper"] == pytest.approx(1.05 * best["figures"][TPOT.name]["value"])
    assert document["winner"] is None
    assert document["measured"] == {}
    assert {"parameter", "chosen", "effects", "span", "optuna_share"} == set(document["importances"][0])
    assert {"behind_best", "behind_best_sd"} < set(document["baselines"][0])


def test_a_study_of_several_objectives_is_told_too(run: Run, lab: Lab) -> None:
    study = lab.study(directions=("maximize", "minimize"))
    lab.fill(study)
    code, out, _ = run()
    assert code == 0
    assert "trials that no other one beats in all objectives: " in out


def test_a_winner_is_shown_with_what_its_file_measured(run: Run, lab: Lab, tmp_path: Path) -> None:
    study = lab.study()
    lab.fill(study)
    add(study, ALL_GQA, [0.6])
    budgets = {TPOT.name: {"measured": 12.5e6, "limit": 13e6}, PARAMS.name: {"measured": "lots"}}
    path = winner_file(tmp_path, ALL_GQA, {"study": "small", "quality": 0.7, "quality_se": 0.002, "budgets": budgets})
    _, out, _ = run("--config", path)
    assert "winner:\n 0  gqa2  ff128  x6\nGGGGGG, trial 20: " in out
    assert f"{path}: quality 0.7000 ± 0.0020 in the final stage" in out
    assert f"{TPOT.name}: measured 12.5 ms, limit 13 ms, room +3.8%" in out
    winner = json.loads(run("--config", path, "--json")[1])["winner"]
    assert (winner["quality"], winner["measured"]) == (0.7, {TPOT.name: 12.5e6})


@pytest.fixture
def models(make_row: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands in for measuring whole models: 1 ms for each convolution and 3 ms for any other; remembers who was measured."""
    asked: list[list[str]] = []

    def verify_models(targets: Any, calls: Any, _place: Any, _store: Any, _protocol: Any) -> Any:
        asked.append([target.config.pattern for target in targets])
        times = [1e6 * sum(1 if letter == "C" else 3 for letter in target.config.pattern) for target in targets]
        return [
            [
                make_row(
                    phase=c.phase,
                    context=c.kv_len,
                    q_len=c.q_len,
                    paired=True,
                    measured_ns=ns,
                    measured_ci95_ns=(0.9 * ns, 1.1 * ns),
                )
                for c in calls
            ]
            for ns in times
        ]

    monkeypatch.setattr("edgeprof.cli.verify.verify_models", verify_models)
    return asked


def test_the_winner_and_the_baselines_are_measured_side_by_side(
    run: Run, lab: Lab, tmp_path: Path, models: list[list[str]]
) -> None:
    study = lab.study()
    lab.fill(study)
    add(study, ALL_GQA, [0.6])
    path = winner_file(tmp_path, ALL_GQA, {"study": "small"})
    document = json.loads(run("--config", path, "--measure", "--json")[1])
    (asked,) = models
    assert len(asked) == len(set(asked)), "the winner is a baseline too, and measured once"
    assert {"CCCCCC", "GGGGGG"} <= set(asked)
    told = document["measured"]
    assert list(told)[-1] == "winner"
    assert told["winner"] == told["all gqa"]
    assert told["winner"][TPOT.name] == {
        "limit": 13e6, "measured": 18e6, "measured_ci95": [0.9 * 18e6, 1.1 * 18e6], "kept": False,
    }  # fmt: skip
    assert told["all conv"][TPOT.name]["kept"]
    rows = run("--config", path, "--measure")[1].partition("measured in turns")[2]
    assert cells(rows)["all conv"][-3:] == ["6 ms", "0.33 (0.27-0.41)", "keeps"]
    assert cells(rows)["all gqa"][-2] == "1.00 (0.82-1.22)"
    assert cells(rows)["winner"][-2:] == ["18 ms", f"breaks {TPOT.name}"]


def test_a_winner_whose_trial_was_pruned_is_shown_as_any_other(run: Run, lab: Lab, tmp_path: Path) -> None:
    study = lab.study()
    lab.fill(study)
    add(study, ALL_GQA)
    path = winner_file(tmp_path, ALL_GQA, {"study": "small"})
    code, out, err = run("--config", path)
    assert code == 0, err
    assert "GGGGGG, trial 20: expected quality " in out
    assert "its own score -" in out
    assert json.loads(run("--config", path, "--json")[1])["winner"]["kind"] == "pruned"


def test_one_baseline_can_be_asked_for(run: Run, lab: Lab, models: list[list[str]]) -> None:
    lab.fill(lab.study())
    document = json.loads(run("--baseline", "all conv", "--measure", "--json")[1])
    assert [one["baseline"] for one in document["baselines"]] == ["all conv"]
    assert list(document["measured"]) == ["all conv", "best"]
    assert len(models[0]) == 2
    code, _, err = run("--baseline", "all cons")
    assert code == 2
    assert "--baseline: 'all cons' is none here; did you mean all conv" in err


def test_without_measuring_nothing_is_built(run: Run, lab: Lab, models: list[list[str]]) -> None:
    lab.fill(lab.study())
    assert "measured in turns" not in run()[1]
    assert not models


def test_what_is_not_at_hand_is_not_measured(run: Run, lab: Lab, models: list[list[str]]) -> None:
    elsewhere = asdict(replace(TPOT, device="galaxy-s25"))
    lab.fill(lab.study(setup=replace(SETUP_OF_TESTS, budgets=(elsewhere, asdict(PARAMS)))))
    code, _, err = run("--measure")
    assert code == 2
    assert "--measure: device galaxy-s25 of budget" in err
    assert not models


@pytest.mark.parametrize(
    ("chosen", "provenance", "problem"),
    [
        (ALL_GQA, {"study": "another"}, "is no winner of study small"),
        (ALL_GQA, {}, "is no winner of study small"),
        (ALL_GQA | {"slot_03": "swa16"}, {"study": "small"}, "has no trial in study small"),
    ],
)
def test_a_file_that_is_no_winner_of_the_study_is_refused(
    run: Run, lab: Lab, tmp_path: Path, chosen: Layout, provenance: dict[str, Any], problem: str
) -> None:
    add(lab.study(), ALL_GQA, [0.6])
    code, out, err = run("--config", winner_file(tmp_path, chosen, provenance))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "--config: " in err
    assert problem in err


def test_the_front_is_drawn_with_limit_and_baselines(run: Run, lab: Lab, tmp_path: Path) -> None:
    study = lab.study()
    lab.fill(study)
    add(study, ALL_GQA, [0.6], **{BASELINE: "all gqa"})
    add(study, ALL_GQA | {"ffn": "ff192"}, **{REJECTED: True})
    out = tmp_path / "front.svg"
    code, _, err = run("--out", out)
    assert code == 0
    assert err == f"{out}: Quality against tpot@64, study small\n"
    root = ElementTree.fromstring(out.read_text())
    words = {"".join(e.itertext()) for e in root.iter(f"{SVG}text")}
    assert {
        "scored", "ruled out, quality only expected", "front", "best expected", "baseline all gqa", "limit 13 ms",
        "expected quality (more is better)",
    } <= words  # fmt: skip


@pytest.mark.parametrize(("name", "begin"), [("front.png", b"\x89PNG"), ("front.html", b"<!doctype html>")])
def test_a_plot_is_of_the_asked_budget_in_the_format_of_its_name(
    run: Run, lab: Lab, tmp_path: Path, name: str, begin: bytes
) -> None:
    lab.fill(lab.study())
    out = tmp_path / name
    code, _, err = run("--out", out, "--budget", "params")
    assert code == 0
    assert "Quality against params" in err
    assert out.read_bytes().startswith(begin)


def test_nothing_is_drawn_before_the_first_score(run: Run, lab: Lab, tmp_path: Path) -> None:
    lab.study()
    code, _, err = run("--out", tmp_path / "front.svg")
    assert code == 5
    assert "nothing to draw: study small has no scored layout" in err
    assert not (tmp_path / "front.svg").exists()


def test_a_plot_whose_format_is_unknown_is_refused_before_anything_is_read(run: Run, tmp_path: Path) -> None:
    code, _, err = run("--out", tmp_path / "front.gif")
    assert code == 2
    assert "--out" in err


def test_a_study_that_is_not_there_is_refused_with_those_that_are(run: Run, lab: Lab) -> None:
    lab.study("one")
    lab.study("two")
    code, _, err = run("--study", "three")
    assert code == 2
    assert "there are one, two" in err


def test_a_device_that_is_not_known_here_leaves_its_figures_unknown(run: Run, lab: Lab) -> None:
    far = asdict(TPOT) | {"device": "phone"}
    setup = Setup(**{**asdict(SETUP_OF_TESTS), "budgets": (far, asdict(PARAMS)), "also": ()})
    study = lab.study(setup=setup)
    lab.fill(study)
    code, out, err = run()
    assert code == 0
    assert "phone" in err
    assert cells(out)["all swa"][-1] == f"unknown: {TPOT.name}"
