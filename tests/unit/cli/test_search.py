"""``edgeprof search``: from options to the winner's file, with a laboratory for a device and functions for quality."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprof.bench.run import RingRun
from edgeprof.cli import app
from edgeprof.cli.targets import Place, find_place
from edgeprof.core.toml import toml_table
from edgeprof.models.config import load_config
from edgeprof.search.space import SHIPPED_FOLDER
from edgeprof.search.study import FAILED, load_study, open_storage, scored
from edgeprof.store import Store
from edgeprof.store.schema import to_line

Run = Callable[..., tuple[int, str, str]]

TRIALS = 3

QUALITY = """
def attention(config):
    return sum(block.mixer.name != "short_conv" for block in config.layers) / 10


def broken(config):
    raise RuntimeError("no data")


def nothing(config):
    return float("nan")


def no_gqa(config):
    if config.pattern == "GGGGGG":
        raise MemoryError("too large")
    return 0.5
"""


class Bench:
    """Stands in for sessions: the laboratory measures, whole models by ``model_factor`` slower than their cells."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.model_factor = 1.0
        self.fails: Callable[[Any], str | None] = lambda case: None
        self.runs: list[Any] = []

    def __call__(self, rings: Any, *, store: Store, **_: Any) -> RingRun:
        name = f"s{len(self.runs)}"
        self.runs.append(rings)
        failed = {c.key: why for ring in rings for c in ring.cases if (why := self.fails(c)) is not None}
        able = [ring for ring in rings if not any(case.key in failed for case in ring.cases)]
        folder = store.root / "lab"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "instances.jsonl").open("ab") as file:
            records = self.lab.measure(able, session=name, processes=7, model_factor=self.model_factor)
            file.writelines(map(to_line, records))
        return RingRun(session_id=name, failed=failed)

    @property
    def of_cells(self) -> list[Any]:
        """The runs over the space's rings."""
        return [rings for rings in self.runs if all(ring.group.startswith("space-") for ring in rings)]


