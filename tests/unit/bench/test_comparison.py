"""Which cells of two sides are compared, and what is said of a pair."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprof.bench.comparison import (
    Comparison,
    compare_sides,
    load_side,
    parse_selector,
    side_of,
    verdict,
    with_drift,
)
from edgeprof.bench.report import build_report
from edgeprof.core.errors import BaselineError, UsageError
from edgeprof.core.types import InstanceRecord
from edgeprof.stats.ratios import Ratio

NOISE = np.random.default_rng(7)


def rounds_around(ns: float, drift: list[float], sd: float = 0.003) -> list[list[int]]:
    """Two loads in each round: the host's drift is common to a round, the rest is noise."""
    return [[round(ns * d * math.exp(NOISE.normal(0, sd))) for _ in range(2)] for d in drift]


DRIFT = [1.0, 1.06, 0.95, 1.03, 0.97, 1.02]


def compared(records: list[InstanceRecord], a: str, b: str) -> Comparison:
    devices = sorted({r.device_id for r in records})
    reports = [build_report(d, [r for r in records if r.device_id == d]) for d in devices]
    return compare_sides(*(side_of(parse_selector(text, side=name), reports) for name, text in (("A", a), ("B", b))))


Make = Callable[..., Any]


def test_a_selector_reads_fields_dims_and_places() -> None:
    selector = parse_selector(
        "runtime=onnxruntime, dtype=int4/int8,kv-len=4k,threads=2,window=512,qk_norm=true", side="A"
    )
    assert selector.wanted == {
        "runtime": "onnxruntime",
        "dtype": "int4",
        "kv_dtype": "int8",
        "kv_len": 4096,
        "n_threads": 2,
        "window": 512,
        "qk_norm": True,
    }
    places = parse_selector("results=/tmp/x,device=pixel,session=abc", side="B")
    assert (places.results, places.device, places.session) == (Path("/tmp/x"), "pixel", "abc")
    assert places.keys == {"results", "device", "session"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runtme=x", "A: unknown key 'runtme': did you mean runtime"),
        ("runtime=onnxruntme", "A: unknown runtime 'onnxruntme': did you mean onnxruntime"),
        ("op=gqqa", "A: unknown operator 'gqqa'"),
        ("dtype=fp31", "A: unknown dtype 'fp31'"),
        ("cache_state=warm", "A: unknown cache-state 'warm'"),
        ("gqa", "A: 'gqa' is not key=value"),
        ("op=", "A: 'op=' is not key=value"),
        ("", "A: '' is not key=value"),
        ("op=gqa,op=swa", "A: op is given twice"),
        ("kv_len=1k-4k*2", "A: kv_len: 1k-4k*2 is a range"),
        ("kv_len=-4", "A: kv_len: -4 is not a size"),
        ("qk_norm=yes", "A: qk_norm: 'yes' is neither true nor false"),
        ("rope_theta=big", "A: rope_theta: 'big' is not a number"),
        ("ring=lots", "A: ring: 'lots' is not a number of bytes"),
    ],
)
def test_a_selector_that_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_selector(text, side="A")
    assert str(error.value).startswith(message)


def test_a_tenth_is_called_although_the_host_drifts_by_as_much(make_case: Make, make_records: Make) -> None:
    # the noise floor of a host is read from all of its cells, and these two drift; so give it many quiet rounds
    drift = [1 + 0.01 * math.sin(i) for i in range(16)]
    records = make_records(make_case(runtime="torch_eager"), rounds_around(100_000, drift))
    records += make_records(make_case(runtime="onnxruntime"), rounds_around(110_000, drift))
    (pair,) = compared(records, "runtime=torch_eager", "runtime=onnxruntime").pairs
    assert pair.ratio.n_pairs == 16
    assert pair.ratio.estimate == pytest.approx(1.10, abs=0.01)
    assert pair.verdict == "slower"
    (back,) = compared(records, "runtime=onnxruntime", "runtime=torch_eager").pairs
    assert back.verdict == "faster"
    assert back.ratio.estimate == pytest.approx(1 / pair.ratio.estimate)


def test_the_same_thing_twice_is_not_called_different(make_case: Make, make_records: Make) -> None:
    verdicts = []
    for _ in range(20):
        records = make_records(make_case(runtime="torch_eager"), rounds_around(100_000, DRIFT))
        records += make_records(make_case(runtime="onnxruntime"), rounds_around(100_000, DRIFT))
        (pair,) = compared(records, "runtime=torch_eager", "runtime=onnxruntime").pairs
        verdicts.append(pair.verdict)
    assert set(verdicts) == {"same"}


