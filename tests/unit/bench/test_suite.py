"""Suite files: what ships, and what a wrong one is answered with."""

from pathlib import Path

import pytest

from edgeprof.bench.suite import Suite, length_pairs, load_suite, shipped_suites
from edgeprof.core.errors import UsageError

HEAD = 'schema_version = 1\ndescription = "mine"\n'
CELLS = HEAD + '[[cells]]\nop = ["gqa"]\nruntime = ["torch_eager"]\nphase = ["decode"]\nkv_len = [64]\n'


def write(folder: Path, text: str, name: str = "my.toml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def load_error(name: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_suite(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_shipped_suites_are_these() -> None:
    assert shipped_suites() == ["ci", "lfm2-1.2b", "lfm2-350m", "quick", "talk"]


def test_talk_is_the_chart_of_the_talk() -> None:
    decode, prefill = load_suite("talk").cells
    assert (decode.phase, decode.kv_len) == (("decode",), (1024, 4096, 16384))
    assert (prefill.phase, prefill.q_len) == (("prefill",), (1024, 4096))
    for cell in (decode, prefill):
        assert cell.op == ("short_conv", "swa", "gqa")
        assert cell.runtime == ("torch_eager", "onnxruntime", "executorch")
        assert cell.dtype == ("fp32", "int4", "8da4w")
        assert cell.cache_state == ("hot", "streaming")
        assert cell.threads == cell.batch == (1,)


def test_quick_and_talk_measure_at_the_dimensions_of_lfm2_350m() -> None:
    expected = {
        "d_model": (1024,), "n_heads": (16,), "n_kv_heads": (8,), "head_dim": (64,), "qk_norm": (True,),
        "window": (512,), "kernel_size": (3,), "d_ff": (4608,), "vocab": (65536,),
    }  # fmt: skip
    assert [load_suite(name).dims for name in ("quick", "talk", "lfm2-350m")] == [expected] * 3


def test_lfm2_1_2b_is_wider() -> None:
    dims = load_suite("lfm2-1.2b").dims
    assert (dims["d_model"], dims["n_heads"], dims["d_ff"]) == ((2048,), (32,), (8192,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CELLS.replace("[64]", "[64, -4]"), "cells[0].kv_len[1]: -4 is not a length; use 1 or more"),
        (CELLS.replace("[64]", "[0]"), "cells[0].kv_len[0]: 0 is not a length; use 1 or more"),
        (CELLS.replace("[64]", "[99999999]"), "cells[0].kv_len[0]: 99999999 is too large; use at most 16777216"),
        (CELLS.replace("[64]", "[true]"), "cells[0].kv_len[0]: True is not a whole number"),
        (CELLS.replace("[64]", "64"), "cells[0].kv_len: 64 is not a list; write [64]"),
        (CELLS.replace('["gqa"]', '"gqa"'), "cells[0].op: 'gqa' is not a list; write ['gqa']"),
        (CELLS.replace("kv_len", "kv_length"), "cells[0].kv_length: no such field; did you mean kv_len"),
        (CELLS.replace("description", "describtion"), "description: is missing (and 1 more)"),
        (CELLS.replace('"gqa"', '"gqua"'), "cells[0].op[0]: unknown operator 'gqua': did you mean gqa?"),
        (
            CELLS.replace("eager", "eage"),
            "cells[0].runtime[0]: unknown runtime 'torch_eage': did you mean torch_eager or torch_compile?",
        ),
        (CELLS + 'dtype = ["int5"]', "cells[0].dtype[0]: unknown dtype 'int5': did you mean int4?"),
        (CELLS + 'dtype = ["fp32/int9"]', "cells[0].dtype[0]: unknown kv-dtype 'int9': did you mean int8?"),
        (CELLS.replace('"decode"', '"decod"'), "cells[0].phase[0]: unknown 'decod': did you mean decode?"),
        (CELLS + "batch = []", "cells[0].batch: is empty; give at least one value"),
        (CELLS + "threads = [0]", "cells[0].threads[0]: 0 is not a size; use 1 or more"),
        (CELLS + "q_len = [9]", "cells[0].q_len: decode takes 1 to 8 new tokens, not 9; use phase prefill"),
        (CELLS + "q_len = [8]\ndims = {window = 3}", "cells[0].dims.window: no operator of this cell has it; "),
        (CELLS + "dims = {head_dim = 0}", "cells[0].dims.head_dim: 0 is not a size; use 1 to 16777216"),
        (CELLS + 'dims = {head_dim = "64"}', "cells[0].dims.head_dim: '64' is not a number, true or false"),
        (HEAD + "dims = {windo = 3}\n", "dims.windo: no operator has it; did you mean window?"),
        (HEAD, "cells: a suite needs [[cells]] or includes"),
        (
            CELLS.replace("= 1", "= 2", 1),
            "schema_version: 2 is newer than this edgeprof can read (1); upgrade edgeprof",
        ),
        (CELLS.replace("schema_version = 1", ""), "schema_version: write schema_version = 1"),
        (HEAD + "cells = [", "not TOML: "),
        (HEAD + f"includes = {'[' * 5000}", "not TOML: "),
        (HEAD + f"batch = {'9' * 5000}", "not TOML: "),
        (HEAD + f"{'a.' * 100_000}b = 1", "not TOML: has more than 8192 dots"),
        (HEAD + 'includes = ["quik"]', "includes[0]: unknown suite 'quik': did you mean quick?"),
        (
            CELLS.replace("kv_len = [64]", ""),
            "cells[0].kv_len: decode needs a context; give --kv-len or kv_len = [...]",
        ),
    ],
)
def test_a_wrong_suite_is_answered_in_one_line_with_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    name = write(tmp_path, text)
    assert load_error(name).startswith(f"{name}: {message}")