@pytest.fixture
def bench(lab: Any, monkeypatch: pytest.MonkeyPatch) -> Bench:
    fake = Bench(lab)
    monkeypatch.setattr("edgeprof.bench.run.run_rings", fake)
    return fake


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> Path:
    """A folder to work in, with the objectives; ``local`` is the laboratory."""
    place = Place(device_id="lab", fingerprint="f" * 16, device=object())  # type: ignore[arg-type]
    monkeypatch.setattr(
        "edgeprof.cli.targets.find_place", lambda name, store: place if name == "local" else find_place(name, store)
    )
    (tmp_path / "quality_of_tests.py").write_text(QUALITY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "quality_of_tests", raising=False)
    monkeypatch.setenv("EDGEPROF_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("EDGEPROF_STORAGE", raising=False)
    return tmp_path


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``search`` in the laboratory; returns the exit code, stdout and stderr."""

    def invoke(*args: Any, objective: str = "quality_of_tests:attention", trials: int = TRIALS) -> tuple[int, str, str]:
        usual = [
            "--objective",
            objective,
            "--runtime",
            "torch_eager",
            "--trials",
            str(trials),
            "--finalists",
            "2",
            "--yes",
        ]
        code = app.run(["search", *usual, *map(str, args)])
        return code, *capsys.readouterr()

    return invoke


def stored(here: Path, name: str | None = None) -> Any:
    return load_study(open_storage(None, here / "results" / "studies"), name)


STATIC = ("--max-params", "330k")
TIMED = ("--max-tpot", "20ms@64")


def test_the_whole_way_from_nothing_to_a_measured_winner(run: Run, here: Path, bench: Bench) -> None:
    code, out, err = run(*TIMED, *STATIC, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert len(bench.of_cells) == 1
    winner = document["winner"]
    assert winner["path"] == "winner.toml"
    assert winner["measured"]["tpot@64"] > 0
    assert all(row["kept"] for row in winner["budgets"])
    assert document["trials"] == TRIALS
    assert load_config("winner.toml").pattern == winner["pattern"]


def test_the_winner_is_a_configuration_for_other_commands(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*STATIC)[0] == 0
    assert app.run(["inspect", "winner.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"] == "tiny"


def test_static_budgets_need_no_device(run: Run, bench: Bench) -> None:
    code, out, _ = run(*STATIC, "--max-state", "1MB@1024", "--json")
    assert code == 0
    assert bench.runs == []
    assert json.loads(out)["winner"]["measured"]["params"] <= 330_000


def test_cells_that_are_there_are_not_measured_again(run: Run, bench: Bench) -> None:
    assert run(*TIMED, "--no-measure")[0] == 0
    assert run(*TIMED, "--no-measure", "--study", "other")[0] == 0
    assert len(bench.runs) == 1


def test_the_same_command_goes_on_with_the_same_study(run: Run, here: Path) -> None:
    code, _, err = run(*STATIC, trials=2)
    assert code == 0
    assert ": 0 trials so far" in err
    code, _, err = run(*STATIC)
    assert code == 0
    assert ": 2 trials so far" in err
    assert len(scored(stored(here))) == TRIALS


def test_another_setup_is_another_study(run: Run, here: Path) -> None:
    assert run(*STATIC)[0] == 0
    assert run(*STATIC, "--seed", "1")[0] == 0
    assert len(open_storage(None, here / "results" / "studies").get_all_studies()) == 2


def test_another_setup_under_the_same_name_is_refused_with_what_differs(run: Run, here: Path) -> None:
    assert run(*STATIC, "--study", "mine")[0] == 0
    code, out, err = run("--max-params", "340k", "--study", "mine", "--seed", "1")
    assert (code, out) == (2, "")
    assert "--study: mine is about another budgets, another seed; give another --study" in err


def test_a_space_that_was_edited_is_another_one(run: Run, here: Path) -> None:
    text = (SHIPPED_FOLDER / "tiny.toml").read_text()
    (here / "mine.toml").write_text(text)
    assert run(*STATIC, "--space", "mine.toml", "--study", "mine")[0] == 0
    (here / "mine.toml").write_text(text.replace("at_least = 1", "at_least = 2"))
    code, _, err = run(*STATIC, "--space", "mine.toml", "--study", "mine")
    assert code == 2
    assert "another space;" in err


def test_the_default_stage_by_its_name_is_the_same_setup(run: Run) -> None:
    assert run(*STATIC, "--study", "mine")[0] == 0
    assert run(*STATIC, "--study", "mine", "--stage", "whole")[0] == 0


# Nothing is feasible


def test_impossible_budgets_are_told_at_once_with_what_each_would_need(run: Run, here: Path, bench: Bench) -> None:
    code, out, _ = run("--max-params", "200k", "--json")
    document = json.loads(out)
    assert code == 1
    (row,) = document["infeasible"]
    assert row["needed"] == 254_976
    assert document["winner"] is None
    assert not (here / "winner.toml").exists()
    assert stored(here).trials == []
    assert run("--max-params", "254976")[0] == 0


def test_an_impossible_time_is_told_before_anything_is_trained(run: Run, here: Path, bench: Bench) -> None:
    code, out, _ = run("--max-tpot", "1us@64", "--json")
    document = json.loads(out)
    assert code == 1
    (row,) = document["infeasible"]
    assert row["needed"] > 1000
    assert stored(here).trials == []
    assert len(bench.runs) == 1  # its cells
    assert run("--max-tpot", f"{row['needed'] * 1.001:.0f}ns@64", "--no-measure")[0] == 0


# Measuring


def test_the_user_is_asked_before_cells_are_measured(run: Run, bench: Bench, here: Path, monkeypatch, capsys) -> None:
    questions: list[str] = []

    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("typer.confirm", lambda text, **_: questions.append(text))
    usual = ["--objective", "quality_of_tests:attention", "--runtime", "torch_eager", "--trials", "2", "--no-measure"]
    assert app.run(["search", *usual, *TIMED]) == 5
    assert "nothing was done" in capsys.readouterr().err
    assert bench.runs == []
    (question,) = questions
    assert question.startswith("Measure ")
    monkeypatch.setattr("typer.confirm", lambda text, **_: True)
    assert app.run(["search", *usual, *TIMED]) == 0
    assert app.run(["search", *usual, *STATIC]) == 0
    assert len(questions) == 1


def test_a_choice_that_cannot_be_measured_is_told_once_and_never_proposed(run: Run, bench: Bench, here: Path) -> None:
    """One bad block spoils the ring that it is in; the others are measured in rings without it."""
    bench.fails = lambda case: "wrong_output: off by 3" if '"gqa"' in str(case.dims) else None
    code, _, err = run(*TIMED, "--no-measure", trials=8)
    assert code == 0, err
    assert (
        err.count("not measured, and so not proposed: gqa 4/2x16 + swiglu 128 in torch_eager fp32: wrong_output") == 1
    )
    assert err.count("gqa 4/2x16 + swiglu 192") == 1
    assert all("gqa2" not in t.params.values() for t in stored(here).trials)
    assert len(scored(stored(here))) == 8


def test_if_no_cell_can_be_measured_the_reason_is_told(run: Run, bench: Bench) -> None:
    bench.fails = lambda case: "error: no memory"
    code, out, err = run(*TIMED)
    assert (code, out) == (5, "")
    assert "no memory" in err
    assert "no layout of tiny has all its cells measured" in err.splitlines()[-1]
    assert len(bench.runs) == 1


def test_a_runtime_that_is_not_installed_is_told_before_anything_is_measured(
    run: Run, bench: Bench, monkeypatch
) -> None:
    monkeypatch.setattr("edgeprof.runtimes.base.runtime_version", lambda _: "absent")
    code, _, err = run(*TIMED)
    assert code == 2
    assert "torch_eager is not installed: pip install " in err
    assert bench.runs == []


def test_a_stored_device_is_searched_for_by_its_results_and_only_predicted(run: Run, bench: Bench, here: Path) -> None:
    assert run(*TIMED, "--no-measure", "--study", "first")[0] == 0
    (here / "results" / "lab").rename(here / "results" / "phone")
    path = here / "results" / "phone" / "instances.jsonl"
    path.write_text(path.read_text().replace('"device_id":"lab"', '"device_id":"phone"'))
    code, out, err = run(*TIMED, "--device", "phone", "--json")
    assert code == 0, err
    (row,) = json.loads(out)["winner"]["budgets"]
    assert (row["name"], row["measured"], row["only_predicted"]) == ("tpot@64", None, True)
    assert len(bench.runs) == 1


def test_a_stored_device_that_lacks_cells_cannot_be_measured(run: Run, bench: Bench, here: Path) -> None:
    assert run(*TIMED, "--no-measure", "--study", "first")[0] == 0
    (here / "results" / "lab").rename(here / "results" / "phone")
    path = here / "results" / "phone" / "instances.jsonl"
    path.write_text(path.read_text().replace('"device_id":"lab"', '"device_id":"phone"'))
    code, out, err = run("--max-tpot", "20ms@128", "--device", "phone")
    assert (code, out) == (5, "")
    assert "device phone: cells of the space tiny are not measured there" in err.splitlines()[-1]


def test_models_that_break_their_budget_as_measured_do_not_win_and_the_search_says_so(run: Run, bench: Bench) -> None:
    bench.model_factor = 100.0
    code, out, _ = run(*TIMED)
    assert code == 1
    assert "No finalist keeps all its budgets" in out
    assert "warning: " in out
    assert "outside of the prediction's interval" in out


# Objectives


def test_an_objective_that_always_fails_is_one_line(run: Run, here: Path) -> None:
    for name, told in (("broken", "raised RuntimeError: no data"), ("nothing", "a score is finite")):
        code, out, err = run(*STATIC, objective=f"quality_of_tests:{name}")
        assert (code, out) == (2, "")
        assert told in err.splitlines()[-1]
        assert "Traceback" not in err


def test_one_layout_that_it_fails_on_is_stored_and_the_search_goes_on(run: Run, here: Path) -> None:
    code, _, err = run(*STATIC, objective="quality_of_tests:no_gqa")
    assert code == 0
    assert "too large" in err
    failed = [t for t in stored(here).trials if FAILED in t.user_attrs]
    assert [t.state.name for t in failed] == ["FAIL"]
    assert len(scored(stored(here))) == TRIALS


# Bad input


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "no budget: a search wants limits to keep"),
        ([*STATIC, "--space", "tony"], "space 'tony': no .toml file, and no shipped space"),
        ([*STATIC, "--space", "no.toml"], "no.toml"),
        ([*TIMED, "--runtime", "tensorflow"], "unknown runtime 'tensorflow'"),
        ([*TIMED, "--dtype", "int3"], "unknown dtype 'int3'"),
        ([*STATIC, "--objective", "prxy"], "objective: 'prxy' is none"),
        ([*STATIC, "--objective", "no_such_module_at_all:f"], "cannot be imported"),
        ([*STATIC, "--objective", "quality_of_tests:f"], "has no 'f'"),
        ([*STATIC, "--sampler", "anneal"], "unknown sampler 'anneal'"),
        ([*STATIC, "--stage", "huge"], "stage: 'huge' is none"),
        ([*STATIC, "--effort", "huge"], "unknown effort 'huge'"),
        ([*STATIC, "--also", "tpot@64"], "--also: 'tpot@64' is no budget; there are params"),
        (["--max-tpot", "12@64"], "--max-tpot: '12' is not a time with its unit"),
        (["--max-tpot", "12ms"], "tpot needs a context"),
        (["--max-params", "1M", "--max-params", "2M"], "budget params: comes twice"),
        ([*TIMED, "--device", "phone"], "no results of 'phone'"),
        ([*STATIC, "--storage", "nonsense://x"], "--storage: "),
        ([*STATIC, "--storage", "/no/such/folder/x"], "--storage: "),
        ([*STATIC, "--out", "winner.json"], "--out: winner.json: the winner's name ends in .toml"),
        ([*STATIC, "--out", "no/such/winner.toml"], "--out: no/such is no folder"),
        ([*STATIC, "--out", "folder.toml"], "--out: folder.toml is a folder"),
        ([*STATIC, "--trials", "0"], "--trials"),
        (["--budget", "none.toml"], "none.toml"),
    ],
)
def test_bad_input_is_one_line(run: Run, here: Path, bench: Bench, options: list[str], told: str) -> None:
    (here / "folder.toml").mkdir()
    code, out, err = run(*options)
    assert (code, out) == (2, ""), err
    assert told in err
    assert len(err.splitlines()) == 1
    assert bench.runs == []


@pytest.mark.parametrize("text", ["", "what = 1\n", "no toml", "[provenance]\nhf = 'x'\n", "provenance = 3\n", "\xff"])
def test_what_is_no_winner_is_not_overwritten(run: Run, here: Path, text: str) -> None:
    (here / "winner.toml").write_text(text, encoding="latin-1")
    code, _, err = run(*STATIC)
    assert code == 2
    assert "--out: winner.toml is there, and is no winner of a search; choose another name" in err
    assert (here / "winner.toml").read_text(encoding="latin-1") == text


def test_an_earlier_winner_is_replaced(run: Run, here: Path) -> None:
    (here / "winner.toml").write_text(toml_table("provenance", {"study": "old"}))
    assert run(*STATIC)[0] == 0
    assert load_config("winner.toml").name == "tiny"


def test_contradictory_budgets_are_infeasible_and_not_a_usage_error(run: Run) -> None:
    code, out, _ = run("--max-params", "263488", "--max-state", "10kB@1024", "--json")
    assert code == 1
    needed = {row["name"]: row["needed"] for row in json.loads(out)["infeasible"]}
    assert needed["state@1024"] > 10_000 or needed["params"] > 254_976


def test_a_storage_from_the_environment_keeps_its_password_out_of_arguments(run: Run, here: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEPROF_STORAGE", str(here / "own.journal"))
    assert run(*STATIC)[0] == 0
    assert len(scored(load_study(open_storage(str(here / "own.journal"), here), None))) == TRIALS


def test_a_second_figure_may_be_minimised(run: Run, here: Path) -> None:
    code, _, err = run(*STATIC, "--also", "params", "--also", "params")
    assert code == 0, err
    assert [d.name for d in stored(here).directions] == ["MAXIMIZE", "MINIMIZE"]


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_optunas_samplers_keep_the_budgets_too(run: Run, here: Path, sampler: str) -> None:
    code, out, err = run("--max-params", "300k", "--sampler", sampler, "--json", trials=12)
    assert code == 0, err
    assert json.loads(out)["winner"]["measured"]["params"] <= 300_000


def test_ctrl_c_keeps_what_is_done(run: Run, here: Path, monkeypatch) -> None:
    import quality_of_tests

    count = iter(range(100))

    def interrupted(config: Any) -> float:
        if next(count) == 2:
            raise KeyboardInterrupt
        return 0.5

    monkeypatch.setattr(quality_of_tests, "attention", interrupted)
    code, out, err = run(*STATIC)
    assert (code, out) == (130, "")
    assert "the same command continues from there" in err
    assert len(scored(stored(here))) == 2
    assert run(*STATIC)[0] == 0
    assert len(scored(stored(here))) == TRIALS
