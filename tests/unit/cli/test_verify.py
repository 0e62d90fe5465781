"""``edgeprof verify``: rows, their history, and the exit codes, with a laboratory for a device."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprof.bench.run import RingRun
from edgeprof.cli import app
from edgeprof.cli import verify as verify_command
from edgeprof.cli.render_verify import mean_tau, summary
from edgeprof.cli.targets import Place
from edgeprof.models.config import to_toml
from edgeprof.operators.registry import make_spec
from edgeprof.predict.history import append_history, read_history
from edgeprof.predict.neighbours import read_neighbours
from edgeprof.runtimes.trace import OTHER, Trace, TraceRun
from edgeprof.store import Store
from edgeprof.store.schema import to_line

Run = Callable[..., tuple[int, str, str]]

CONTRACT = {
    "config", "runtime", "dtype", "phase", "context", "predicted_ns", "lo_ns", "hi_ns", "measured_ns",
    "measured_ci95_ns", "signed_error", "aa_spread", "terms", "blame",
}  # fmt: skip
"""What scripts were promised of a row."""


class Session:
    """Stands in for ``run_rings``: the laboratory measures, models by ``model_factor`` slower than their cells."""

    def __init__(self, lab: Any) -> None:
        self.lab, self.model_factor, self.load_sd = lab, 1.0, 0.0
        self.runs: list[Any] = []
        self.fail: Callable[[Any], dict[str, str]] = lambda rings: {}

    def __call__(self, rings: Any, *, store: Store, fresh: bool = False, **_: Any) -> RingRun:
        assert fresh  # a group is paired only if all of it is measured
        self.runs.append(rings)
        name = f"s{len(store.records('lab'))}"
        failed = self.fail(rings)
        able = [ring for ring in rings if not any(case.key in failed for case in ring.cases)]
        self.lab.load_sd = self.load_sd
        folder = store.root / "lab"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "instances.jsonl").open("ab") as file:
            found = self.lab.measure(able, session=name, processes=7, model_factor=self.model_factor)
            file.writelines(map(to_line, found))
        return RingRun(session_id=name, failed=failed)


class Tracing:
    """Stands in for ``trace_cases``: layers take 100 ns but for those of a mixer in ``slow``."""

    def __init__(self) -> None:
        self.cases: list[Any] = []
        self.slow: dict[str, float] = {}
        self.reason: str | None = None

    def __call__(self, cases: Any, **_: Any) -> dict[str, TraceRun]:
        self.cases += cases
        return {case.key: TraceRun(reason=self.reason) if self.reason else self.run(case) for case in cases}

    def run(self, case: Any) -> TraceRun:
        layers = make_spec(case.op, case.dims).arch.layers
        parts = {f"layers.{i}": self.slow.get(layer.mixer.name, 100.0) for i, layer in enumerate(layers)}
        parts = {"embedding": 30.0, **parts, "head": 30.0, OTHER: 1.0}
        return TraceRun(traces=(Trace(parts=parts, total_ns=sum(parts.values()), calls=20, events=30),) * 5)


@pytest.fixture
def session(lab: Any, monkeypatch: pytest.MonkeyPatch) -> Session:
    fake = Session(lab)
    monkeypatch.setattr("edgeprof.bench.run.run_rings", fake)
    return fake


@pytest.fixture(autouse=True)
def traces(monkeypatch: pytest.MonkeyPatch) -> Tracing:
    fake = Tracing()
    monkeypatch.setattr("edgeprof.bench.run.trace_cases", fake)
    return fake


@pytest.fixture
def configs(tmp_path: Path, config_of: Any) -> list[Path]:
    paths = []
    for name, pattern in (("small", "CG"), ("mixed", "CCGS"), ("deep", "CGCGCG")):
        paths.append(tmp_path / f"{name}.toml")
        paths[-1].write_text(to_toml(config_of(pattern, name=name)))
    return paths


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``verify`` in the laboratory; returns the exit code, stdout and stderr."""
    place = Place(device_id="lab", fingerprint="f" * 16, device=object())  # type: ignore[arg-type]
    monkeypatch.setattr("edgeprof.cli.targets.find_place", lambda name, store: place)
    monkeypatch.setenv("EDGEPROF_RESULTS", str(tmp_path / "results"))

    def invoke(*args: Any) -> tuple[int, str, str]:
        short = ["--runtime", "torch_eager", "--context", "64", "--prompt", "16"]
        code = app.run(["verify", *map(str, args), *short])
        return code, *capsys.readouterr()

    return invoke


