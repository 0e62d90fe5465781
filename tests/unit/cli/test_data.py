"""``edgeprof data prepare`` and ``edgeprof data stats``."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprof.cli import app
from edgeprof.cli.data import parse_share
from edgeprof.core.errors import UsageError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs ``edgeprof data``; prepare reads a small file into ``out`` unless told otherwise."""
    source = tmp_path / "data.txt"
    source.write_text("\n\n".join(f"paragraph {n} of the text" for n in range(50)))

    def invoke(action: str, *args: object) -> tuple[int, str, str]:
        usual = (
            [source, "--split-blank-lines", "--out", tmp_path / "out"] if action == "prepare" else [tmp_path / "out"]
        )
        code = app.run(["data", action, *(str(a) for a in (*usual, *args))])
        return code, *capsys.readouterr()

    return invoke


def test_prepare_prints_what_stats_prints(run: Run) -> None:
    code, made, err = run("prepare", "--vocab", "300", "--json")
    assert code == 0
    assert "tokenise" in err
    document = json.loads(made)
    assert document["schema_version"] == 1
    assert document["documents"] == 50
    assert document["splits"]["train"]["documents"] + document["splits"]["held_out"]["documents"] == 50
    assert json.loads(run("stats", "--json")[1]) == document


def test_stats_is_a_table_for_people(run: Run) -> None:
    run("prepare", "--vocab", "300")
    code, out, err = run("stats", "--check")
    assert (code, err) == (0, "")
    assert "50 documents" in out
    assert "held out" in out
    assert "Every checksum is right." in out


def test_check_finds_a_corrupt_shard(run: Run, tmp_path: Path) -> None:
    run("prepare", "--vocab", "300")
    path = tmp_path / "out" / "train-00000.bin"
    path.write_bytes(path.read_bytes()[::-1])
    assert run("stats")[0] == 0
    code, out, err = run("stats", "--check")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "train-00000.bin: its checksum is not the one in index.json" in err


def test_the_configuration_gives_vocabulary_and_special_tokens(run: Run) -> None:
    code, out, _ = run("prepare", "--config", "lfm2-350m", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["vocab"] == 65_536
    assert [document["tokenizer"][f"{role}_token"] for role in ("eos", "bos", "pad")] == [7, 1, 0]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "--vocab: is missing"),
        (("--vocab", "x"), "--vocab: 'x' is not a vocabulary"),
        (("--vocab", "300,400"), "--vocab: 300,400 is more than one"),
        (("--vocab", "99"), "vocab: 99 is too small"),
        (("--vocab", "99", "--config", "lfm2-350m"), "--vocab: 99 is not the vocab = 65536 of lfm2-350m"),
        (("--vocab", "300", "--held-out", "all"), "--held-out: 'all' is no share up to 50%"),
        (("--vocab", "300", "--tokenizer", "/nowhere"), "/nowhere: no such file"),
        (("--config", "nothing"), "config 'nothing'"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_leaves_no_folder(
    run: Run, tmp_path: Path, args: tuple[str, ...], said: str
) -> None:
    code, out, err = run("prepare", *args)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_that_what_is_done_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edgeprof.train.data.prepare._Work._index", interrupt)
        code, _, err = run("prepare", "--vocab", "300")
    assert code == 130
    assert err.endswith("edgeprof: interrupted; what was tokenised is kept; the same command goes on from there\n")
    assert "unfinished" in run("stats")[2]
    assert run("prepare", "--vocab", "300")[0] == 0


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.01", 0.01), (".25", 0.25), ("0", 0), ("2.5 %", 0.025)])
def test_shares_are_read_as_people_write_them(text: str, share: float) -> None:
    assert parse_share(text, field="--held-out") == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "-1%", "51%", "1", "nan", "1%%", "1e-3"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no share up to 50%"):
        parse_share(text, field="--held-out")
