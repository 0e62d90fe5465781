"""``edgeprof inspect``: figures on paper, and the floor that a measured or given bandwidth sets."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeprof.cli import app
from edgeprof.cli.bandwidth import given_bandwidth
from edgeprof.cli.inspect import model_state_figure
from edgeprof.cli.inspect_view import short_pattern
from edgeprof.core.errors import UsageError
from edgeprof.core.types import InstanceRecord
from edgeprof.devices.local import LOCAL
from edgeprof.models.config import config_of_pattern, load_config, to_toml

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command without results of this machine, unless told where some are."""

    def invoke(*args: object) -> tuple[int, str, str]:
        results = [] if "--results" in args else ["--results", str(tmp_path / "none")]
        code = app.run(["inspect", *(str(a) for a in args), *results])
        return code, *capsys.readouterr()

    return invoke


@pytest.fixture
def document(run: Run) -> Callable[..., dict[str, Any]]:
    def invoke(*args: object) -> dict[str, Any]:
        code, stdout, err = run(*args, "--json")
        assert (code, err) == (0, "")
        return dict(json.loads(stdout))

    return invoke


def test_the_json_holds_what_scripts_were_promised(document: Any) -> None:
    found = document("lfm2-350m")
    assert found["parameters"] == 354_483_968
    assert found["embedding_parameters"] == 67_108_864
    assert found["embedding_share"] == 67_108_864 / 354_483_968
    assert sum(part["parameters"] for part in found["parts"]) == found["parameters"]
    assert [w["dtype"] for w in found["weights"]] == ["fp32", "bf16", "int4", "8da4w"]
    assert [t["context"] for t in found["tokens"][:4]] == [1024, 4096, 16384, 32768]
    assert {(t["dtype"], t["kv_dtype"]) for t in found["tokens"]} == {
        ("fp32", "fp32"), ("bf16", "bf16"), ("int4", "fp32"), ("8da4w", "fp32")
    }  # fmt: skip
    assert found["bandwidth"] is None
    assert {t["floor_ns"] for t in found["tokens"]} == {None}


def test_contexts_and_formats_are_those_asked_for(document: Any) -> None:
    found = document("lfm2-350m", "--context", "2k,100", "--dtype", "int4/int8,fp32")
    calls = [(t["context"], t["dtype"], t["kv_dtype"], t["state_bytes"]) for t in found["tokens"]]
    conv, rows = 10 * 2 * 1024, 6 * 2 * 8 * 64
    assert calls == [
        (2048, "int4", "int8", conv + 2048 * rows),
        (100, "int4", "int8", conv + 100 * rows),
        (2048, "fp32", "fp32", 4 * (conv + 2048 * rows)),
        (100, "fp32", "fp32", 4 * (conv + 100 * rows)),
    ]
    first = found["state"][0]
    assert (first["context"], first["kv_dtype"]) == (100, "fp32")
    assert first["by_mixer"] == {"short_conv": 4 * conv, "gqa": 400 * rows}


def test_a_given_bandwidth_sets_the_floor(document: Any) -> None:
    found = document("lfm2-350m", "--bandwidth", "84.8GB/s", "--context", "4k")
    for token in found["tokens"]:
        assert token["floor_ns"] == pytest.approx(token["bytes_moved"] / 84.8)
        assert token["fits_cache"] is None
    assert found["bandwidth"]["measured"] is False


@pytest.fixture
def roofs(make_host_records: Any, save: Callable[..., Path]) -> Callable[..., Path]:
    """A store with a roof for each (threads, bytes a second), each measured a day after the one before."""

    def make(device: str, *rates: tuple[int, float]) -> Path:
        records: list[InstanceRecord] = []
        for day, (threads, rate) in enumerate(rates, start=1):
            (record,) = make_host_records([], device=device, n_threads=threads)
            roof = replace(record.roof, bytes_per_s=rate)
            records.append(replace(record, roof=roof, started_at=f"2026-03-{day:02d}T00:00:00+00:00"))
        return save(records)

    return make


def test_the_latest_roof_of_the_fastest_threads_sets_the_floor(document: Any, roofs: Any) -> None:
    store = roofs("phone", (1, 5e10), (2, 3e10), (1, 1e10), (2, 2e10))
    found = document("lfm2-350m", "--results", store, "--device", "phone", "--context", "1k")
    assert found["bandwidth"] == {
        "bytes_per_s": 2e10,
        "measured": True,
        "device_id": "phone",
        "n_threads": 2,
        "measured_at": "2026-03-04T00:00:00+00:00",
        "cache_bytes": None,
    }
    assert found["tokens"][0]["floor_ns"] == pytest.approx(found["tokens"][0]["bytes_moved"] / 20)
    one = document("lfm2-350m", "--results", store, "--device", "phone", "--threads", 1)
    assert one["bandwidth"]["bytes_per_s"] == 1e10