@pytest.fixture
def history(tmp_path: Path) -> Callable[[], list[Any]]:
    return lambda: read_history(tmp_path / "results" / "lab")


def test_the_json_contract(run: Run, configs: list[Path]) -> None:
    code, out, err = run(configs[0], "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["device"] == "lab"
    assert [(row["phase"], row["paired"]) for row in document["rows"]] == [
        ("decode", True),
        ("memory", True),
        ("prefill", True),
        ("memory", True),
    ]
    for row in document["rows"]:
        assert set(row) >= CONTRACT
        assert row["status"] == "ok"
        assert row["lo_ns"] < row["predicted_ns"] < row["hi_ns"]
        assert row["signed_error"] == pytest.approx(row["predicted_ns"] / row["measured_ns"] - 1)
        assert abs(row["signed_error"]) < 0.01
        assert row["covered"]


def test_rows_are_in_the_history_before_the_next_model_begins(
    run: Run, configs: list[Path], session: Session, history: Callable[[], list[Any]]
) -> None:
    def interrupt(rings: Any) -> dict[str, str]:
        if len(session.runs) == 2:
            raise KeyboardInterrupt
        return {}

    session.fail = interrupt
    code, out, err = run(*configs)
    assert (code, out) == (130, "")
    assert "interrupted" in err
    assert {row.config for row in history()} == {"small"}
    assert run(*configs)[0] == 0
    assert len(session.runs) == 4  # the first model was not measured again
    assert {row.config for row in history()} == {"small", "mixed", "deep"}
    assert sum(row.paired for row in history()) == 3 * 4


def test_what_was_verified_is_not_measured_or_told_twice(
    run: Run, configs: list[Path], session: Session, history: Callable[[], list[Any]]
) -> None:
    first = json.loads(run(configs[0], "--json")[1])["rows"]
    again = json.loads(run(configs[0], "--json")[1])["rows"]
    assert len(session.runs) == 1
    assert len(history()) == 4
    assert [row["measured_ns"] for row in first] == [row["measured_ns"] for row in again]


def test_fresh_measures_anew_and_predicts_from_earlier_cells_too(
    run: Run, configs: list[Path], history: Callable[[], list[Any]]
) -> None:
    run(configs[0])
    rows = json.loads(run(configs[0], "--fresh", "--json")[1])["rows"]
    times = [(row["phase"], row["paired"]) for row in rows if row["phase"] != "memory"]
    assert times == [("decode", True), ("decode", False), ("prefill", True), ("prefill", False)]
    assert len(history()) == 4 + 6
    out = run(configs[0], "--fresh")[1]
    assert "paired" in out
    assert "stored" in out


def test_a_prediction_that_is_off_is_a_warning(run: Run, configs: list[Path], session: Session) -> None:
    session.model_factor = 1.5
    code, out, _ = run(configs[0])
    assert code == 0
    assert "NO" in out
    assert "warning: small torch_eager fp32 decode 1@64: measured outside of the interval, -33.3% off" in out


def test_a_model_that_differs_from_itself_is_inconclusive(run: Run, configs: list[Path], session: Session) -> None:
    session.load_sd = 0.4
    code, out, _ = run(configs[0])
    assert code == 3
    assert "inconclusive" in out
    assert "two loads of the model differ by" in out


def test_a_failed_model_is_a_row_that_says_why(run: Run, configs: list[Path], session: Session) -> None:
    def fail(rings: Any) -> dict[str, str]:
        return {
            c.key: "wrong_output: off by 3" for r in rings for c in r.cases if (c.op, c.phase) == ("model", "prefill")
        }

    session.fail = fail
    code, out, _ = run(configs[0], "--json")
    assert code == 1
    rows = json.loads(out)["rows"]
    assert [(r["phase"], r["status"], r["reason"]) for r in rows if r["status"] != "ok"] == [
        ("prefill", "wrong_output", "off by 3")
    ]
    assert set(rows[-1]) >= CONTRACT
    assert rows[-1]["measured_ns"] is None
    assert [r["phase"] for r in rows if r["status"] == "ok"] == ["decode", "memory"]


def test_a_format_that_a_runtime_lacks_is_a_row_where_another_has_it(run: Run, configs: list[Path]) -> None:
    code, out, _ = run(configs[0], "--dtype", "fp32,int4", "--json")
    assert code == 0
    rows = json.loads(out)["rows"]
    assert {(r["dtype"], r["status"]) for r in rows} == {("fp32", "ok"), ("int4", "unsupported")}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--dtype", "int4"], "in torch_eager int4, 1 thread: unsupported: "),
        (["--runtime", "no"], "unknown runtime 'no'"),
        (["--effort", "no"], "unknown effort 'no'"),
        (["--threads", "0"], "--threads: 0 is not a number of threads"),
    ],
)
def test_what_cannot_run_at_all_is_one_line(run: Run, configs: list[Path], options: list[str], told: str) -> None:
    code, out, err = run(configs[0], *options)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_no_config_is_one_line(run: Run) -> None:
    code, _, err = run()
    assert code == 2
    assert "CONFIG" in err


