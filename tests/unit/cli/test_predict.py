"""``edgeprof predict``: the figures and their terms, what is missing, and the measuring of it, with a laboratory for a device."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprof.bench.run import RingRun
from edgeprof.cli import app
from edgeprof.cli.predict import parse_lengths
from edgeprof.cli.targets import Place
from edgeprof.core.errors import UsageError
from edgeprof.models.config import to_toml
from edgeprof.predict.history import append_history
from edgeprof.store import Store
from edgeprof.store.schema import to_line

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path, config_of: Any) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(config_of("CCG", name="mine")))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``predict`` on the config in the laboratory; returns the exit code, stdout and stderr."""
    place = Place(device_id="lab", fingerprint="f" * 16, device=object())  # type: ignore[arg-type]
    found = lambda name, store: place if name == "local" else find_stored(name, store)  # noqa: E731
    from edgeprof.cli.targets import find_place as find_stored

    monkeypatch.setattr("edgeprof.cli.targets.find_place", found)
    monkeypatch.setenv("EDGEPROF_RESULTS", str(tmp_path / "results"))

    def invoke(*args: Any, of: Any = config) -> tuple[int, str, str]:
        short = ["--runtime", "torch_eager", "--context", "64", "--prompt", "16"]
        code = app.run(["predict", str(of), *short, *map(str, args)])
        return code, *capsys.readouterr()

    return invoke