def test_sessions_are_compared_unpaired_and_with_the_drift(
    make_case: Make, make_records: Make, make_host_records: Make, save: Make
) -> None:
    case = make_case()
    records = []
    for session, ns in (("one", 100_000), ("two", 103_000)):
        records += make_host_records([1000, 1010, 990, 1005], session=session)
        records += make_records(case, rounds_around(ns, [1.0] * 4), session=session)
    root = save(records)
    sides = [load_side(parse_selector(f"session={s}", side="A"), root) for s in ("one", "two")]
    (pair,) = compare_sides(*sides).pairs
    assert pair.ratio.n_pairs == 0
    assert {r.session_id for r in pair.a.instances} == {"one"}
    assert pair.ratio.bounds is not None
    low, high = pair.ratio.bounds
    drift = [report.drift.sd for side in sides for report, _ in side.rows]
    assert math.log(high / low) / 2 > 1.95 * math.hypot(*drift) > 0


def test_an_unpaired_interval_holds_the_drift() -> None:
    ratio = Ratio(estimate=1.0, bounds=(math.exp(-0.03), math.exp(0.03)), p_value=1.0, n_pairs=0)
    widened = with_drift(ratio, 0.04 / 1.959964)
    assert widened.bounds == pytest.approx((math.exp(-0.05), math.exp(0.05)))
    assert with_drift(Ratio(estimate=1.0, bounds=None, p_value=None, n_pairs=0), 0.1).bounds is None


def test_the_larger_noise_floor_counts(make_case: Make, make_records: Make, save: Make) -> None:
    case = make_case()
    quiet = save(make_records(case, rounds_around(100_000, [1.0] * 6), session="q"), "quiet")
    noisy = save(make_records(case, rounds_around(110_000, [1.0, 1.4, 0.8, 1.2, 0.9, 1.1]), session="n"), "noisy")
    sides = [load_side(parse_selector(f"results={root}", side="A"), Path("/nowhere")) for root in (quiet, noisy)]
    floors = [side.rows[0][0].noise_floor.pooled for side in sides]  # type: ignore[union-attr]
    (pair,) = compare_sides(*sides).pairs
    assert pair.noise_floor == max(floors) > min(floors)
    assert pair.verdict == "same"


@pytest.mark.parametrize(
    ("bounds", "floor", "n_rounds", "expected"),
    [
        ((1.06, 1.14), 0.05, 4, "slower"),
        ((1.04, 1.16), 0.05, 4, "same"),
        ((0.86, 0.94), 0.05, 4, "faster"),
        ((0.90, 0.96), 0.05, 4, "same"),
        ((1.06, 1.14), None, 4, "too_few_rounds"),
        (None, 0.05, 4, "too_few_rounds"),
        ((1.06, 1.14), 0.05, 1, "too_few_rounds"),
    ],
)
def test_a_verdict_needs_the_whole_interval_beyond_the_noise(
    bounds: tuple[float, float] | None, floor: float | None, n_rounds: int, expected: str
) -> None:
    estimate = 1.1 if bounds is None else sum(bounds) / 2
    ratio = Ratio(estimate=estimate, bounds=bounds, p_value=None, n_pairs=4)
    assert verdict(ratio, floor, n_rounds=n_rounds) == expected


def test_one_round_is_too_few(make_case: Make, make_records: Make) -> None:
    records = make_records(make_case(runtime="torch_eager"), [[100, 101]])
    records += make_records(make_case(runtime="onnxruntime"), [[200, 202]])
    (pair,) = compared(records, "runtime=torch_eager", "runtime=onnxruntime").pairs
    assert pair.verdict == "too_few_rounds"


def test_cells_agree_in_all_that_is_not_compared(make_case: Make, make_records: Make) -> None:
    two = [[100, 101], [100, 102]]
    cases = [
        make_case(op, runtime=runtime, kv_len=kv_len)
        for op, runtime, kv_len in itertools.product(("gqa", "swa"), ("torch_eager", "onnxruntime"), (16, 32))
    ]
    cases += [make_case("gqa", runtime="onnxruntime", kv_len=64), make_case("gqa", kv_len=16, n_threads=2)]
    found = compared([r for c in cases for r in make_records(c, two)], "runtime=torch_eager", "runtime=onnxruntime")
    assert [(p.a.case.op, p.a.case.kv_len) for p in found.pairs] == [("swa", 16), ("gqa", 16), ("swa", 32), ("gqa", 32)]
    assert all((p.a.case.runtime, p.b.case.runtime) == ("torch_eager", "onnxruntime") for p in found.pairs)
    assert (found.n_only_a, found.n_only_b) == (1, 1)


