"""``edgeprof eval doom-loop``, ``edgeprof eval model`` and ``edgeprof distill prepare``."""

import json
from pathlib import Path

import pytest

from edgeprof.cli import app
from edgeprof.cli.eval_options import parse_temperatures
from edgeprof.core.errors import UsageError
from edgeprof.train.evaluate import generation

COMMANDS = {
    "eval doom-loop": "edgeprof.cli.eval_doom_loop:doom_loop",
    "eval model": "edgeprof.cli.eval_model:evaluate",
    "distill prepare": "edgeprof.cli.distill_prepare:prepare",
}


@pytest.fixture
def edgeprof(capsys, monkeypatch):
    for name, where in COMMANDS.items():
        monkeypatch.setitem(app.COMMANDS, name, (where, ""))

    def invoke(*args):
        code = app.run([str(a) for a in args])
        return code, *capsys.readouterr()

    return invoke


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "the model", "set": "a"}\n{"prompt": "", "set": "b"}\n')
    return path


def doom_loop(edgeprof, folder, prompts, *args):
    return edgeprof("eval", "doom-loop", folder, "--prompts", prompts, "--max-tokens", 40, "--samples", 3, *args)


def test_the_doom_loop_document_holds_rows_and_every_text(edgeprof, own_folder, prompts):
    code, out, err = doom_loop(edgeprof, own_folder, prompts, "--temperature", "0,1", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["complete"] is True
    assert document["rule"] == {"min_repeats": 4, "min_chars": 60, "max_period": 1024}
    assert [(r["prompt_set"], r["temperature"], r["n"]) for r in document["rows"]] == [
        ("a", 0, 1), ("b", 0, 1), ("all", 0, 2), ("a", 1, 3), ("b", 1, 3), ("all", 1, 6)
    ]  # fmt: skip
    assert len(document["generations"]) == 8
    loops = sum(g["loop"] is not None for g in document["generations"])
    assert loops == sum(r["loops"] for r in document["rows"] if r["prompt_set"] == "all")
    assert "4/4: done" in err


def test_the_doom_loop_table_is_for_people(edgeprof, hf_folder, prompts):
    code, out, _ = doom_loop(edgeprof, hf_folder("llama"), prompts, "--temperature", "0.7")
    assert code == 0
    assert "Endless repetition of llama" in out
    assert "continued as they are" in out
    assert out.count("0.7") == 3


def test_an_interrupted_doom_loop_shows_what_is_done(edgeprof, own_folder, prompts, monkeypatch):
    real, left = generation.generate_texts, [2]

    def until_interrupted(*args, **named):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*args, **named)

    monkeypatch.setattr(generation, "generate_texts", until_interrupted)
    code, out, err = doom_loop(edgeprof, own_folder, prompts, "--temperature", "0,1", "--json")
    assert code == app.INTERRUPTED
    assert json.loads(out)["complete"] is False
    assert len(json.loads(out)["generations"]) == 4
    assert "interrupted; 4 texts were generated" in err


def test_a_model_is_evaluated_on_held_out_text(edgeprof, own_folder, data):
    arguments = ("eval", "model", own_folder, "--data", data, "--max-tokens", 5, "--temperature", "0")
    code, out, err = edgeprof(*arguments, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["held_out"]["seq_len"] == 64
    assert document["held_out"]["bits_per_byte"] > 0
    assert [row["pairs"] for row in document["recall"]] == [8]
    assert len(document["samples"]) == 1
    code, table, _ = edgeprof(*arguments)
    assert code == 0
    assert f"{document['held_out']['loss']:.4f}" in table
    assert "score" in err


def test_a_run_is_evaluated_on_its_own_data_and_as_it_was_trained(edgeprof, run, tmp_path):
    summary = run(tmp_path / "run")
    code, out, _ = edgeprof("eval", "model", tmp_path / "run", "--max-tokens", 2, "--temperature", "0", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["held_out"]["seq_len"] == 32
    assert document["held_out"]["loss"] == pytest.approx(summary.held_out_loss, rel=1e-5)
    assert document["held_out"]["bits_per_byte"] == pytest.approx(summary.bits_per_byte, rel=1e-5)


def test_a_folder_that_is_no_run_needs_data(edgeprof, own_folder):
    code, _, err = edgeprof("eval", "model", own_folder)
    assert code == 2
    assert "--data: is missing" in err
    assert len(err.splitlines()) == 1


def test_distill_prepare_stores_and_finds_what_is_stored(edgeprof, hf_folder, data, tmp_path):
    arguments = ("--teacher", hf_folder("llama"), "--data", data, "--out", tmp_path / "out", "--seq-len", 32, "--k", 8)
    code, out, err = edgeprof("distill", "prepare", *arguments, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["tokens"] == document["sequences"] * 32
    files = [p for p in (tmp_path / "out").iterdir() if Path(p).name.startswith("top-k-")]
    assert document["size_bytes"] == sum(p.stat().st_size for p in files) == document["tokens"] * (2 + 8 * 4)
    assert "read" in err
    code, table, err = edgeprof("distill", "prepare", *arguments)
    assert (code, err) == (0, "")
    assert f"--seq-len 32 --teacher {tmp_path / 'out'}" in table


@pytest.mark.parametrize("text", ["", "x", "-1", "0,0", "1e3", "101", "0,,1"])
def test_temperatures_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="--temperature"):
        parse_temperatures(text)


def test_temperatures_are_numbers_with_commas():
    assert parse_temperatures("0, 0.7,1.0,.5") == [0, 0.7, 1, 0.5]