def test_a_binary_file_is_no_suite(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes(bytes(range(256)))
    assert load_error(str(tmp_path / "my.toml")).endswith("my.toml: is not text in UTF-8, so not a TOML file")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "my.toml").open("wb") as file:
        file.truncate(2**33)
    assert load_error(str(tmp_path / "my.toml")).endswith("8 GiB is too large for a suite; the limit is 1 MiB")


def test_a_folder_is_no_suite(tmp_path: Path) -> None:
    (tmp_path / "my.toml").mkdir()
    assert load_error(str(tmp_path / "my.toml")).endswith("my.toml: not a file; give a TOML file or a suite's name")


def test_a_missing_file_and_an_unknown_name_offer_what_there_is(tmp_path: Path) -> None:
    assert "no such suite file; shipped suites: ci, lfm2-1.2b, lfm2-350m, quick, talk" in load_error(
        str(tmp_path / "x.toml")
    )
    assert "no such suite file" in load_error("x" * 5000 + ".toml")
    assert load_error("tlak") == "unknown suite 'tlak': did you mean talk?; a file's name ends in .toml"


def test_includes_come_first_and_keep_their_own_dims(tmp_path: Path) -> None:
    write(tmp_path, CELLS + "dims = {d_model = 64}\n", "base.toml")
    mine = write(tmp_path, CELLS.replace('"mine"', '"mine"\nincludes = ["base.toml", "quick"]\ndims = {d_model = 128}'))
    suite = load_suite(mine)
    assert [c.dims["d_model"] for c in suite.cells] == [(64,), (1024,), (1024,), (128,)]


def test_a_suite_that_includes_itself_through_others_is_refused(tmp_path: Path) -> None:
    write(tmp_path, HEAD + 'includes = ["b.toml"]\n', "a.toml")
    write(tmp_path, HEAD + 'includes = ["a.toml"]\n', "b.toml")
    message = load_error(str(tmp_path / "a.toml"))
    assert message.endswith("includes: a suite cannot include itself (a.toml includes b.toml includes a.toml)")


def test_two_suites_may_include_the_same_third(tmp_path: Path) -> None:
    for name in ("a.toml", "b.toml"):
        write(tmp_path, HEAD + 'includes = ["quick"]\n', name)
    suite: Suite = load_suite(write(tmp_path, HEAD + 'includes = ["a.toml", "b.toml"]\n'))
    assert len(suite.cells) == 2 * len(load_suite("quick").cells)


def test_a_prefill_for_which_one_length_is_given_is_a_full_one() -> None:
    assert (
        length_pairs("prefill", (128, 256), None)
        == length_pairs("prefill", None, (128, 256))
        == [(128, 128), (256, 256)]
    )


def test_both_lengths_of_a_prefill_mean_every_chunk_that_fits() -> None:
    assert length_pairs("prefill", (128, 512), (256, 1024)) == [(128, 256), (128, 1024), (512, 1024)]


@pytest.mark.parametrize(
    ("q_lens", "kv_lens", "message"),
    [
        ((4,), (2, 8), "kv_len: counts the new tokens too; use at least q_len = 4, not 2"),
        ((4, 8), (6,), "kv_len: counts the new tokens too, so 6 is too small for q_len 8"),
    ],
)
def test_a_length_that_could_never_be_used_is_told(
    q_lens: tuple[int, ...], kv_lens: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        length_pairs("decode", q_lens, kv_lens)
    assert str(caught.value) == message