def test_operators_are_compared_where_their_common_dims_agree(make_case: Make, make_records: Make) -> None:
    two = [[100, 101], [100, 102]]
    wide = {"d_model": 64, "kernel_size": 3}
    cases = [make_case("short_conv"), make_case("short_conv", dims=wide), make_case("gqa"), make_case("swa")]
    records = [r for c in cases for r in make_records(c, two)]
    (pair,) = compared(records, "op=short_conv", "op=gqa").pairs
    assert (pair.a.case.dims["d_model"], pair.b.case.op) == (32, "gqa")
    (pair,) = compared(records, "op=gqa", "op=swa").pairs
    assert pair.b.case.dims["window"] == 6


def test_the_usual_cache_format_follows_the_weights(make_case: Make, make_records: Make) -> None:
    two = [[100, 101], [100, 102]]
    cases = [
        make_case(dtype="fp32"),
        make_case(dtype="bf16", kv_dtype="bf16"),
        make_case(dtype="bf16", kv_dtype="int8"),
    ]
    (pair,) = compared([r for c in cases for r in make_records(c, two)], "dtype=fp32", "dtype=bf16").pairs
    assert pair.b.case.kv_dtype == "bf16"


def test_cache_states_are_compared_whatever_the_ring(make_case: Make, make_records: Make) -> None:
    cases = [make_case(cache_state="hot"), make_case(cache_state="streaming")]
    records = [r for c in cases for r in make_records(c, [[100, 101], [100, 102]])]
    assert len(compared(records, "cache_state=hot", "cache_state=streaming").pairs) == 1


def test_devices_are_compared_only_when_asked_for(make_case: Make, make_records: Make) -> None:
    two = [[100, 101], [100, 102]]
    cases = make_case(runtime="torch_eager"), make_case(runtime="onnxruntime")
    records = make_records(cases[0], two, device="x") + make_records(cases[1], two, device="y", session="y")
    with pytest.raises(BaselineError):
        compared(records, "runtime=torch_eager", "runtime=onnxruntime")
    (pair,) = compare_sides(
        side_of(parse_selector("device=x,runtime=torch_eager", side="A"), [build_report("x", records[:5])]),
        side_of(parse_selector("device=y,runtime=onnxruntime", side="B"), [build_report("y", records[5:])]),
    ).pairs
    assert (pair.device_a, pair.device_b) == ("x", "y")
    assert pair.ratio.n_pairs == 0


def test_the_same_loads_are_not_compared_with_themselves(make_case: Make, make_records: Make) -> None:
    records = make_records(make_case(), [[100, 101], [100, 102]])
    with pytest.raises(BaselineError, match="are the same loads"):
        compared(records, "op=gqa", "op=gqa")


def test_a_cell_without_times_is_left_out_and_counted(make_case: Make, make_records: Make) -> None:
    two = [[100, 101], [100, 102]]
    records = [r for rt in ("torch_eager", "onnxruntime") for r in make_records(make_case(runtime=rt), two)]
    records += make_records(make_case(runtime="torch_eager", kv_len=32), two)
    records += make_records(make_case(runtime="onnxruntime", kv_len=32), [])
    found = compared(records, "runtime=torch_eager", "runtime=onnxruntime")
    assert len(found.pairs) == len(found.unmeasured) == 1
    assert found.unmeasured[0][1].status == "missing"


def test_nothing_to_pair_says_what_each_side_has(make_case: Make, make_records: Make) -> None:
    records = make_records(make_case(), [[100, 101], [100, 102]])
    with pytest.raises(BaselineError) as error:
        compared(records, "runtime=torch_eager", "runtime=executorch")
    assert "A (runtime=torch_eager: 1 measured cells: op gqa; runtime torch_eager;" in str(error.value)
    assert "B (runtime=executorch: none of 1 cells; stored are op gqa;" in str(error.value)


def test_the_geometric_mean_is_over_the_ratios(make_case: Make, make_records: Make) -> None:
    records = []
    for kv_len, factor in ((16, 2), (32, 8)):
        records += make_records(make_case(runtime="torch_eager", kv_len=kv_len), [[100, 100], [100, 100]])
        records += make_records(make_case(runtime="onnxruntime", kv_len=kv_len), [[100 * factor] * 2] * 2)
    found = compared(records, "runtime=torch_eager", "runtime=onnxruntime")
    assert found.geometric_mean == pytest.approx(4)
    assert found.count("faster", "slower") == found.count("slower") == 2


@pytest.mark.parametrize(
    ("text", "message"), [("device=y", "device: no results of 'y'"), ("session=z", "session: no 'z'")]
)
def test_a_place_that_is_not_stored_is_a_missing_baseline(
    make_case: Make, make_records: Make, save: Make, text: str, message: str
) -> None:
    root = save(make_records(make_case(), [[100], [101]]))
    with pytest.raises(BaselineError, match=message):
        load_side(parse_selector(text, side="A"), root)
    with pytest.raises(BaselineError, match="no results in"):
        load_side(parse_selector(text, side="A"), root / "none")
