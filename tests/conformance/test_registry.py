"""Every registered operator keeps the promises that runtimes rely on, in its files and in its attributes."""

import inspect
from pathlib import Path

import pytest

import edgeprof.operators
from edgeprof.operators.attribute import attribute
from edgeprof.operators.registry import OPERATORS, make_spec
from edgeprof.runtimes.base import RUNTIMES, runtime_version

FOLDER = Path(edgeprof.operators.__file__).parent


def test_every_operators_folder_is_registered() -> None:
    folders = {p.parent.name for p in FOLDER.glob("*/spec.py")}
    assert folders | {"block", "pair", "model"} == set(OPERATORS)  # composites live in edgeprof.models


@pytest.mark.parametrize("op", list(OPERATORS))
def test_an_operator_says_what_it_is_and_where_its_parts_are(op: str, tiny_dims) -> None:
    spec = make_spec(op, tiny_dims[op])
    assert spec.meaning
    assert spec.version >= 1
    assert list(inspect.signature(attribute(spec.reference)).parameters) == ["spec", "weights", "x", "start"]
    module = attribute(spec.module)(spec)
    assert set(dict(module.named_parameters())) == set(spec.weights())


@pytest.mark.parametrize("op", [o for o in OPERATORS if o not in ("swa", "block", "pair", "model")])
def test_a_reference_shares_no_code_with_its_module(op: str) -> None:
    text = (FOLDER / op / "reference.py").read_text()
    for shared in ("operators.module", "operators.attention", f"operators.{op}.module"):
        assert shared not in text


@pytest.mark.parametrize("op", list(OPERATORS))
def test_an_operator_has_a_form_for_every_graph_runtime(op: str) -> None:
    assert set(OPERATORS.get(op).forms) == {"onnx", "executorch"}


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_runtime_names_itself_and_is_installed(runtime: str) -> None:
    found = RUNTIMES.get(runtime)
    assert found.name == runtime
    assert runtime_version(found) != "absent"
    assert len(set(found.dtypes)) == len(found.dtypes) > 0


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_runtime_says_why_it_refuses_a_dtype(runtime: str, make_case) -> None:
    reason = RUNTIMES.get(runtime).unsupported(make_case("gqa", runtime=runtime, dtype="fp32", kv_dtype="bf16"))
    assert reason
    assert "\n" not in reason


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_one_artifact_serves_or_is_built_for_a_capacity_that_holds_the_context(runtime: str, make_case) -> None:
    found = RUNTIMES.get(runtime)
    for kv_len in (1, 16, 1000):
        capacity = found.capacity(make_case("gqa", runtime=runtime, kv_len=kv_len))
        assert capacity == 0 or capacity >= kv_len
