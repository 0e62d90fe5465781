"""Budgets: how they are written, what they mean, and the sizes that arithmetic alone tells."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.models.config import load_config
from edgeprof.search.budgets import (
    METRICS,
    Budget,
    check_budgets,
    file_bytes,
    load_budget,
    load_budgets,
    parse_budget,
    state_bytes,
    static_limits,
    static_value,
)
from edgeprof.search.space import load_space

GOOD = """schema_version = 1

[[budget]]
metric = "tpot"
limit = "12ms"
at = 4096
"""
TTFT = """
[[budget]]
metric = "ttft"
limit = "0.9s"
at = 1024
chunk = 256
runtime = "executorch"
dtype = "8da4w"
n_threads = 4
device = "galaxy-s25"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "budgets.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("metric", "text", "limit", "at", "name"),
    [
        ("tpot", "12ms@4096", 12e6, 4096, "tpot@4096"),
        ("tpot", "850 us@4k", 850e3, 4096, "tpot@4096"),
        ("tpot", "9000000ns@1", 9e6, 1, "tpot@1"),
        ("ttft", "1.5s@1024", 1.5e9, 1024, "ttft@1024"),
        ("peak_memory", "300MiB", 300 * 2**20, None, "peak_memory"),
        ("peak_memory", "300MB@32k", 300e6, 32_768, "peak_memory@32768"),
        ("state", "1.5G@4096", 1.5 * 2**30, 4096, "state@4096"),
        ("params", "100M", 100_000_000, None, "params"),
        ("params", "1.2B", 1_200_000_000, None, "params"),
        ("params", "500k", 500_000, None, "params"),
        ("file_size", "60MB", 60_000_000, None, "file_size"),
        ("file_size", "300", 300, None, "file_size"),
    ],
)
def test_a_budget_is_written_as_people_say_it(metric: str, text: str, limit: float, at: int | None, name: str) -> None:
    budget = parse_budget(metric, text)
    assert (budget.metric, budget.limit, budget.at, budget.name) == (metric, limit, at, name)
    assert (budget.runtime, budget.dtype, budget.n_threads, budget.device) == (None, None, None, "local")


