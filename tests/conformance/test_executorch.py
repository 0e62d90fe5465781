"""The ExecuTorch forms against the naive references, and what a streaming benchmark takes for granted about loads."""

import functools
import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgeprof.core.dtypes import WEIGHT_DTYPES
from edgeprof.core.types import Artifact, ArtifactSpec, BenchCase
from edgeprof.models.block import block_of
from edgeprof.operators.arrays import random_input, random_weights
from edgeprof.operators.attribute import attribute
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.executorch_form import CallShape, Chain, chain_inputs
from edgeprof.operators.geglu.executorch import GegluForm
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.executorch import RUNTIME, ExecutorchCell

HEADS = {"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
DIMS = {
    "short_conv": {"d_model": 64, "kernel_size": 3},
    "swa": HEADS | {"window": 6},
    "gqa": HEADS,
    "swiglu": {"d_model": 64, "d_ff": 96},
    "geglu": {"d_model": 64, "d_ff": 96},
    "embedding": {"vocab": 80, "d_model": 64},
    "head": {"vocab": 96, "d_model": 64},
    "rms_norm": {"d_model": 64},
    "residual": {"d_model": 64},
    "identity": {"d_model": 64},
}
CAPACITY = 32
STATEFUL = ("short_conv", "gqa", "swa")
STATELESS = tuple(op for op in DIMS if op not in STATEFUL)
FEED_FORWARDS = ("swiglu", "geglu")
QUANTISED = ("short_conv", "swa", "gqa", "head")
# (operator, implied dimension, value): far from what is implied, so that one which is not heeded shows.
IMPLIED = [(op, "eps", 0.1) for op in ("gqa", "swa", "head", "rms_norm")] + [("embedding", "scale", 25)]

# (operator, dtype, q_len, has_past, calls): what is built; each runs from position 0 and, with a past, from a later one.
DECODE = [(op, "fp32", 1, True, 14) for op in STATEFUL] + [(op, "fp32", 3, True, 5) for op in ("gqa", "swa")]
CHUNKS = [(op, "fp32", 10, True, 2) for op in STATEFUL]
PREFILL = [(op, "fp32", 17, False, 1) for op in STATEFUL]
SINGLE = [(op, "fp32", 2, False, 1) for op in STATELESS]
FOUR_BIT = [(op, "8da4w", 1, True, 9) for op in QUANTISED] + [(op, "8da4w", 11, False, 1) for op in FEED_FORWARDS]
CASES = DECODE + CHUNKS + PREFILL + SINGLE + FOUR_BIT


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds an artifact once for all tests of this file."""
    RUNTIME.start(1)

    @functools.cache
    def build(op: str, dtype: str, q_len: int, has_past: bool, batch: int = 1, **implied: float):
        operator = make_spec(op, DIMS[op] | implied)
        spec = ArtifactSpec(
            op=op,
            op_version=1,
            dims=operator.dims(),
            batch=batch,
            q_len=q_len,
            capacity=CAPACITY if has_past else q_len,
            has_past=has_past,
            dtype=dtype,
            kv_dtype="fp32",
            runtime="executorch",
            runtime_version="",
            source_hash="",
        )
        folder = tmp_path_factory.mktemp(op)
        made = RUNTIME.build(operator, spec, random_weights(operator, 0), folder)
        artifact = Artifact(key="", spec=spec, files=made.files, weight_bytes=made.weight_bytes, fresh=made.fresh)
        return operator, artifact, folder, made

    return build


def run(cell: ExecutorchCell, x, q_len: int, start: int):
    outputs = []
    for begin in range(0, x.shape[1], q_len):
        cell.bind(x[:, begin : begin + q_len], start + begin)()
        outputs.append(cell.output())
    return np.concatenate(outputs, 1)


def expected(operator: OperatorSpec, weights, x, start: int):
    tensors = {name: torch.from_numpy(w).double() for name, w in weights.items()}
    tokens = torch.from_numpy(x)
    tokens = tokens if operator.takes_tokens else tokens.double()
    return attribute(operator.reference)(operator, tensors, tokens, start).numpy()


def worst_error(y, truth) -> float:
    return float((np.linalg.norm(y - truth, axis=-1) / np.linalg.norm(truth, axis=-1)).max())


@pytest.mark.parametrize(("op", "dtype", "q_len", "has_past", "calls"), CASES, ids=lambda v: str(v))
def test_a_form_computes_what_the_reference_says(built, op, dtype, q_len, has_past, calls):
    operator, artifact, folder, made = built(op, dtype, q_len, has_past)
    cell = RUNTIME.load(operator, artifact, folder, CAPACITY)
    x = random_input(operator, batch=1, q_len=q_len * calls, seed=1)
    for start in (0, 5) if has_past else (0,):
        cell.fill(2)
        cell.reset()
        truth = expected(operator, made.effective or random_weights(operator, 0), x, start)
        assert worst_error(run(cell, x, q_len, start), truth) < WEIGHT_DTYPES[dtype].tolerance


@pytest.mark.parametrize(("op", "name", "value"), [i for i in IMPLIED if i[0] in STATELESS])
def test_an_epsilon_or_a_scale_is_lowered(built, op, name, value):
    operator, artifact, folder, _ = built(op, "fp32", 2, False, **{name: value})
    cell = RUNTIME.load(operator, artifact, folder, CAPACITY)
    x = random_input(operator, batch=1, q_len=2, seed=1)
    truth = expected(operator, random_weights(operator, 0), x, 0)
    assert worst_error(run(cell, x, 2, 0), truth) < WEIGHT_DTYPES["fp32"].tolerance


def test_an_embedding_is_the_same_in_8da4w(built):
    operator, artifact, folder, made = built("embedding", "8da4w", 2, False)
    assert made.effective is None
    assert made.weight_bytes == operator.weight_bytes("8da4w") == operator.weight_bytes("fp32")
    cell = RUNTIME.load(operator, artifact, folder, CAPACITY)
    x = random_input(operator, batch=1, q_len=2, seed=1)
    np.testing.assert_array_equal(run(cell, x, 2, 0), expected(operator, random_weights(operator, 0), x, 0))


def test_xnnpack_still_takes_any_gelu_for_the_exact_one(built, monkeypatch):
    """Why GeGLU's form writes the approximation out; once XNNPACK learns it, this test says so."""
    monkeypatch.setattr(GegluForm, "activate", lambda self, gate: functional.gelu(gate, approximate="tanh"))
    operator, artifact, folder, made = built.__wrapped__("geglu", "fp32", 2, False)
    assert made.delegated_share == 1
    cell = RUNTIME.load(operator, artifact, folder, CAPACITY)
    x = random_input(operator, batch=1, q_len=2, seed=1)
    truth = expected(operator, random_weights(operator, 0), x, 0)
    assert worst_error(run(cell, x, 2, 0), truth) > WEIGHT_DTYPES["fp32"].tolerance


@pytest.mark.parametrize("op", ["short_conv", "swa"])
def test_two_sequences_in_a_batch_do_not_mix(built, op):
    operator, artifact, folder, _ = built(op, "fp32", 2, True, batch=2)
    x = random_input(operator, batch=2, q_len=8, seed=1)
    cell = RUNTIME.load(operator, artifact, folder, CAPACITY)
    truth = expected(operator, random_weights(operator, 0), x, 1)
    assert worst_error(run(cell, x, 2, 1), truth) < WEIGHT_DTYPES["fp32"].tolerance


@pytest.mark.parametrize("op", STATEFUL)
def test_state_can_be_filled_and_outputs_follow_it(built, op):
    operator, artifact, folder, _ = built(op, "fp32", 1, True)
    cell = RUNTIME.load(operator, artifact, folder, CAPACITY)
    call = cell.bind(random_input(operator, batch=1, q_len=1, seed=1), 9)
    call()
    fresh = cell.output()
    for seed in (0, 1):
        cell.fill(seed)
        call()
        assert np.isfinite(cell.output()).all()
        assert worst_error(cell.output(), fresh) > 1e-2
    cell.reset()
    call()
    np.testing.assert_array_equal(cell.output(), fresh)


def test_calls_bound_earlier_keep_their_inputs(built):
    operator, artifact, folder, _ = built("swiglu", "fp32", 2, False)
    cell = RUNTIME.load(operator, artifact, folder, CAPACITY)
    calls = [cell.bind(random_input(operator, batch=1, q_len=2, seed=seed), 0) for seed in (1, 2)]
    outputs = []
    for call in (calls[0], calls[1], calls[0], calls[1]):
        call()
        outputs.append(cell.output())
    np.testing.assert_array_equal(outputs[0], outputs[2])
    np.testing.assert_array_equal(outputs[1], outputs[3])
    assert worst_error(outputs[0], outputs[1]) > 1e-2


@pytest.mark.parametrize(
    ("op", "dtype", "q_len", "has_past"),
    [("swa", "fp32", 1, True), ("head", "8da4w", 1, True), ("embedding", "fp32", 2, False)],
)
def test_bytes_that_may_be_varied_are_the_weights(built, op, dtype, q_len, has_past):
    """A file with other bytes loads, computes something else, and takes nothing from the load beside it."""
    operator, artifact, folder, made = built(op, dtype, q_len, has_past)
    assert sum(f.length for f in made.fresh) > 0.85 * made.weight_bytes
    content = np.frombuffer((folder / "model.pte").read_bytes(), np.uint8).copy()
    for f in made.fresh:
        content[f.offset + f.offset_in_stride : f.offset + f.length : f.stride] ^= 0x5A
    (folder / "other.pte").write_bytes(content.tobytes())
    x = random_input(operator, batch=1, q_len=q_len, seed=1)
    other = Artifact(key="", spec=artifact.spec, files=made.files | {"model": "other.pte"}, weight_bytes=0)
    cells = [RUNTIME.load(operator, a, folder, CAPACITY) for a in (artifact, other)]
    outputs = [run(cell, x, q_len, 0) for cell in cells]
    assert np.isfinite(outputs[1]).all()
    assert not np.array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(run(cells[0], x, q_len, 1), run(cells[0], x, q_len, 1))
    cells[0].reset()
    np.testing.assert_array_equal(run(cells[0], x, q_len, 0), outputs[0])


def test_attention_and_projections_are_told_apart_in_the_delegated_share(built):
    shares = {
        op: built(op, "fp32", q, past)[3].delegated_share
        for op, q, past in (("swiglu", 2, False), ("geglu", 2, False), ("gqa", 1, True))
    }
    assert shares["swiglu"] == shares["geglu"] == 1
    assert 0.5 < shares["gqa"] < 1
    assert built("embedding", "fp32", 2, False)[3].delegated_share == 0


@pytest.mark.parametrize("implied", [{}, {op: {name: value} for op, name, value in IMPLIED}], ids=["", "epsilon"])
def test_forms_chain_and_share_their_inputs(implied):
    """A block's forms in one module: RoPE's tables come in once for both attention layers."""
    chained = ("rms_norm", "gqa", "swa", "short_conv", "swiglu")
    operators = [make_spec(op, DIMS[op] | implied.get(op, {})) for op in chained]
    shape = CallShape(batch=1, q_len=1, capacity=CAPACITY, has_past=True)
    inputs = chain_inputs(operators, shape, 7)
    assert [n for n in inputs if n.startswith(("cos", "sin"))] == ["cos_16_1e+06", "sin_16_1e+06"]
    forms = [attribute(o.forms["executorch"])(o, shape) for o in operators]
    for operator, form in zip(operators, forms, strict=True):
        form.load({n: torch.from_numpy(w) for n, w in random_weights(operator, 0).items()})
    x = torch.from_numpy(random_input(operators[0], batch=1, q_len=1, seed=0))
    y = Chain(forms, list(inputs))(x, *(torch.from_numpy(np.asarray(a)) for a in inputs.values()))
    truth = x.double().numpy()
    for operator in operators:
        truth = expected(operator, random_weights(operator, 0), truth, 7)
    assert worst_error(y.numpy(), truth) < WEIGHT_DTYPES["fp32"].tolerance


def test_the_signature_names_inputs_and_state(built):
    _, artifact, folder, _ = built("swa", "fp32", 1, True)
    signature = json.loads((folder / artifact.files["signature"]).read_text())
    assert [i["name"] for i in signature["inputs"]] == ["cos_16_1e+06", "sin_16_1e+06", "swa6_row", "swa6_start_2"]
    assert [(s["name"], s["shape"]) for s in signature["state"]] == [
        ("forms.0.k", [2, 6, 1, 16]),
        ("forms.0.v", [2, 6, 1, 16]),
    ]


def case(op: str, **changes) -> BenchCase:
    values = {"q_len": 1, "kv_len": 1024, "dtype": "fp32", "kv_dtype": "fp32", "phase": "decode", "dims": DIMS.get(op)}
    return BenchCase(op=op, op_version=1, runtime="executorch", n_threads=1, cache_state="hot", **(values | changes))


def test_contexts_share_a_decode_artifact_and_prefills_have_their_own():
    assert RUNTIME.capacity(case("gqa")) == RUNTIME.capacity(case("gqa", kv_len=4096)) == 4096
    assert RUNTIME.capacity(case("gqa", kv_len=4097)) == 8192
    assert RUNTIME.capacity(case("gqa", phase="prefill", q_len=1024)) == 1024
    for op in ("swiglu", "short_conv", "swa"):
        assert RUNTIME.capacity(case(op)) == RUNTIME.capacity(case(op, kv_len=16384))


def test_what_is_unsupported_says_why():
    assert all(RUNTIME.unsupported(case(op)) is None for op in DIMS)
    assert all(RUNTIME.unsupported(case(op, dtype="8da4w")) is None for op in (*QUANTISED, *FEED_FORWARDS, "embedding"))
    assert "fp32" in RUNTIME.unsupported(case("gqa", kv_dtype="int8"))
    assert "measure it in fp32" in RUNTIME.unsupported(case("rms_norm", dtype="8da4w"))
    assert "multiple of 32" in RUNTIME.unsupported(case("swiglu", dtype="8da4w", dims={"d_model": 64, "d_ff": 80}))


def test_a_block_is_judged_by_what_is_in_it():
    """Its norms have no matrices, which is no reason to refuse it; a row that no group divides is."""

    def answer(d_ff: int) -> str | None:
        block = block_of(make_spec("gqa", DIMS["gqa"]), make_spec("geglu", {"d_model": 64, "d_ff": d_ff}))
        return RUNTIME.unsupported(case("block", dtype="8da4w", dims=block.dims()))

    assert answer(96) is None
    assert "multiple of 32 values; geglu.w_down has 80" in answer(80)
