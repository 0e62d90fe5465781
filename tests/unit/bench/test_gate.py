"""The numerics gate: right implementations pass by far, seeded faults are refused."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from edgeprof.bench import worker as worker_module
from edgeprof.bench.gate import (
    MAX_QUANTIZATION_ERROR,
    gate_error,
    positions,
    quantization_error,
    refusal,
    relative_error,
)
from edgeprof.bench.jobs import Job, job_from_json
from edgeprof.bench.report import build_report
from edgeprof.bench.session import Session
from edgeprof.core.dtypes import weight_dtype
from edgeprof.core.types import Artifact, BenchCase
from edgeprof.operators import attention as attention_module
from edgeprof.operators.arrays import Weights, random_weights
from edgeprof.operators.attribute import attribute
from edgeprof.operators.gqa.module import Gqa
from edgeprof.operators.registry import OPERATORS, make_spec
from edgeprof.operators.short_conv.module import ShortConv
from edgeprof.operators.short_conv.onnx import emit
from edgeprof.operators.short_conv.spec import ShortConvSpec
from edgeprof.operators.swa.module import Swa
from edgeprof.runtimes.artifact import artifact_spec
from edgeprof.runtimes.onnxruntime import RUNTIME as ONNXRUNTIME
from edgeprof.runtimes.torch_eager import RUNTIME as TORCH
from edgeprof.runtimes.torch_eager import TorchCell

FOUR_BITS = weight_dtype("int4").tolerance


def with_window(change: int) -> type[Swa]:
    class OffWindow(Swa):
        def __init__(self, spec: Any) -> None:
            super().__init__(dataclasses.replace(spec, window=spec.window + change))

    return OffWindow


WindowShort, WindowLong = with_window(-1), with_window(1)


def stale(base: type) -> type:
    """Never writes what it saw into the state."""

    class Stale(base):  # type: ignore[misc]
        def forward(self, x: Any, state: Any, pos: int) -> Any:
            return super().forward(x, {name: t.clone() for name, t in state.items()}, pos)

    return Stale


StaleConv, StaleSwa, StaleGqa = stale(ShortConv), stale(Swa), stale(Gqa)


class NoWrap(Swa):
    """A ring that stays at its last row once it is full."""

    def _decode(self, q: Any, k: Any, v: Any, state: Any, pos: int) -> Any:
        last = self.spec.window - 1
        return super()._decode(q, k, v, state, pos) if pos <= last else super()._decode(q, k, v, state, last)


class KeepsFirst(ShortConv):
    """Never drops the oldest gated input."""

    def forward(self, x: Any, state: Any, pos: int) -> Any:
        before = state["gated"].clone()
        y = super().forward(x, state, pos)
        if pos % 16:  # the first call fills it
            state["gated"][:, 0] = before[:, 0]
        return y


def projecting(base: type, change: Callable[..., Any]) -> type:
    """An attention whose queries, keys and values are changed."""

    class Changed(base):  # type: ignore[misc]
        def project(self, x: Any, rope: Any) -> Any:
            return change(super().project, self, x, rope)

    return Changed


def wrong_group(project: Any, module: Any, x: Any, rope: Any) -> Any:
    q, k, v = project(x, rope)
    return q, k.roll(1, 1), v.roll(1, 1)


def replacing_rotation(turn: Callable[..., Any]) -> Callable[..., Any]:
    def project(inherited: Any, module: Any, x: Any, rope: Any) -> Any:
        original = attention_module.rotate
        attention_module.rotate = turn
        try:
            return inherited(x, rope)
        finally:
            attention_module.rotate = original

    return project


def turn_neighbours(x: Any, cos: Any, sin: Any) -> Any:
    """Pairs of neighbours, as GPT-J rotates, instead of halves."""
    half = x.shape[-1] // 2
    even, odd, c, s = x[..., ::2], x[..., 1::2], cos[:, :half], sin[:, :half]
    return torch.stack([even * c - odd * s, even * s + odd * c], -1).flatten(-2)


rotate = attention_module.rotate
no_rope = replacing_rotation(lambda x, cos, sin: x)
backwards = replacing_rotation(lambda x, cos, sin: rotate(x, cos, -sin))
neighbours = replacing_rotation(turn_neighbours)


def queries_one_further(project: Any, module: Any, x: Any, rope: Any) -> Any:
    (cos, sin), (c, s) = rope, (table[:1] for table in module.rope(x, 1))
    further = cos * c - sin * s, sin * c + cos * s
    return project(x, further)[0], *project(x, rope)[1:]


def no_qk_norm(project: Any, module: Any, x: Any, rope: Any) -> Any:
    right, module.spec = module.spec, dataclasses.replace(module.spec, qk_norm=False)
    try:
        return project(x, rope)
    finally:
        module.spec = right


def attentions(change: Callable[..., Any]) -> tuple[type, type]:
    return projecting(Gqa, change), projecting(Swa, change)


WrongGroupGqa, WrongGroupSwa = attentions(wrong_group)
NoRopeGqa, NoRopeSwa = attentions(no_rope)
BackwardsGqa, BackwardsSwa = attentions(backwards)
NeighboursGqa, NeighboursSwa = attentions(neighbours)
QueriesFurtherGqa, QueriesFurtherSwa = attentions(queries_one_further)
NoNormGqa, NoNormSwa = attentions(no_qk_norm)


class OneFurther(Gqa):
    """Every call takes its tokens for one position later, and writes them there."""

    def init_state(self, batch: int, capacity: int) -> Any:
        return super().init_state(batch, capacity + 1)

    def forward(self, x: Any, state: Any, pos: int) -> Any:
        return super().forward(x, state, pos + 1)


class StuckPosition(Gqa):
    """Every call takes itself for the first."""

    def forward(self, x: Any, state: Any, pos: int) -> Any:
        return super().forward(x, state, 0)


class SeesAhead(Gqa):
    """Forgets the causal mask."""

    def forward(self, x: Any, state: Any, pos: int) -> Any:
        turned = super().forward(x.flip(1), state, pos).flip(1)
        return turned if x.shape[1] > 1 else super().forward(x, state, pos)


class SwappedGates(ShortConv):
    def forward(self, x: Any, state: Any, pos: int) -> Any:
        right = self.w_b, self.w_c
        self.w_b, self.w_c = self.w_c, self.w_b
        try:
            return super().forward(x, state, pos)
        finally:
            self.w_b, self.w_c = right


class ReversedTaps(ShortConv):
    def forward(self, x: Any, state: Any, pos: int) -> Any:
        right, self.kernel = self.kernel, torch.nn.Parameter(self.kernel.flip(0), requires_grad=False)
        try:
            return super().forward(x, state, pos)
        finally:
            self.kernel = right


def spoiling(base: type, change: Callable[[Any], Any]) -> type:
    """A right result, spoilt afterwards."""

    class Spoilt(base):  # type: ignore[misc]
        def forward(self, x: Any, state: Any, pos: int) -> Any:
            return change(super().forward(x, state, pos).clone())

    return Spoilt


def with_value(value: float) -> Callable[[Any], Any]:
    def change(y: Any) -> Any:
        y[0, -1, 3] = value
        return y

    return change


NotANumber = spoiling(Gqa, with_value(float("nan")))
Infinite = spoiling(ShortConv, with_value(float("-inf")))
OneValueOff = spoiling(Gqa, with_value(5.0))
TooNarrow = spoiling(Gqa, lambda y: y[..., :-1])
TooFew = spoiling(Gqa, lambda y: y[:, :0])
OneToken = spoiling(ShortConv, lambda y: y.expand(2, -1, -1))

DECODE = {"q_len": 1, "kv_len": 40}
CHUNK = {"phase": "prefill", "q_len": 16, "kv_len": 48}

FAULTS: dict[str, tuple[str, type, dict[str, Any]]] = {
    "window one short, decode": ("swa", WindowShort, DECODE),
    "window one long, decode": ("swa", WindowLong, DECODE),
    "window one short, prefill": ("swa", WindowShort, CHUNK),
    "window one long, prefill": ("swa", WindowLong, CHUNK),
    "stale state of short_conv": ("short_conv", StaleConv, DECODE),
    "stale state of swa": ("swa", StaleSwa, DECODE),
    "stale state of gqa": ("gqa", StaleGqa, DECODE),
    "stale state between chunks": ("gqa", StaleGqa, CHUNK),
    "ring that does not wrap": ("swa", NoWrap, DECODE),
    "oldest input never dropped": ("short_conv", KeepsFirst, DECODE),
    "wrong KV group of gqa": ("gqa", WrongGroupGqa, DECODE),
    "wrong KV group of swa": ("swa", WrongGroupSwa, CHUNK),
    "no RoPE in gqa": ("gqa", NoRopeGqa, DECODE),
    "no RoPE in swa": ("swa", NoRopeSwa, DECODE),
    "no RoPE in prefill": ("gqa", NoRopeGqa, CHUNK),
    "RoPE turned backwards": ("gqa", BackwardsGqa, DECODE),
    "RoPE turned backwards in swa": ("swa", BackwardsSwa, CHUNK),
    "RoPE of neighbours": ("gqa", NeighboursGqa, DECODE),
    "RoPE of neighbours in swa": ("swa", NeighboursSwa, CHUNK),
    "queries one position further": ("gqa", QueriesFurtherGqa, DECODE),
    "queries one position further in swa": ("swa", QueriesFurtherSwa, DECODE),
    "queries one position further in prefill": ("gqa", QueriesFurtherGqa, CHUNK),
    "all one position further": ("gqa", OneFurther, DECODE),
    "position stuck": ("gqa", StuckPosition, DECODE),
    "no causal mask": ("gqa", SeesAhead, CHUNK),
    "QK-norm dropped from gqa": ("gqa", NoNormGqa, DECODE),
    "QK-norm dropped from swa": ("swa", NoNormSwa, CHUNK),
    "gates swapped": ("short_conv", SwappedGates, DECODE),
    "gates swapped in prefill": ("short_conv", SwappedGates, CHUNK),
    "taps reversed": ("short_conv", ReversedTaps, DECODE),
    "taps reversed in prefill": ("short_conv", ReversedTaps, CHUNK),
    "not a number": ("gqa", NotANumber, DECODE),
    "infinite": ("short_conv", Infinite, CHUNK),
    "one value of the last token off": ("gqa", OneValueOff, CHUNK),
    "a column missing": ("gqa", TooNarrow, DECODE),
    "no tokens": ("gqa", TooFew, DECODE),
    "another batch": ("short_conv", OneToken, DECODE),
}

HARDLY_WRONG = ("all one position further",)
"""RoPE is relative: when all positions shift, what remains is one row of zeros more in the softmax."""


def error_of(case: BenchCase, module_type: type | None = None) -> float:
    """What the gate finds in a cell of torch's, with the operator's own module or another."""
    spec = make_spec(case.op, case.dims)
    weights = random_weights(spec, 1)
    module = (module_type or attribute(spec.module))(spec)
    module.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()}, assign=True)
    module.requires_grad_(False)
    return gate_error(TorchCell(module, artifact_spec(case), case.kv_len), spec, case, weights)


@pytest.mark.parametrize("shape", [DECODE, CHUNK], ids=["decode", "chunk"])
@pytest.mark.parametrize("op", list(OPERATORS))
def test_right_implementations_pass_by_a_wide_margin(op: str, shape: dict[str, Any], make_case) -> None:
    case = make_case(op, **shape)
    assert error_of(case) < 1e-5
    assert refusal(case, error_of(case), None) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_refused_in_fp32_and_in_four_bits(fault: str, make_case) -> None:
    op, module_type, shape = FAULTS[fault]
    error = error_of(make_case(op, **shape), module_type)
    for dtype in ("fp32", "int4"):
        assert refusal(make_case(op, dtype=dtype, **shape), error, None) is not None, error
    if fault not in HARDLY_WRONG:
        assert error > 2 * FOUR_BITS  # even beside the 3e-2 that a rounded cache adds


@pytest.mark.parametrize(("window", "change"), [(64, -1), (64, 1), (512, 1)])
def test_a_window_off_by_one_shows_at_the_size_of_real_windows(window: int, change: int, make_case, tiny_dims) -> None:
    """The calls of the gate wrap the ring; one row of 512 is little, and still more than rounding to 4 bits."""
    case = make_case("swa", dims=tiny_dims["swa"] | {"window": window}, kv_len=1024)
    assert error_of(case, {-1: WindowShort, 1: WindowLong}[change]) > FOUR_BITS


def test_stale_state_shows_behind_a_long_context(make_case) -> None:
    """The state before the compared calls is zero; what they add must still be found in thousands of rows."""
    case = make_case("gqa", kv_len=4096)
    assert error_of(case) < 1e-5
    for fault in (StaleGqa, WrongGroupGqa, StuckPosition):
        assert error_of(case, fault) > FOUR_BITS


def in_process(job: dict[str, Any], *, n_threads: int, silence_s: float) -> list[dict[str, Any]]:
    """A real worker's events without a process."""
    events: list[dict[str, Any]] = []
    parsed: Job = job_from_json(job)
    worker_module.Worker(parsed, events.append).run()
    return events


