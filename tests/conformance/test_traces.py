"""Every runtime that can tell the parts of a model apart tells all of them."""

import pytest

from edgeprof.models.config import config_of_pattern
from edgeprof.models.model import model_of
from edgeprof.operators.arrays import random_input
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.artifact import artifact_folder, artifact_spec, build_artifact
from edgeprof.runtimes.base import RUNTIMES
from edgeprof.runtimes.trace import OTHER, TRACERS, Trace, summarise

DIMS = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "d_ff": 128}
MODEL = model_of(config_of_pattern("CG", DIMS, name="m", d_model=64, vocab=96))
CALLS = 6
FORMATS = [("torch_eager", "fp32"), ("onnxruntime", "int4"), ("executorch", "fp32"), ("executorch", "8da4w")]
SHAPES = {"decode": {"q_len": 1, "kv_len": 30}, "prefill": {"phase": "prefill", "q_len": 160, "kv_len": 160}}


def trace(make_case, runtime: str, dtype: str, **shape) -> Trace:
    case = make_case("model", runtime=runtime, dtype=dtype, kv_dtype="fp32", dims=MODEL.dims(), **shape)
    artifact = build_artifact(artifact_spec(case))
    if runtime != "torch_eager":  # which sets its threads once a process
        RUNTIMES.get(runtime).start(1)
    operator = make_spec(case.op, case.dims)
    with TRACERS.get(runtime).load(operator, artifact, artifact_folder(artifact.key), case.kv_len) as traced:
        traced.cell.fill(1)
        call = traced.cell.bind(random_input(operator, batch=1, q_len=case.q_len, seed=1), case.past_len)
        for _ in range(CALLS):
            call()
        return summarise(traced.told(), CALLS - 2)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("runtime", "dtype"), FORMATS)
def test_a_trace_sees_every_part_and_nearly_all_of_the_call(
    runtime: str, dtype: str, shape: str, make_case, cache
) -> None:
    found = trace(make_case, runtime, dtype, **SHAPES[shape])
    assert set(found.parts) == {"embedding", "layers.0", "layers.1", "head", OTHER}
    assert all(ns > 0 for ns in found.parts.values())
    assert found.calls == CALLS - 2
    assert sum(found.parts.values()) == pytest.approx(found.total_ns, rel=0.5)
    assert found.unassigned < found.events / 4
    assert found.parts["layers.0"] + found.parts["layers.1"] > found.parts[OTHER]