@pytest.fixture
def measured(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Lets the laboratory measure in place of a session; returns the rings of every run as they come."""
    runs: list[Any] = []

    def run_rings(rings: Any, *, store: Store, fresh: bool = False, **_: Any) -> RingRun:
        runs.append(list(rings))
        folder = store.root / "lab"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "instances.jsonl").open("ab") as file:
            file.writelines(to_line(r) for r in lab.measure(rings, session=f"s{len(runs)}", processes=3))
        return RingRun(session_id=f"s{len(runs)}", failed={})

    monkeypatch.setattr("edgeprof.bench.run.run_rings", run_rings)
    return runs


def test_missing_cells_are_named_with_the_command_that_measures_them(run: Run, config: Path) -> None:
    code, out, err = run()
    assert (code, out) == (5, "")
    lines = err.splitlines()
    assert "8 cells of mine in torch_eager fp32, 1 thread are not measured" in lines[0]
    assert lines[1:9] == [
        "  embedding, decode 1@1",
        "  short_conv k3 + swiglu 64, decode 1@64",
        "  gqa 4/2x16 + swiglu 64, decode 1@64",
        "  head, decode 1@1",
        "  embedding, prefill 16@16",
        "  short_conv k3 + swiglu 64, prefill 16@16",
        "  gqa 4/2x16 + swiglu 64, prefill 16@16",
        "  head, prefill 1@1",
    ]
    command = f"edgeprof predict {config} --runtime torch_eager --dtype fp32 --context 64 --prompt 16 --results "
    assert lines[9].startswith(f"this measures them: {command}")
    assert lines[9].endswith(" --measure")
    assert len(lines) == 10


def test_more_than_ten_are_counted(run: Run) -> None:
    code, _, err = run("--prefill-chunk", "4")
    assert code == 5
    assert err.splitlines()[11] == "  and 4 more"
    assert "--prefill-chunk 4 " in err


def test_missing_cells_in_json(run: Run) -> None:
    code, out, _ = run("--json")
    document = json.loads(out)
    assert code == 5
    assert [cell["label"] for cell in document["missing"]][:2] == [
        "embedding, decode 1@1",
        "short_conv k3 + swiglu 64, decode 1@64",
    ]
    assert document["command"].endswith("--measure")


def test_measuring_measures_what_is_missing_and_then_predicts(run: Run, measured: list) -> None:
    code, out, err = run("--measure", "--json")
    assert code == 0, err
    assert json.loads(out)["missing"] == []
    assert len(measured) == 1
    assert run("--measure", "--json")[0] == 0
    assert len(measured) == 1  # nothing is missing any more
    assert run("--measure", "--prompt", "8")[0] == 0
    assert {case.q_len for ring in measured[1] for case in ring.turn} == {8}


def test_what_could_not_be_measured_is_told_and_still_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = RingRun(session_id="s", failed={"a": "error: no memory", "b": "error: no memory"})
    monkeypatch.setattr("edgeprof.bench.run.run_rings", lambda *_, **__: failed)
    code, _, err = run("--measure")
    assert code == 5
    assert err.count("not measured: error: no memory") == 1


def test_the_json_contract(run: Run, measured: list) -> None:
    _, out, _ = run("--measure", "--json")
    document = json.loads(out)
    assert (document["config"], document["device"], document["runtime"], document["dtype"]) == (
        "mine",
        "lab",
        "torch_eager",
        "fp32",
    )
    for name in ("ttft_ns", "tpot_ns", "peak_bytes"):
        figure = document[name]
        assert 0 < figure["lo"] < figure["value"] < figure["hi"]
        assert (figure["verified_rows"], figure["verified_models"]) == (0, 0)
    assert document["tokens_per_s"] == pytest.approx(1e9 / document["tpot_ns"]["value"])
    assert {term["figure"] for term in document["terms"]} == {"ttft", "tpot"}
    tpot = [term for term in document["terms"] if term["figure"] == "tpot"]
    total = sum(term["total_ns"] for term in tpot)
    assert total == pytest.approx(document["tpot_ns"]["uncorrected"], rel=0.02)
    assert all(term["total_ns"] == pytest.approx(term["count"] * term["ns"]) for term in tpot)
    assert set(tpot[0]) == {"figure", "call", "label", "case_key", "count", "ns", "total_ns", "how"}
    assert document["warnings"] == []


def test_without_a_prompt_there_is_no_ttft(run: Run, measured: list) -> None:
    document = json.loads(run("--measure", "--json", "--prompt", "0")[1])
    assert document["ttft_ns"] is None
    assert document["prompt"] is None
    assert document["tpot_ns"]["value"] > 0


def test_the_table_has_figures_terms_and_what_the_interval_rests_on(run: Run, measured: list) -> None:
    code, out, _ = run("--measure")
    assert code == 0
    assert "mine in torch_eager fp32, 1 thread on lab" in out
    for words in (
        "TPOT at context 64",
        "TTFT of 16 tokens",
        "peak memory",
        "tok/s",
        "call boundary",
        "nothing verified",
    ):
        assert words in out
    assert "No model was verified in this runtime and format yet" in out
    assert "correction" not in out


def test_a_verified_mean_error_is_taken_off_unless_told_not_to(
    run: Run, measured: list, make_row: Any, tmp_path: Path
) -> None:
    plain = json.loads(run("--measure", "--json")[1])["tpot_ns"]
    append_history(tmp_path / "results" / "lab", [make_row(0.1, config_hash=str(i)) for i in range(20)])
    corrected = json.loads(run("--json")[1])["tpot_ns"]
    assert corrected["value"] / plain["value"] == pytest.approx(2.718 ** (0.1 * 20 / 24), rel=1e-3)
    assert corrected["verified_models"] == 20
    assert corrected["uncorrected"] == plain["value"]
    assert json.loads(run("--json", "--no-correction")[1])["tpot_ns"]["value"] == plain["value"]
    assert "20 rows of 20 models" in run()[1]
    assert "mean error of verified models" in run()[1]


def test_a_stored_device_is_predicted_from_its_records_and_cannot_be_measured(
    run: Run, measured: list, tmp_path: Path
) -> None:
    assert run("--measure")[0] == 0
    assert run("--device", "lab")[0] == 0
    code, _, err = run("--device", "lab", "--context", "128", "--measure")
    assert code == 2
    assert "measure on the device itself" in err
    code, _, err = run("--device", "lob")
    assert code == 2
    assert "no results of 'lob'" in err
    assert "lab" in err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--runtime", "tensorflow"], "unknown runtime 'tensorflow'"),
        (["--dtype", "int3"], "unknown dtype 'int3'"),
        (["--dtype", "fp32/fp8"], "unknown kv-dtype 'fp8'"),
        (["--dtype", "int4"], "mine in torch_eager int4: "),
        (["--context", "0"], "--context: 0 is not a length"),
        (["--context", "1k,2k"], "--context: 1k,2k means 2 values; give one"),
        (["--context", "many"], "--context: 'many' is not a length"),
        (["--prompt", "-1"], "--prompt: -1 is not a length"),
        (["--prefill-chunk", "0"], "--prefill-chunk: 0 is not a length"),
        (["--prompt", "64k", "--prefill-chunk", "1"], "--prefill-chunk: 1 makes more than 1024 calls"),
        (["--threads", "0"], "--threads"),
        (["--effort", "huge", "--measure"], "unknown effort 'huge'"),
    ],
)
def test_bad_input_is_one_line(run: Run, options: list[str], told: str) -> None:
    code, out, err = run(*options)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_an_unknown_config_is_one_line(run: Run) -> None:
    code, _, err = run(of="lfm2-350")
    assert code == 2
    assert "lfm2-350m" in err


def test_a_corrupt_history_is_one_line(run: Run, measured: list, tmp_path: Path) -> None:
    assert run("--measure")[0] == 0
    (tmp_path / "results" / "lab" / "predictions.jsonl").write_text("{}\n")
    code, _, err = run()
    assert code == 2
    assert "predictions.jsonl:1: not a verified row" in err


def test_lengths_take_suffixes() -> None:
    found = parse_lengths("4k", "2k", "512")
    assert (found.context, found.prompt, found.chunk) == (4096, 2048, 512)
    assert [(c.q_len, c.kv_len) for c in found.calls] == [(1, 4096), (512, 512), (512, 1024), (512, 1536), (512, 2048)]
    with pytest.raises(UsageError, match="--prompt"):
        parse_lengths("64", "", None)