def test_the_history_is_shown_without_measuring(run: Run, configs: list[Path], session: Session) -> None:
    assert "nothing was verified on this device yet" in run("--history")[1]
    run(*configs)
    measured = len(session.runs)
    code, out, _ = run("--history")
    assert (code, len(session.runs)) == (0, measured)
    assert "torch_eager fp32 decode from cells of the same processes: |error| p50 0.0%" in out
    assert "over 3 rows of 3 models" in out
    assert "Kendall tau 1.00" in out


def test_errors_have_a_p90_from_ten_rows_on(make_row: Any) -> None:
    rows = [make_row(0.01 * i, config_hash=str(i)) for i in range(10)]
    (of_ten,), (of_nine,) = summary(rows), summary(rows[:9])
    assert of_ten["error_p90"] == pytest.approx(0.08, abs=0.01)
    assert of_nine["error_p90"] is None
    assert of_nine["error_max"] == pytest.approx(0.0769, abs=1e-3)
    assert of_ten["n_rows"] == 10


def test_coverage_counts_rows_in_their_interval(make_row: Any) -> None:
    rows = [make_row(error, config_hash=str(error)) for error in (0.0, 0.05, 0.5, -0.5)]
    assert summary(rows)[0]["coverage"] == 0.5


def test_tau_ranks_models_at_equal_calls(make_row: Any) -> None:
    def row(name: str, predicted: float, measured: float, context: int = 64) -> Any:
        return make_row(config_hash=name, predicted_ns=predicted, measured_ns=measured, context=context)

    ranked = [row("a", 1, 1), row("b", 2, 2), row("c", 3, 3)]
    assert mean_tau(ranked) == 1.0
    assert mean_tau([row("a", 3, 1), row("b", 2, 2), row("c", 1, 3)]) == -1.0
    assert mean_tau(ranked[:2]) is None
    assert mean_tau([row("a", 1, 1), row("b", 2, 2), row("c", 3, 3, context=128)]) is None


def test_memory_and_times_are_tables_of_their_own(run: Run, configs: list[Path], make_row: Any, tmp_path: Path) -> None:
    append_history(tmp_path / "results" / "lab", [make_row(), make_row(phase="memory", paired=True)])
    out = run("--history")[1]
    assert "predicted and measured on lab" in out
    assert "peak memory" in out
    assert "977 KiB" in out


def test_a_name_with_markup_is_printed_as_it_is(run: Run, make_row: Any, tmp_path: Path) -> None:
    append_history(tmp_path / "results" / "lab", [make_row(config="[red]x[/]")])
    assert "[red]x[/]" in run("--history")[1]


# Which term is to blame.


def times(out: str) -> list[dict[str, Any]]:
    return [row for row in json.loads(out)["rows"] if row["phase"] != "memory"]


def test_a_prediction_that_holds_is_not_traced_unless_asked(run: Run, configs: list[Path], traces: Tracing) -> None:
    rows = times(run(configs[0], "--json")[1])
    assert traces.cases == []
    assert all(row["terms"] is None and row["blame"] is None for row in rows)
    rows = times(run(configs[0], "--json", "--blame")[1])
    assert [case.op for case in traces.cases] == ["model", "model"]
    for row in rows:
        assert [set(term) for term in row["terms"]] == [
            {"label", "count", "predicted_ns", "traced_ns", "share_of_error"}
        ] * len(row["terms"])
        assert sum(t["predicted_ns"] for t in row["terms"]) == pytest.approx(row["predicted_ns"])
        assert sum(t["traced_ns"] for t in row["terms"]) == pytest.approx(row["measured_ns"])