@pytest.mark.parametrize(
    ("metric", "text", "message"),
    [
        ("tpot", "12@4096", "--tpot: '12' is not a time with its unit; write 12ms, 900us or 1.5s"),
        ("tpot", "12MiB@4096", "--tpot: '12MiB' is not a time with its unit; write 12ms, 900us or 1.5s"),
        ("tpot", "12ms", "--tpot: tpot needs a context; write 12ms@4096, or at = ... in a file"),
        ("tpot", "12ms@", "--tpot: '12ms@' is no budget; write 12ms@4096"),
        ("tpot", "@4096", "--tpot: '@4096' is no budget; write 12ms@4096"),
        ("tpot", "-1ms@4096", "--tpot: '-1ms' is not a time with its unit; write 12ms, 900us or 1.5s"),
        ("tpot", "0ms@4096", "--tpot: 0ms is no time to allow; use more than 0 and at most 3600s"),
        ("tpot", "2000000s@4096", "--tpot: 2000000s is no time to allow; use more than 0 and at most 3600s"),
        ("tpot", "12ms@0", "--tpot: 0 is not a length; use 1 or more"),
        ("tpot", "12ms@1k,4k", "--tpot: 1k,4k means 2 lengths; repeat the option for each"),
        ("ttft", "900ms", "--ttft: ttft needs a prompt; write 900ms@1024, or at = ... in a file"),
        ("peak_memory", "300ms", "--peak-memory: '300ms' is not a number of bytes; write 256MiB, 1.5GiB or plain bytes"),
        ("params", "100M@4096", "--params: '100M@4096': params is the same at every length; write 100M"),
        ("params", "0", "--params: 0 is no count to allow; use 1 to 10000000000000"),
        ("params", "many", "--params: 'many' is not a count; write 100M, 1.2B or plain digits"),
        ("tpto", "12ms@4096", "--tpto: unknown metric 'tpto': did you mean tpot or ttft?"),
    ],
)  # fmt: skip
def test_a_wrong_budget_is_answered_with_the_option_and_an_example(metric: str, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget(metric, text)
    assert str(caught.value) == message


def test_only_memory_and_time_have_to_be_measured() -> None:
    text = {"tpot": "1ms@1", "ttft": "1ms@1", "state": "1MiB@1"}
    static = [m for m in METRICS if parse_budget(m, text.get(m, "1")).is_static]
    assert static == ["state", "params", "file_size"]


def test_what_a_budget_does_not_state_is_filled_in_under_its_own_name() -> None:
    tpot = parse_budget("tpot", "12ms@4096").filled(runtime="onnxruntime", dtype="int4", n_threads=2)
    assert (tpot.target_key, tpot.name) == (("onnxruntime", "int4", 2, "local"), "tpot@4096")
    again = tpot.filled(runtime="executorch", dtype="fp32", n_threads=1)
    assert again == tpot


def test_what_means_nothing_for_a_budget_is_not_filled_in() -> None:
    usual = {"runtime": "onnxruntime", "dtype": "int4", "n_threads": 2}
    params, size = parse_budget("params", "1M"), parse_budget("file_size", "1MB")
    assert params.filled(**usual) == params  # type: ignore[arg-type]
    assert size.filled(**usual).target_key == (None, "int4", None, "local")  # type: ignore[arg-type]


def test_a_file_holds_budgets_of_several_places(tmp_path: Path) -> None:
    tpot, ttft = load_budgets(write(tmp_path, GOOD + TTFT))
    assert tpot == parse_budget("tpot", "12ms@4096")
    assert (ttft.limit, ttft.at, ttft.chunk) == (0.9e9, 1024, 256)
    assert ttft.target_key == ("executorch", "8da4w", 4, "galaxy-s25")
    assert ttft.name == "ttft@1024 chunk 256 executorch 8da4w 4 threads on galaxy-s25"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("metric", "metrics"), "budget[0].metric: is missing; add it"),
        (GOOD + "att = 1", "budget[0].att: no such field; did you mean at?"),
        (GOOD.replace("[[budget]]", "[[budgets]]"), "budget: is missing; add it"),
        (GOOD.replace("version = 1", "version = 9"), "schema_version: 9 is newer than 1; upgrade edgeprof"),
        (GOOD.replace('"12ms"', "12"), 'budget[0].limit: 12 is not a text in quotes; a limit has its unit, as in "12ms"'),
        (GOOD.replace('"12ms"', '"12"'), "budget[0].limit: '12' is not a time with its unit; write 12ms, 900us or 1.5s"),
        (GOOD.replace("tpot", "tpto"), "budget[0].metric: unknown metric 'tpto': did you mean tpot or ttft?"),
        (GOOD.replace("at = 4096", ""), "budget[0]: tpot needs a context; write 12ms@4096, or at = ... in a file"),
        (GOOD.replace("4096", "0"), "budget[0].at: 0 is too small; use 1 or more"),
        (GOOD + "chunk = 2", "budget[0].chunk: means nothing for tpot; leave it out"),
        (GOOD + 'runtime = "onnx"', "budget[0].runtime: unknown runtime 'onnx': did you mean onnxruntime?"),
        (GOOD + 'dtype = "int4/int9"', "budget[0].dtype: unknown kv-dtype 'int9': did you mean int8?"),
        (GOOD + "n_threads = 5000", "budget[0].n_threads: 5000 is too large for a number of threads; use at most 1024"),
        (GOOD + 'device = "../x"', "budget[0].device: '../x' is no device id; edgeprof devices lists what is stored"),
        (GOOD + TTFT.replace("1024", "100000").replace("256", "1"), "budget[1].chunk: 1 makes more than 1024 calls of it"),
        (GOOD + GOOD.partition("\n")[2].replace("12ms", "9ms"), "budget tpot@4096: comes twice; keep one"),
        ("schema_version = 1\nbudget = []", "budget: is empty; give at least one [[budget]] table"),
        ("schema_version = 1\nbudget = 3", "budget: 3 is not a list; write [[budget]] tables"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_answered_with_the_field_and_the_fix(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_budgets(write(tmp_path, text))
    found = str(caught.value)
    assert found.startswith("budgets.toml: ")
    assert message in found
    assert "\n" not in found


def test_a_missing_file_is_answered_with_what_to_give() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml: no such file; give a file of \[\[budget\]\] tables"):
        load_budgets(Path("nowhere.toml"))


def test_the_same_question_in_other_places_is_no_contradiction() -> None:
    def tpot(limit: str, n_threads: int) -> Budget:
        return parse_budget("tpot", f"{limit}@4096").filled(runtime="executorch", dtype="8da4w", n_threads=n_threads)

    assert len(check_budgets([tpot("12ms", 1), tpot("9ms", 4)])) == 2
    with pytest.raises(UsageError, match="budget tpot@4096: comes twice; keep one"):
        check_budgets([tpot("12ms", 1), tpot("9ms", 4), tpot("8ms", 4)])


def test_a_budget_comes_back_from_what_a_study_keeps(tmp_path: Path) -> None:
    for budget in load_budgets(write(tmp_path, GOOD + TTFT)):
        filled = budget.filled(runtime="onnxruntime", dtype="int4/int8", n_threads=2)
        assert load_budget(json.loads(json.dumps(asdict(filled)))) == filled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": "12ms"}, "stored budget: limit: '12ms' is not a number"),
        ({"limit": 0}, "stored budget: limit: 0 is too small; use more than 0"),
        ({"metric": "speed"}, "stored budget.metric: unknown metric 'speed'"),
        ({"dtype": "int5"}, "stored budget.dtype: unknown dtype 'int5'"),
        ({"colour": "red"}, "stored budget: colour: no such field"),
    ],
)
def test_a_kept_budget_that_was_tampered_with_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_budget(asdict(parse_budget("tpot", "12ms@4096")) | change)
    assert message in str(caught.value)


