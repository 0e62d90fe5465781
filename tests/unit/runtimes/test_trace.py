"""What tracers tell, read from a small recorded profile and from events as ExecuTorch's Inspector gives them."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.base import RUNTIMES
from edgeprof.runtimes.executorch_instructions import _module_path, _part_of
from edgeprof.runtimes.trace import OTHER, Told, part_finder, summarise, why_no_trace
from edgeprof.runtimes.trace_executorch import told_of as executorch_told
from edgeprof.runtimes.trace_onnxruntime import told_of as onnxruntime_told

PROFILE = Path(__file__).parent / "onnxruntime_profile.json"
"""Three calls of a one-layer model by ONNX Runtime 1.32, most arguments cut."""

PATHS = ["embedding", "layers.0", "head"]


def find(name: str) -> str | None:
    return next((path for path in PATHS if name.startswith(f"{path}.")), None)


@pytest.fixture
def profile() -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(PROFILE.read_text())
    return events


def test_a_recorded_profile_is_read_call_by_call(profile: list[dict[str, Any]]) -> None:
    told = onnxruntime_told(profile, PATHS, find, 1)
    assert len(told.calls) == 3
    kernels = [e for e in profile if e["name"].endswith("_kernel_time")]
    assert told.events == len(kernels) // 3
    assert told.unassigned == 1  # the look-up of the last token, which the model itself adds
    for call in told.calls:
        assert set(call) == {*PATHS, OTHER}
        assert min(call.values()) > 0
    layer = sum(e["dur"] for e in kernels if e["name"].startswith("layers.0."))
    assert sum(call["layers.0"] for call in told.calls) == pytest.approx(1e3 * layer)


def test_what_a_run_takes_outside_of_its_executor_belongs_to_no_part() -> None:
    events = [
        {"name": "layers.0.mixer.y/Add_kernel_time", "dur": 5},
        {"name": "SequentialExecutor::Execute", "dur": 9},
        {"name": "model_run", "dur": 12},
    ]
    (call,) = onnxruntime_told(events, PATHS, find, 1).calls
    assert call == {"embedding": 0.0, "layers.0": 5e3, "head": 0.0, OTHER: 3e3}


def test_a_call_of_several_runs_is_their_sum() -> None:
    run = [{"name": "layers.0.y/Add_kernel_time", "dur": 5}, {"name": "model_run", "dur": 6}]
    told = onnxruntime_told(run * 4, PATHS, find, 2)
    assert [call["layers.0"] for call in told.calls] == [1e4, 1e4]


def test_a_part_is_found_by_its_whole_path(tiny_dims) -> None:
    of_model = part_finder(make_spec("model", tiny_dims["model"]))
    assert of_model("layers.1.mixer.w_q.y/MatMul_kernel_time") == "layers.1"
    assert of_model("layers.12.mixer.w_q.y") is None
    assert of_model("wanted_tokens/Gather") is None
    of_block = part_finder(make_spec("block", tiny_dims["block"]))
    assert of_block("mixer_norm.y") == "mixer_norm"
    assert of_block("mixer.w_q") == "mixer"


def test_a_trace_is_the_medians_over_the_last_calls() -> None:
    calls = [{"a": ns, OTHER: 1.0} for ns in (900.0, 10.0, 30.0, 20.0)]
    trace = summarise(Told(calls=calls, events=5, unassigned=1), 3)
    assert trace.parts == {"a": 20.0, OTHER: 1.0}
    assert (trace.total_ns, trace.calls, trace.events, trace.unassigned) == (21.0, 3, 5, 1)


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_every_runtime_has_a_tracer_or_says_why_not(runtime: str) -> None:
    reason = why_no_trace(runtime)
    assert (reason is None) is (runtime in ("torch_eager", "onnxruntime", "executorch"))
    assert reason is None or runtime in reason


# ExecuTorch.


@dataclass
class Event:
    name: str
    raw: list[float]
    _instruction_id: int | None = None

    @property
    def perf_data(self) -> Any:
        return SimpleNamespace(raw=self.raw)


EVENTS = [
    Event("OPERATOR_CALL", [0.01, 0.02], 0),
    Event("native_call_mean.out", [0.008, 0.015], 1),
    Event("DELEGATE_CALL", [0.3, 0.4], 1),
    Event("Fully Connected", [0.2, 0.3], 1),
    Event("OPERATOR_CALL", [0.05, 0.06], 2),
    Event("Method::execute", [0.4, 0.5], 0),
]


def test_instructions_are_given_to_their_parts_and_the_rest_to_none() -> None:
    told = executorch_told(EVENTS, PATHS, ["embedding", "layers.0", None])
    assert (told.events, told.unassigned) == (3, 1)
    first, second = told.calls
    assert first["embedding"] == pytest.approx(1e4)
    assert first["layers.0"] == pytest.approx(3e5)
    assert first[OTHER] == pytest.approx(9e4)
    assert sum(second.values()) == pytest.approx(5e5)


@pytest.mark.parametrize("parts", [None, []])
def test_a_program_whose_order_cannot_be_told_gives_nothing_to_any_part(parts: list[str | None] | None) -> None:
    told = executorch_told(EVENTS, PATHS, parts)
    assert told.unassigned == told.events == 3
    assert told.calls[0][OTHER] == pytest.approx(4e5)


def node(target: str, path: str) -> Any:
    return SimpleNamespace(target=target, meta={"nn_module_stack": {"a": ("", None), "b": (f"forms.0.{path}", None)}})


def test_a_delegate_belongs_to_the_part_of_all_its_matrices() -> None:
    inside = [node("aten.linear.default", "layers.0.ffn.w_down"), node("aten.add.Tensor", "layers.0")]
    tail = [*inside, node("aten.mul.Tensor", "head.norm")]
    assert _part_of(tail, find_path) == "layers.0"
    assert _part_of([*tail, node("aten.linear.default", "head.w_vocab")], find_path) is None


def test_elementwise_operators_of_two_parts_belong_to_neither() -> None:
    assert _part_of([node("aten.add.Tensor", "layers.0"), node("aten.mul.Tensor", "head")], find_path) is None
    assert _part_of([node("aten.add.Tensor", "layers.0"), node("aten.slice.Tensor", "")], find_path) == "layers.0"
    assert _part_of([SimpleNamespace(target="aten.copy_.default", meta={})], find_path) is None


def find_path(path: str) -> str | None:
    return next((known for known in PATHS if path == known or path.startswith(f"{known}.")), None)


def test_a_nodes_module_is_the_innermost_of_its_stack() -> None:
    assert _module_path(node("aten.add.Tensor", "layers.0.mixer")) == "layers.0.mixer"
    assert _module_path(SimpleNamespace(meta={})) == ""