def test_a_failed_prediction_says_which_term_is_to_blame(
    run: Run, configs: list[Path], session: Session, traces: Tracing, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.model_factor, traces.slow = 1.5, {"gqa": 500.0}
    fuse_pairs(session, 1.0, monkeypatch)
    out = run(configs[0])[1]
    assert "to blame: small torch_eager fp32 decode 1@64: gqa 4/2x16 + swiglu 64 predicted " in out
    assert " of the error" in out
    rows = times(run(configs[0], "--json")[1])
    assert {row["blame"] for row in rows} == {"gqa 4/2x16 + swiglu 64"}


def test_no_blame_traces_nothing(run: Run, configs: list[Path], session: Session, traces: Tracing) -> None:
    session.model_factor = 1.5
    assert "to blame" not in run(configs[0], "--no-blame")[1]
    assert traces.cases == []


def test_what_was_traced_is_not_traced_again_and_is_kept(
    run: Run, configs: list[Path], session: Session, traces: Tracing, history: Callable[[], list[Any]]
) -> None:
    run(configs[0])
    assert len(history()) == 4
    first = times(run(configs[0], "--json", "--blame")[1])
    assert len(history()) == 4
    assert sum(row.terms is not None for row in history()) == 2
    # but for the time of day, which the rows of each run have anew
    for again in (times(run(configs[0], "--json", "--blame")[1]), times(run(configs[0], "--json")[1])):
        assert [row | {"at": None} for row in again] == [row | {"at": None} for row in first]
    assert len(traces.cases) == 2


def test_a_runtime_that_cannot_tell_says_so(run: Run, configs: list[Path], session: Session, traces: Tracing) -> None:
    session.model_factor, traces.reason = 1.5, "no tracer"
    code, out, _ = run(configs[0])
    assert code == 0
    assert "decode 1@64: which term is to blame cannot be told: no tracer" in out


def test_neighbours_that_are_additive_are_looked_at_and_stay_blocks(
    run: Run, configs: list[Path], session: Session, traces: Tracing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.model_factor, traces.slow = 1.5, {"gqa": 500.0}
    fuse_pairs(session, 1.0, monkeypatch)
    document = json.loads(run(configs[0], "--json")[1])
    assert {(n["label"], n["is_term"]) for n in document["neighbours"]} == {
        ("short_conv k3 + swiglu 64 > gqa 4/2x16 + swiglu 64", False)
    }
    assert all(n["ratio"] == pytest.approx(1.0, abs=0.01) for n in document["neighbours"])
    assert read_neighbours(tmp_path / "results" / "lab") == []


def test_neighbours_that_are_not_additive_become_a_term(
    run: Run, configs: list[Path], session: Session, traces: Tracing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.model_factor, traces.slow = 1.5, {"gqa": 500.0}
    fuse_pairs(session, 1.6, monkeypatch)
    out = run(configs[0])[1]
    assert "costs 1.6 times the sum of its blocks (1.6 to 1.6): not additive, a term of its own from now on" in out
    known = read_neighbours(tmp_path / "results" / "lab")
    assert [(n.phase, n.ratio) for n in known] == [("decode", pytest.approx(1.6)), ("prefill", pytest.approx(1.6))]
    measured = len(session.runs)
    rows = times(run(configs[0], "--json", "--blame")[1])
    assert len(session.runs) > measured  # the pair's cell is not in the earlier session
    for row in rows:
        assert [t["label"] for t in row["terms"]][1:-2] == ["short_conv k3 + swiglu 64 > gqa 4/2x16 + swiglu 64"]


def fuse_pairs(session: Session, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair takes ``factor`` times what its blocks do."""
    of_additive = session.lab.call_ns

    def call_ns(case: Any, model_factor: float) -> float:
        if case.op != "pair":
            return of_additive(case, model_factor)
        blocks = [replace(case, op="block", dims=b.dims()) for b in make_spec(case.op, case.dims).blocks()]
        return factor * sum(of_additive(block, 1.0) - 3_000 for block in blocks) + 3_000

    monkeypatch.setattr(session.lab, "call_ns", call_ns)


@pytest.mark.parametrize(("speeds", "chosen"), [([1.1], 0), ([1.3, 1.05], 1), ([0.7, 2.0], 0)])
def test_a_model_measured_at_an_unusual_speed_of_the_host_is_measured_once_more(
    speeds: list[float], chosen: int, monkeypatch: pytest.MonkeyPatch, make_row: Any, make_target: Any
) -> None:
    """The session nearer to the usual speed counts."""
    sessions = [[make_row(), make_row(paired=True, uncorrected_ns=1e6 * speed)] for speed in speeds]
    asked: list[bool] = []

    def measure(*_: Any, fresh: bool, **__: Any) -> Any:
        asked.append(fresh)
        return sessions[len(asked) - 1], [], []

    monkeypatch.setattr(verify_command, "_verify_one", measure)
    rows = verify_command.verify_model(make_target("CG"), [], *[None] * 3)  # type: ignore[arg-type]
    assert rows == sessions[chosen]
    assert asked == [False, True][: len(speeds)]