def static(metric: str, text: str, dtype: str | None = None) -> Budget:
    budget = parse_budget(metric, text)
    return budget if dtype is None else budget.filled(runtime="-", dtype=dtype, n_threads=1)


def test_lfm2_350m_has_the_sizes_that_its_paper_gives_by_hand() -> None:
    config = load_config("lfm2-350m")
    assert static_value(static("params", "1B"), config) == 354_483_968  # arXiv 2511.23404
    # 6 attention layers of 8 KV heads x 64, keys and values; 10 convolutions keep 2 inputs of 1024
    assert state_bytes(config, 4096, "bf16") == 6 * 2 * 4096 * 8 * 64 * 2 + 10 * 2 * 1024 * 2
    assert file_bytes(config, "bf16") == 2 * 354_483_968


def test_a_quantised_file_holds_a_tied_projection_apart() -> None:
    config = load_config("tiny-hybrid")
    table = 512 * 64
    matrices = [w.size for layer in config.layers for w in layer.weights().values() if w.kind == "linear"]
    # int4 packs table and projection at 5 bits a weight each, 8da4w leaves the table in fp32 and packs the projection at 4.5
    more = table * (32 + 4.5 - 5 - 5) / 8 - sum(matrices) * 0.5 / 8
    assert file_bytes(config, "8da4w") - file_bytes(config, "int4") == more


def test_a_state_budget_knows_the_caches_format() -> None:
    config = load_config("tiny-gqa")
    plain, int8, usual = (static_value(static("state", "1MiB@100", d), config) for d in ("fp32", "fp32/int8", "bf16"))
    assert (plain, usual) == (4 * int8, 2 * int8)


def test_a_size_in_no_format_is_refused() -> None:
    for metric, text in (("state", "1MiB@100"), ("file_size", "1MB")):
        with pytest.raises(UsageError, match=r"budget .*: dtype: is missing; give --dtype"):
            static_value(parse_budget(metric, text), load_config("tiny-gqa"))


def test_only_static_budgets_become_limits_on_paper() -> None:
    space = load_space("lfm2")
    budgets = [parse_budget("tpot", "12ms@4096"), static("params", "350M"), static("state", "64MiB@4096", "bf16")]
    params, state = static_limits(space, budgets)
    assert (params.name, params.limit, state.name, state.limit) == ("params", 350e6, "state@4096", 64 * 2**20)
    layout = space.layout_of(load_config("lfm2-350m"))
    assert params.value(layout) == 354_483_968
    assert not params.keeps(layout)
    assert state.keeps(layout)
