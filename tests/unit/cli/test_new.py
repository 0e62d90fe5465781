"""``edgeprof new`` and ``edgeprof presets``: configurations from options, printed and written."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprof.cli import app
from edgeprof.cli.model_options import complete_config, printable
from edgeprof.models.config import load_config, preset_names, read_config

Run = Callable[..., tuple[int, str, str]]

ATTENTION = ("--heads", "10", "--kv-heads", "2", "--head-dim", "64", "--window", "256")
MODEL = ("--d-model", "640", "--d-ff", "1792", "--vocab", "32k")
ISSUE = ("new", "--pattern", "CCGCCSCG", *MODEL, *ATTENTION)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the program and returns the exit code, stdout and stderr."""

    def invoke(*args: object) -> tuple[int, str, str]:
        code = app.run([str(a) for a in args])
        return code, *capsys.readouterr()

    return invoke


def test_a_pattern_becomes_a_file_that_is_read_back(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "my.toml"
    code, stdout, err = run(*ISSUE, "--out", out)
    assert (code, stdout) == (0, "")
    assert err.startswith(f"{out}: 59,658,624 parameters, embedding 35.15%\nwarning: the embedding takes 35.15%")
    config = read_config(out)
    assert (config.name, config.pattern, config.tied, config.norm_eps) == ("my", "CCGCCSCG", True, 1e-5)
    assert config.layers[5].mixer.dims() == {
        "d_model": 640,
        "n_heads": 10,
        "n_kv_heads": 2,
        "head_dim": 64,
        "window": 256,
        "qk_norm": True,
        "rope_theta": 1e6,
    }
    assert config.layers[0].mixer.dims()["kernel_size"] == 3


def test_every_option_finds_its_place(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "my.json"
    options = "--kernel-size 4 --rope-theta 10000 --no-qk-norm --untied --ffn geglu --norm-eps 1e-6 --sandwich-norm"
    code, _, err = run(*ISSUE, *options.split(), "--max-context", "8k", "--name", "other", "--out", out)
    assert code == 0
    assert "warning: embedding and head, which are not tied, take" in err
    config = read_config(out)
    assert (config.name, config.tied, config.norm_eps, config.max_context) == ("other", False, 1e-6, 8192)
    mixer = config.layers[2].mixer.dims()
    assert (mixer["qk_norm"], mixer["rope_theta"]) == (False, 10000.0)
    assert config.layers[0].mixer.dims()["kernel_size"] == 4
    assert {(layer.ffn.name, layer.sandwich) for layer in config.layers} == {("geglu", True)}


def test_each_layer_may_have_a_feed_forward_of_its_own(run: Run) -> None:
    code, stdout, _ = run(
        "new", "--pattern", "Cx3", "--d-model", 64, "--vocab", 512, "--d-ff", "128,256", "--d-ff", "128"
    )
    assert code == 0
    assert [layer["ffn"]["d_ff"] for layer in tomllib.loads(stdout)["layers"]] == [128, 256, 128]


def test_without_a_file_the_toml_is_on_stdout_and_as_json_it_is_a_config_too(run: Run, tmp_path: Path) -> None:
    _, as_toml, err = run(*ISSUE)
    code, as_json, _ = run(*ISSUE, "--json")
    assert code == 0
    assert err.startswith("model: 59,658,624 parameters")
    assert tomllib.loads(as_toml) == json.loads(as_json)
    path = tmp_path / "printed.json"
    path.write_text(as_json)
    assert read_config(path).pattern == "CCGCCSCG"


def test_a_file_is_overwritten_only_when_told_to(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "my.toml"
    out.write_text("mine")
    code, _, err = run(*ISSUE, "--out", out)
    assert code == 2
    assert err == f"edgeprof: error: --out: {out} exists; choose another name, or overwrite it with --force\n"
    assert out.read_text() == "mine"
    assert run(*ISSUE, "--out", out, "--force")[0] == 0
    assert read_config(out).pattern == "CCGCCSCG"


def test_a_hugging_face_folder_becomes_a_config(run: Run, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(
        json.dumps(
            {
                "model_type": "qwen3",
                "hidden_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "intermediate_size": 128,
                "vocab_size": 512,
                "max_position_embeddings": 1024,
                "tie_word_embeddings": True,
            }
        )
    )
    out = tmp_path / "my.toml"
    assert run("new", "--from-hf", tmp_path / "hf", "--name", "mine", "--out", out)[0] == 0
    config = read_config(out)
    assert (config.name, config.pattern, config.d_model, config.max_context) == ("mine", "GGG", 64, 1024)
    code, _, err = run("new", "--from-hf", tmp_path / "hf", "--d-model", 64)
    assert code == 2
    assert "--d-model: --from-hf takes all of this" in err
    code, _, err = run("new", "--from-hf", tmp_path / "hf", "--name", "")
    assert (code, err) == (2, "edgeprof: error: --name: is empty; leave it out or give one\n")
    code, _, err = run("inspect", tmp_path / "hf" / "config.json")
    assert code == 2
    assert "read it with edgeprof new --from-hf" in err


WITHOUT = ("new", "--pattern", "CC", *MODEL)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("new",), "--pattern: is missing; give it, or read a Hugging Face model with --from-hf"),
        (("new", "--pattern", "CC"), "--d-model: is missing"),
        ((*WITHOUT, "--pattern", "CG"), "--heads: is missing; gqa (G in the pattern) needs it"),
        ((*WITHOUT, "--window", "8"), "--window: no mixer of the pattern has it (short_conv); leave it out"),
        ((*ISSUE, "--kv-heads", "3"), "--kv-heads: 3 does not divide n_heads = 10; use a divisor"),
        ((*ISSUE, "--window", "0"), "--window: 0 is not a size; use 1 or more"),
        ((*ISSUE, "--kernel-size", "0"), "--kernel-size: 0 is not a size; use 1 or more"),
        ((*ISSUE, "--head-dim", "63"), "--head-dim: 63 is odd; RoPE rotates pairs, so use an even number"),
        ((*ISSUE, "--d-model", "-640"), "--d-model: -640 is not a size; use 1 or more"),
        ((*ISSUE, "--vocab", "1-9"), "--vocab: 1-9 means 9 values; give one"),
        ((*ISSUE, "--d-ff", "99999999"), "--d-ff: 99999999 is too large for a size; use at most 16777216"),
        ((*ISSUE, "--d-ff", "8"), "--d-ff: 2 values for 8 layers; give one, or one for each layer"),
        ((*ISSUE, "--rope-theta", "nan"), "--rope-theta: nan is not a size; use 1 to 16777216"),
        ((*ISSUE, "--norm-eps", "inf"), "--norm-eps: inf is not a finite number"),
        ((*ISSUE, "--ffn", "swiglue"), "--ffn: 'swiglue' is none; did you mean swiglu or geglu?"),
        ((*ISSUE, "--name", ""), "--name: is empty; leave it out or give one"),
        ((*ISSUE, "--pattern", "Cx1000000000"), "--pattern: makes no layers, or more than 1024; correct the repeats"),
        ((*ISSUE, "--pattern", "CXG"), "--pattern: 'X' is no mixer; write C for short_conv, S for swa, G for gqa"),
        ((*ISSUE, "--out", "my.yaml"), "my.yaml: a configuration's name ends in .toml or .json"),
        ((*ISSUE, "--out", "/nowhere/my.toml"), "--out: /nowhere is no folder; make it first"),
        (("new", "--from-hf", "/nowhere"), "/nowhere: no such file"),
        (("presets", "lfm2-350"), "unknown preset 'lfm2-350': did you mean lfm2-350m"),
        (("presets", "--out", "my.toml"), "--out: name the preset to write"),
    ],
)
def test_bad_options_are_one_line_that_names_the_option(run: Run, args: tuple[str, ...], message: str) -> None:
    code, stdout, err = run(*args)
    assert (code, stdout) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith(f"edgeprof: error: {message}")


def test_presets_are_listed_with_their_sizes(run: Run) -> None:
    rows = json.loads(run("presets", "--json")[1])["presets"]
    assert [row["name"] for row in rows] == preset_names()
    lfm2 = next(row for row in rows if row["name"] == "lfm2-350m")
    assert (lfm2["pattern"], lfm2["layers"], lfm2["parameters"]) == ("CCGCCGCCGCGCGCGC", 16, 354_483_968)
    code, table, _ = run("presets")
    assert code == 0
    line = next(line for line in table.splitlines() if " qwen3-0.6b " in line)
    assert line.split() == ["qwen3-0.6b", "G" * 28, "28", "1,024", "151,936", "596,049,920", "26.10%"]


def test_a_preset_is_printed_and_written_to_start_from(run: Run, tmp_path: Path) -> None:
    code, stdout, _ = run("presets", "tiny-hybrid")
    assert code == 0
    out = tmp_path / "mine.toml"
    assert run("presets", "tiny-hybrid", "--out", out)[0] == 0
    assert out.read_text() == stdout
    assert read_config(out) == load_config("tiny-hybrid")


def test_a_config_completes_to_presets_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("tiny.toml", "tiny.txt", "sub/a.json"):
        (tmp_path / name).touch()
    assert complete_config("tiny") == ["tiny-conv", "tiny-gqa", "tiny-hybrid", "tiny.toml"]
    assert complete_config("sub/") == ["sub/a.json"]
    assert complete_config(f"{tmp_path}/t") == [f"{tmp_path}/tiny.toml"]
    assert complete_config("nowhere/") == []


def test_a_name_cannot_steer_the_terminal(run: Run) -> None:
    assert printable("a\x1b[31m😀\n") == "a?[31m😀?"
    _, stdout, err = run(*ISSUE, "--name", 'x"\x1b[2J')
    assert "\x1b" not in stdout + err
    assert tomllib.loads(stdout)["name"] == 'x"\x1b[2J'