def test_this_machines_roof_is_taken_by_itself_and_what_fits_its_cache_has_no_floor(
    run: Run, roofs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = LOCAL.profile()
    caches = tuple(replace(cache, size_bytes=32 * 2**20) for cache in here.caches)
    assert caches, "this test needs a machine that tells its caches"
    monkeypatch.setattr(type(LOCAL), "profile", lambda self: replace(here, caches=caches))
    store = roofs(here.id, (1, 1e10))
    code, out, _ = run("tiny-hybrid", "--results", store)
    assert code == 0
    assert f"Floor: these bytes over 10 GB/s, the roof of {here.id} as measured 2026-03-01 with 1 thread." in out
    assert "What fits the cache (32 MiB) need not come from memory" in out
    assert "tok/s" not in out
    assert "tok/s" in run("lfm2-350m", "--results", store)[1]


def test_the_tables_say_what_the_json_says(run: Run) -> None:
    code, out, err = run("gemma-3-270m", "--bandwidth", "10GB/s", "--dtype", "bf16")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == (
        "gemma-3-270m: SSSSSGSSSSSGSSSSSG, 18 layers, d_model 640, vocabulary 262,144 (tied), contexts up to 32K"
    )
    assert lines[1] == "268,098,176 parameters, embedding share 62.58%"
    assert lines[2].startswith("warning: the embedding takes 62.58% of the parameters, more than a third")
    rows = [line.split() for line in lines]
    assert ["geglu", "18", "70,778,880", "26.40%"] in rows
    assert ["bf16", "511", "MiB", "320", "MiB", "-"] in rows
    assert ["bf16", "bf16", "1K", "580.4", "10.5", "MiB", "522", "MiB", "54.8", "ms", "18.3", "tok/s"] in rows
    assert "Floor: these bytes over the given 10 GB/s." in lines


def test_the_state_is_drawn_in_proportion(run: Run) -> None:
    out = run("lfm2-350m", "--dtype", "fp32")[1]
    drawn = {line.split()[0]: line.count("█") for line in out.splitlines() if "█" in line}
    assert drawn == {"1K": 1, "2K": 2, "4K": 4, "8K": 8, "16K": 16, "32K": 32}


def test_a_model_that_is_mostly_layers_is_not_warned_of(run: Run) -> None:
    assert "warning" not in run("lfm2-350m")[1]
    assert "warning: context 65536 is beyond max_context = 2048" in run("tiny-conv", "--context", "64k")[1]


def test_a_model_without_state_has_nothing_to_draw(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "stateless.toml"
    stateless = config_of_pattern("C", {"kernel_size": 1, "d_ff": 8}, name="x", d_model=8, vocab=8)
    path.write_text(to_toml(stateless))
    code, out, _ = run(path)
    assert code == 0
    assert "█" not in out
    code, _, err = run(path, "--plot", tmp_path / "x.png")
    assert code == 2
    assert "--plot: no mixer of this model carries state" in err


@pytest.mark.parametrize(
    ("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".html", b"<!doctype html>")]
)
def test_the_state_is_drawn_into_a_file(run: Run, tmp_path: Path, suffix: str, begins: bytes) -> None:
    path, config = tmp_path / f"state{suffix}", tmp_path / "x.toml"
    config.write_text(to_toml(replace(load_config("tiny-hybrid"), name="cost $x^{ and $\n")))
    code, _, err = run(config, "--plot", path)
    assert code == 0
    assert err == f"{path}: State that cost $x^{{ and $? carries from token to token\n"
    assert path.read_bytes().startswith(begins)


def test_the_figure_has_a_line_for_each_mixer_and_one_for_all() -> None:
    figure = model_state_figure(load_config("gemma-3-270m"))
    (panel,) = figure.panels
    swa, gqa, whole = panel.series
    assert (swa.label, gqa.label, whole.label) == ("swa x 15", "gqa x 3", "all layers")
    assert list(whole.y) == [a + b for a, b in zip(swa.y, gqa.y, strict=True)]
    assert figure.x_ticks[1024.0] == "1K"


def test_a_long_pattern_is_written_with_repeats() -> None:
    assert short_pattern("CCG") == "CCG"
    assert short_pattern("C" * 50 + "G") == "C50G"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("lfm2-350",), "config 'lfm2-350': no .toml or .json file, and no preset; did you mean lfm2-350m"),
        (("lfm2-350m", "--bandwidth", "84"), "--bandwidth: '84' is not bytes a second; write 84.8GB/s or 60GiB/s"),
        (("lfm2-350m", "--bandwidth", "-3GB/s"), "--bandwidth: '-3GB' is not a number of bytes"),
        (("lfm2-350m", "--bandwidth", "1GB/s", "--threads", "1"), "--bandwidth: contradicts --device and --threads"),
        (("lfm2-350m", "--device", "phone"), "--device: no roof of phone is stored in"),
        (("lfm2-350m", "--context", "0"), "--context: 0 is not a context; use 1 or more"),
        (("lfm2-350m", "--dtype", "fp31"), "unknown dtype 'fp31': did you mean fp32"),
        (("lfm2-350m", "--plot", "x.pdf"), "--plot: x.pdf does not tell its format"),
    ],
)
def test_bad_input_is_one_line(run: Run, args: tuple[str, ...], message: str) -> None:
    code, stdout, err = run(*args)
    assert (code, stdout) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith(f"edgeprof: error: {message}")


def test_threads_without_a_roof_name_those_with_one(run: Run, roofs: Any) -> None:
    store = roofs("phone", (1, 5e10), (4, 3e10))
    code, _, err = run("lfm2-350m", "--results", store, "--device", "phone", "--threads", 2)
    assert code == 2
    assert "--threads: no roof of phone was measured with 2; choose 1 or 4" in err


@pytest.mark.parametrize(
    ("text", "rate"), [("84.8GB/s", 84_800_000_000), ("60GiB/s", 60 * 2**30), ("1000 /s", 1000), ("5 gbps", 5 * 10**9)]
)
def test_a_bandwidth_is_read(text: str, rate: Sequence[int]) -> None:
    assert given_bandwidth(text).bytes_per_s == rate


def test_no_bandwidth_is_none() -> None:
    with pytest.raises(UsageError, match="is not a size of memory"):
        given_bandwidth("0GB/s")
