"""``edgeprof train`` as a user runs it: interrupted, killed, under torchrun, and what it leaves behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprof.train.metrics import read_metrics

pytestmark = pytest.mark.slow

OPTIONS = ("--tokens", "9600", "--seq-len", "32", "--batch", "4", "--lr", "0.01", "--precision", "fp32")
ALSO = ("--threads", "1", "--save-every", "5", "--held-out", "10%")
STEPS = 75


@pytest.fixture(scope="module")
def home(make_program) -> "Program":  # noqa: F821
    """A program with a corpus, a small config, and the roof of this machine known."""
    program = make_program("train")
    chance = random.Random(1)
    words = ["the", "model", "reads", "tokens", "writes", "what", "may", "follow", "layers", "mix", "norms", "scale"]
    (program.home / "text").mkdir()
    for number in range(2):
        lines = [json.dumps({"text": " ".join(chance.choices(words, k=30))}) for _ in range(120)]
        (program.home / "text" / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    config = """
schema_version = 1
name = "small"
d_model = 32
vocab = 300
max_context = 64
[[layers]]
mixer = { op = "short_conv", kernel_size = 3 }
ffn = { op = "swiglu", d_ff = 48 }
[[layers]]
mixer = { op = "gqa", n_heads = 4, n_kv_heads = 2, head_dim = 8 }
ffn = { op = "swiglu", d_ff = 48 }
"""
    (program.home / "small.toml").write_text(config)
    know_the_roof(program)
    return program


def know_the_roof(program) -> None:
    """As if it had been measured before, by the program's own name for it."""
    script = "import torch; torch.set_num_threads(1); from edgeprof.train.roof import roof_path; print(roof_path(1))"
    path = Path(program.run(script=script).stdout.strip())
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"fp32": 1e11, "bf16": 2e11}))


def command(out: str, *more: str) -> tuple[str, ...]:
    """Data as a shell expands it: one behind the option, the others behind it."""
    return ("train", "small.toml", "--out", out, *OPTIONS, *ALSO, *more, "--data", "text/0.jsonl", "text/1.jsonl")


@pytest.fixture(scope="module")
def whole(home):
    """A run that nothing interrupted."""
    done = home.run(*command("whole", "--json"))
    assert done.returncode == 0, done.stderr
    return done


def losses(program, out: str) -> list[float]:
    return [row["loss"] for row in read_metrics(program.home / out / "metrics.jsonl") if "grad_norm" in row]


def n_rows(program, out: str) -> Callable[[int], bool]:
    return lambda least: len(read_metrics(program.home / out / "metrics.jsonl")) >= least


def test_the_last_document_is_the_contract(home, whole) -> None:
    document = json.loads(whole.stdout)
    assert {
        "run", "steps", "tokens", "loss", "held_out_loss", "bits_per_byte", "tokens_per_s", "checkpoint", "model",
    } <= set(document)  # fmt: skip
    assert (document["steps"], document["tokens"]) == (STEPS, 9600)
    assert document["loss"] < 4
    assert (home.home / document["checkpoint"] / "model.safetensors").is_file()
    assert {p.name for p in (home.home / document["model"]).iterdir()} >= {
        "config.json", "config.toml", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert (home.home / "whole" / "loss.svg").read_text().startswith("<?xml")
    assert "MFU" in whole.stderr


def test_rows_hold_what_scripts_were_promised(home, whole) -> None:
    rows = [row for row in read_metrics(home.home / "whole" / "metrics.jsonl") if "grad_norm" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_s"} <= set(rows[0])


def test_the_status_is_that_of_the_folder(home, whole) -> None:
    done = home.run("train", "status", "whole", "--json")
    assert json.loads(done.stdout) == json.loads(whole.stdout)
    shown = home.run("train", "status", "whole")
    assert "small in whole: finished" in shown.stdout
    assert "edgeprof export whole/model/config.toml --weights whole/model --to gguf" in shown.stdout


def test_the_trained_model_exports(home, whole) -> None:
    done = home.run(
        "export", "whole/model/config.toml", "--weights", "whole/model", "--to", "hf", "--out", "exported", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert "tokenizer.json" in json.loads(done.stdout)["notes"][0]


def test_kills_at_random_moments_change_no_bit(home, whole, waiting) -> None:
    """Also while a checkpoint is written: there is one every fifth step."""
    chance = random.Random(5)
    rows = n_rows(home, "killed")
    for least in (12, 31, 58):
        process = home.start(*command("killed"))
        assert waiting(lambda least=least: rows(least), process)
        time.sleep(chance.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    done = home.run(*command("killed"))
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stderr
    assert losses(home, "killed") == losses(home, "whole")
    one, other = (
        (home.home / out / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors").read_bytes()
        for out in ("whole", "killed")
    )
    assert one == other


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_the_step_and_says_how_to_go_on(home, waiting, number) -> None:
    out = f"stopped-{number}"
    process = home.start(*command(out))
    assert waiting(lambda: n_rows(home, out)(8), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    last = err.splitlines()[-1]
    assert last.startswith("edgeprof: interrupted; step ")
    assert last.endswith(f"of {STEPS} is saved; the same command goes on from there")
    saved = max(int(p.name[5:]) for p in (home.home / out / "checkpoints").iterdir())
    assert len(losses(home, out)) == saved


def test_a_corrupt_checkpoint_is_told_and_the_one_before_is_used(home, whole, waiting) -> None:
    out = "corrupt"
    process = home.start(*command(out))
    assert waiting(lambda: n_rows(home, out)(25), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    latest = sorted((home.home / out / "checkpoints").glob("step-*"))[-1]
    with (latest / "optimiser.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
        file.seek(-2, os.SEEK_END)
        file.write(b"\x7f")
    done = home.run(*command(out))
    assert done.returncode == 0, done.stderr
    assert f"checkpoint {latest.name} is not used" in done.stderr
    assert losses(home, out) == losses(home, "whole")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--data", "nothing/*.txt"), "nothing"),
        (("--lr", "0"), "options: lr: 0"),
        (("--tokens", "lots"), "--tokens: 'lots' is no number of tokens"),
        (("--device", "tpu"), "--device: 'tpu' is none"),
        (("--seq-len", "1"), "options: seq_len: 1 is too small"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(home, args, told) -> None:
    done = home.run("train", "small.toml", "--out", "never", *args)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("edgeprof: error: ")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_of_another_run_is_refused(home, whole) -> None:
    done = home.run("train", "small.toml", "--out", "whole", "--lr", "0.02")
    assert done.returncode == 2
    assert "holds another run (lr: was 0.01, now 0.02)" in done.stderr


def test_torchrun_starts_two_processes_that_share_a_batch(home, whole) -> None:
    launched = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        "-m", "edgeprof", *command("two", "--json"),
    ]  # fmt: skip
    done = subprocess.run(launched, env=home.environment, cwd=home.home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == STEPS
    assert losses(home, "two")[:10] == pytest.approx(losses(home, "whole")[:10], abs=1e-3)