def probed(case: BenchCase, monkeypatch: pytest.MonkeyPatch, make_recorder, reporter) -> tuple[str, str | None, int]:
    """The row that a session makes of a case: status, reason, and number of timed loads."""
    monkeypatch.setattr("edgeprof.bench.session.run_worker", in_process)
    monkeypatch.setattr("edgeprof.bench.prepare.run_worker", in_process)
    monkeypatch.setattr("edgeprof.bench.session.find_roof", lambda *args: None)
    monkeypatch.setattr("edgeprof.bench.prepare.PARALLEL", 1)
    monkeypatch.setattr("edgeprof.bench.sentinel.ROWS", 8)
    monkeypatch.setattr(TORCH, "start", lambda n: n)  # torch's threads can be set once in a process
    # a worker counts the threads of a process of its own; here earlier tests' threads end at any moment
    monkeypatch.setattr("edgeprof.runtimes.onnxruntime._count_tasks", lambda: 1)
    recorder = make_recorder()
    Session(recorder, reporter).run([case])
    records = recorder.store.records("fake")
    row = build_report("fake", records, [case], recorder.poolable).measurements[0]
    return row.status, row.reason, sum(r.kind == "latency" for r in records)


@pytest.mark.parametrize("fault", [f for f, (_, _, shape) in FAULTS.items() if shape is DECODE])
def test_a_fault_ends_as_a_wrong_output_row_and_is_never_timed(
    fault: str, cache, make_case, make_recorder, reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    op, module_type, shape = FAULTS[fault]
    monkeypatch.setitem(globals(), "Fault", module_type)
    monkeypatch.setattr(OPERATORS.get(op), "module", f"{__name__}:Fault")
    status, reason, timed = probed(make_case(op, **shape), monkeypatch, make_recorder, reporter)
    assert status == "wrong_output"
    assert reason is not None
    assert "not timed" in reason
    assert timed == 0


def test_a_right_operator_is_timed_by_the_same_way(
    cache, make_case, make_recorder, reporter, monkeypatch: pytest.MonkeyPatch, protocol
) -> None:
    status, reason, timed = probed(make_case("swa"), monkeypatch, make_recorder, reporter)
    assert (status, reason, timed) == ("ok", None, protocol.rounds * protocol.loads)


def swapped(graph: Any, spec: ShortConvSpec, weights: Weights, x: str, prefix: str = "") -> str:
    """A form that mixes up its projections, and so also what it says that it computes with."""
    return emit(graph, spec, weights | {"w_b": weights["w_c"], "w_c": weights["w_b"]}, x, prefix)


@pytest.mark.parametrize("dtype", ["fp32", "int4"])
def test_a_graph_with_swapped_weights_is_refused(
    dtype: str, cache, make_case, make_recorder, reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 4 bits the wrong weights count as the effective ones: only their distance from the given ones tells."""
    case = make_case("short_conv", runtime="onnxruntime", dtype=dtype)
    assert probed(case, monkeypatch, make_recorder, reporter)[:2] == ("ok", None)
    monkeypatch.setitem(ShortConvSpec.forms, "onnx", f"{__name__}:swapped")
    monkeypatch.setenv("EDGEPROF_CACHE", str(cache / "other"))
    monkeypatch.setattr("edgeprof.bench.session.Session._missing", lambda self, cases, stored: {case.key: 1})
    monkeypatch.setattr("edgeprof.bench.session.probe_missing", probe_all)
    status, reason, _ = probed(case, monkeypatch, make_recorder, reporter)
    assert status == "wrong_output"
    assert reason is not None
    assert ("weights are not the given ones" in reason) == (dtype == "int4")


def probe_all(cases: Any, stored: Any, recorder: Any, reporter: Any) -> None:
    from edgeprof.bench.prepare import probe_missing

    probe_missing(cases, [], recorder, reporter)


def test_a_graph_built_from_other_weights_fails_against_the_given_ones(tmp_path, make_case) -> None:
    case = make_case("short_conv", runtime="onnxruntime")
    spec = make_spec("short_conv", case.dims)
    weights = random_weights(spec, 1)
    ONNXRUNTIME.start(1)
    for given, right in ((weights, True), (weights | {"w_out": weights["w_h"]}, False)):
        folder = tmp_path / str(right)
        folder.mkdir()
        built = ONNXRUNTIME.build(spec, artifact_spec(case), given, folder)
        artifact = Artifact(key="", spec=artifact_spec(case), files=built.files, weight_bytes=0)
        error = gate_error(ONNXRUNTIME.load(spec, artifact, folder, case.kv_len), spec, case, weights)
        assert (error < 1e-5) if right else (error > 0.5)


def test_calls_are_contiguous_and_end_with_the_cases_own(make_case) -> None:
    for case in (make_case("gqa", **DECODE), make_case("gqa", **CHUNK), make_case("swa", q_len=4, kv_len=9)):
        found = positions(make_spec(case.op, case.dims), case)
        assert found[-1] == case.past_len
        assert np.diff(found).tolist() == [case.q_len] * (len(found) - 1)
        assert found[0] >= 0


def test_decode_of_swa_goes_once_around_its_ring(make_case) -> None:
    case = make_case("swa", kv_len=100)
    assert len(positions(make_spec("swa", case.dims), case)) > 6 + 1
    assert positions(make_spec("swa", case.dims), make_case("swa", kv_len=3)) == [0, 1, 2]


def test_the_worst_token_counts(make_case) -> None:
    expected = np.ones((2, 5, 4))
    actual = expected.copy()
    actual[1, 3] *= 1.5
    assert relative_error(actual, expected) == pytest.approx(0.5)


def test_a_token_near_zero_does_not_turn_rounding_into_a_ratio() -> None:
    expected = np.ones((1, 5, 4))
    expected[0, 0] = 1e-12
    assert relative_error(expected + 1e-7, expected) < 1e-6


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int4", "8da4w"])
def test_an_error_that_is_no_number_is_refused_in_every_format(dtype: str, make_case) -> None:
    case = make_case("gqa", dtype=dtype)
    assert "is not finite" in str(refusal(case, None, None))
    assert refusal(case, float("nan"), None)
    assert refusal(case, 0.0, float("nan"))
    assert refusal(case, 0.0, 2 * MAX_QUANTIZATION_ERROR)
    assert refusal(case, 0.0, MAX_QUANTIZATION_ERROR / 2) is None


def test_a_rounded_cache_adds_to_the_tolerance(make_case) -> None:
    assert refusal(make_case("gqa", dtype="int4", kv_dtype="int8"), 5e-2, None) is None
    assert refusal(make_case("gqa", dtype="int4"), 5e-2, None)


@pytest.mark.parametrize("op", [o for o in OPERATORS if o not in ("rms_norm", "residual", "identity")])
def test_rounding_to_four_bits_stays_far_below_the_limit(op: str, tiny_dims, make_case) -> None:
    from edgeprof.operators.onnx_graph import dequantize_rows, quantize_rows

    spec = make_spec(op, tiny_dims[op])
    exact = random_weights(spec, 20_240)
    rounded = {
        n: w if spec.weights()[n].kind == "vector" else dequantize_rows(*quantize_rows(w), w.shape[1])
        for n, w in exact.items()
    }
    assert 0.01 < quantization_error(spec, make_case(op), exact, rounded) < MAX_QUANTIZATION_ERROR / 2
