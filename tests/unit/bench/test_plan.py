"""The plan: which cases a suite and a selection make, and which are refused."""

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest

from edgeprof.bench.plan import (
    DEFAULT_RING_BYTES,
    case_label,
    check_rings_fit,
    memory_needed,
    plan,
    ring_memory_needed,
)
from edgeprof.bench.selection import Selection
from edgeprof.bench.suite import load_suite
from edgeprof.core.errors import UsageError
from edgeprof.core.types import BenchCase, RingPlan
from edgeprof.models.config import config_of_pattern
from edgeprof.models.model import model_of
from edgeprof.operators.registry import make_spec


@dataclass
class Machine:
    """A device of a stated size."""

    free: int = 2**36
    cpus: int = 8

    def free_bytes(self) -> int:
        return self.free

    def allowed_cpus(self) -> tuple[int, ...]:
        return tuple(range(self.cpus))


def cases(suite: str = "quick", machine: Any = None, **selected: Any) -> list[BenchCase]:
    return plan(load_suite(suite), Selection(suite=suite, **selected), machine or Machine())


def refusal(**selected: Any) -> str:
    with pytest.raises(UsageError) as caught:
        cases(**selected)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("suite", "count"), [("quick", 90), ("talk", 150), ("lfm2-350m", 448), ("lfm2-1.2b", 280)])
def test_the_shipped_suites_have_this_many_cases(suite: str, count: int) -> None:
    found = cases(suite)
    assert len(found) == len({c.key for c in found}) == count


def test_quick_measures_each_runtime_in_fp32_and_its_four_bit_format() -> None:
    pairs = Counter((c.runtime, c.dtype) for c in cases())
    assert pairs == {
        ("torch_eager", "fp32"): 18,
        ("onnxruntime", "fp32"): 18,
        ("onnxruntime", "int4"): 18,
        ("executorch", "fp32"): 18,
        ("executorch", "8da4w"): 18,
    }


def test_the_same_suite_and_selection_make_the_same_plan() -> None:
    assert cases("talk") == cases("talk")


def test_each_operator_has_its_own_dims_only() -> None:
    dims = {c.op: set(c.dims) for c in cases("lfm2-350m")}
    assert dims["short_conv"] == {"d_model", "kernel_size"}
    assert dims["gqa"] == {"d_model", "n_heads", "n_kv_heads", "head_dim", "qk_norm", "rope_theta"}
    assert dims["swa"] == dims["gqa"] | {"window"}


def test_only_streaming_cases_have_a_ring() -> None:
    assert {(c.cache_state, c.ring_bytes) for c in cases()} == {("hot", None), ("streaming", DEFAULT_RING_BYTES)}


def test_every_ring_size_that_is_asked_for_is_measured() -> None:
    rings = Counter(c.ring_bytes for c in cases(ring_bytes=(2**26, 2**27)))
    assert rings == {None: 45, 2**26: 45, 2**27: 45}


def test_prefill_is_full_and_decode_has_one_new_token() -> None:
    assert {(c.phase, c.q_len, c.past_len) for c in cases()} == {
        ("decode", 1, 1023),
        ("decode", 1, 4095),
        ("prefill", 256, 0),
    }


def test_options_replace_what_the_suite_says() -> None:
    found = cases(
        ops=("gqa",), runtimes=("torch_eager",), dtypes=("fp32",), batches=(2,), threads=(1, 2), cache_states=("hot",)
    )
    assert {(c.op, c.runtime, c.dtype, c.batch, c.cache_state) for c in found} == {
        ("gqa", "torch_eager", "fp32", 2, "hot")
    }
    assert Counter(c.n_threads for c in found) == {1: 3, 2: 3}


def test_dims_replace_those_of_every_operator_that_has_them() -> None:
    found = cases(dims={"window": (128, 256), "d_model": (512,)})
    assert {c.dims["d_model"] for c in found} == {512}
    assert {c.dims["window"] for c in found if c.op == "swa"} == {128, 256}
    assert Counter(c.op for c in found) == {"short_conv": 30, "swa": 60, "gqa": 30}


def test_an_operator_that_the_suite_lacks_takes_the_place_of_its_own() -> None:
    assert {(c.op, c.phase) for c in cases(ops=("swiglu",))} == {("swiglu", "decode"), ("swiglu", "prefill")}


def test_an_operator_that_the_suite_has_is_picked_out_of_its_cells() -> None:
    assert {c.phase for c in cases("lfm2-350m", ops=("head",))} == {"decode"}


def test_a_runtime_that_the_suite_lacks_takes_the_place_of_its_own() -> None:
    assert {(c.runtime, c.dtype) for c in cases(runtimes=("torch_compile",))} == {("torch_compile", "fp32")}


def test_a_context_alone_means_decode() -> None:
    assert {(c.phase, c.q_len, c.kv_len) for c in cases(kv_lens=(256, 512))} == {("decode", 1, 256), ("decode", 1, 512)}


def test_many_new_tokens_mean_prefill_and_few_mean_decode() -> None:
    found = {(c.phase, c.q_len, c.kv_len) for c in cases(q_lens=(4, 128))}
    assert found == {("decode", 4, 1024), ("decode", 4, 4096), ("prefill", 128, 128)}


def test_a_context_of_a_prefill_is_prefilled_whole() -> None:
    assert {(c.q_len, c.kv_len) for c in cases(phases=("prefill",), kv_lens=(512,))} == {(512, 512)}


def test_a_chunk_of_a_prefill_has_a_past() -> None:
    assert {(c.q_len, c.kv_len, c.past_len) for c in cases(q_lens=(128,), kv_lens=(512,))} == {(128, 512, 384)}


def test_the_head_of_a_prefill_sees_its_last_token_only() -> None:
    assert {(c.q_len, c.kv_len) for c in cases(ops=("head",), phases=("prefill",))} == {(1, 256)}


def test_a_dtype_alone_keeps_the_runtimes_that_offer_it() -> None:
    assert {c.runtime for c in cases(dtypes=("int4",))} == {"onnxruntime"}


def test_a_dtype_and_a_runtime_by_name_stay_although_they_do_not_go_together() -> None:
    assert {(c.runtime, c.dtype) for c in cases(dtypes=("int4",), runtimes=("torch_eager",))} == {
        ("torch_eager", "int4")
    }


def test_a_dtype_that_no_runtime_of_the_plan_offers_stays_to_say_so() -> None:
    found = cases(dtypes=("fp32/bf16", "fp32"))
    assert {(c.dtype, c.kv_dtype) for c in found} == {("fp32", "fp32"), ("fp32", "bf16")}


def test_a_cache_format_picks_the_runtimes_that_have_it() -> None:
    assert {(c.runtime, c.kv_dtype) for c in cases(kv_dtypes=("int8",))} == {("onnxruntime", "int8")}


@pytest.mark.parametrize(
    ("selected", "message"),
    [
        ({"ops": ("gqqa",)}, "unknown operator 'gqqa': did you mean gqa?"),
        ({"runtimes": ("executorh",)}, "unknown runtime 'executorh': did you mean executorch?"),
        ({"dtypes": ("int44",)}, "unknown dtype 'int44': did you mean int4?"),
        ({"kv_dtypes": ("in8",)}, "unknown kv-dtype 'in8': did you mean int8?"),
        ({"phases": ("decoding",)}, "unknown phase 'decoding': did you mean decode?"),
        ({"cache_states": ("hott",)}, "unknown cache-state 'hott': did you mean hot?"),
        ({"device": "locl"}, "unknown device 'locl': did you mean local?"),
        ({"threads": (9,)}, "threads: 9 is more than the 8 CPUs that may be used here; use 1 to 8"),
        ({"phases": ("decode",), "q_lens": (9,)}, "q_len: decode takes 1 to 8 new tokens, not 9; use phase prefill"),
        ({"q_lens": (512,), "kv_lens": (128,)}, "kv_len: counts the new tokens too, so 128 is too small for q_len 512"),
        ({"dims": {"n_kv_heads": (5,)}}, "swa.n_kv_heads: 5 does not divide n_heads = 16; use a divisor"),
        ({"ops": ("gqa",), "dims": {"window": (5,)}}, "--window: none of gqa has it; choose another --op"),
        (
            {"ops": ("block",)},
            "block: is made of a model's configuration: edgeprof inspect counts it, edgeprof predict --measure and edgeprof "
            "verify measure it; here, name a single operator",
        ),
    ],
)
def test_a_wrong_selection_is_answered_in_one_line(selected: dict[str, Any], message: str) -> None:
    assert refusal(**selected) == message


def test_a_range_of_everything_is_refused_instead_of_planned() -> None:
    many = tuple(range(1, 257))
    assert (
        refusal(kv_lens=many, batches=many)
        == "quick: more than 10000 cases; use fewer values or a larger step in the ranges"
    )


def test_a_case_larger_than_free_memory_is_refused_with_its_sizes() -> None:
    message = refusal(
        machine=Machine(free=2**30), phases=("prefill",), kv_lens=(32768,), runtimes=("torch_eager",), ops=("gqa",)
    )
    assert message.startswith("gqa prefill 32768@32768 torch_eager fp32 hot: needs about 64.8 GiB (build 12 MiB, ")
    assert message.endswith("and 1 GiB are free; use smaller sizes")


def test_memory_counts_build_weights_state_scores_and_ring() -> None:
    case = next(
        c for c in cases(ops=("gqa",), runtimes=("torch_eager",), phases=("prefill",)) if c.cache_state == "streaming"
    )
    need = memory_needed(case)
    matrices = 4 * (1024 * 1024 * 3)  # W_q and W_o are 1024 x 1024, W_k and W_v half of that
    assert need.build_bytes == need.weight_bytes == matrices + 4 * 2 * 64
    assert need.state_bytes == 2 * 256 * 8 * 64 * 4
    assert need.activation_bytes == 4 * (256 * (1024 + 512 + 512 + 1024) + 16 * 256 * 256) + 2 * 256 * 1024 * 4
    assert need.ring_bytes == DEFAULT_RING_BYTES
    assert memory_needed(replace(case, batch=2)).state_bytes == 2 * need.state_bytes


def test_a_window_bounds_the_scores_of_a_prefill() -> None:
    wide, narrow = cases(
        ops=("swa",), runtimes=("torch_eager",), q_lens=(4096,), cache_states=("hot",), dims={"window": (4096, 64)}
    )
    assert memory_needed(wide).activation_bytes > 5 * memory_needed(narrow).activation_bytes


MODEL = config_of_pattern(
    "CGG",
    {"kernel_size": 3, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "d_ff": 64},
    name="m",
    d_model=32,
    vocab=4000,
)


@pytest.fixture
def model_case(make_case):
    """The whole model, and its first attention block, as streaming decode cases."""

    def make(op: str = "model", **changes: Any) -> BenchCase:
        spec = model_of(MODEL) if op == "model" else MODEL.layers[1]
        return replace(make_case("gqa", cache_state="streaming"), op=op, dims=spec.dims(), **changes)

    return make


def test_a_model_needs_all_its_weights_and_the_activations_of_its_largest_part(model_case) -> None:
    need = memory_needed(model_case(q_len=64, kv_len=64))
    spec = model_of(MODEL)
    assert need.weight_bytes == need.build_bytes == 4 * spec.params()
    assert need.state_bytes == spec.state_bytes(batch=1, kv_len=64, kv_dtype="fp32")
    assert need.activation_bytes == 4 * 64 * 4000 + spec.io_bytes(batch=1, q_len=64, dtype="fp32")


def test_a_ring_needs_the_weights_and_state_of_every_cell_in_it(model_case, make_case) -> None:
    block, head = model_case("block"), make_case("head", cache_state="streaming")
    one, cell = memory_needed(block), memory_needed(head)
    need = ring_memory_needed(RingPlan(turn=(block,), turns=5, last=head))
    assert need.weight_bytes == 5 * one.weight_bytes + cell.weight_bytes
    assert need.state_bytes == 5 * one.state_bytes
    assert need.build_bytes == max(one.build_bytes, cell.build_bytes)
    assert need.ring_bytes == 0
    assert make_spec("head", head.dims).weight_bytes("fp32") == cell.weight_bytes


def test_a_ring_larger_than_free_memory_is_refused_with_what_to_do(model_case) -> None:
    ring = RingPlan(turn=(model_case("block"),), turns=50)
    check_rings_fit([ring], free_bytes=2**30, cpus=1)
    with pytest.raises(UsageError) as caught:
        check_rings_fit([ring], free_bytes=2**20, cpus=1)
    message = str(caught.value)
    assert message.startswith("ring of 50 cells, block decode 1@16 torch_eager fp32 streaming in it: needs about ")
    assert message.endswith("1 MiB are free; use a smaller model, a shorter context or a format with fewer bits")
    assert "\n" not in message


def test_a_ring_with_more_threads_than_cpus_is_refused(model_case) -> None:
    with pytest.raises(UsageError, match="threads: 2 is more than the 1 CPUs"):
        check_rings_fit([RingPlan(turn=(model_case(n_threads=2),))], free_bytes=2**30, cpus=1)


def test_a_label_names_what_tells_cases_apart() -> None:
    case = cases(ops=("gqa",), dtypes=("fp32/int8",), runtimes=("onnxruntime",))[0]
    assert case_label(case) == "gqa decode 1@1024 onnxruntime fp32/int8 hot"
    assert case_label(replace(case, kv_dtype="fp32")) == "gqa decode 1@1024 onnxruntime fp32 hot"


def test_planning_imports_no_runtime() -> None:
    program = (
        "import sys\nfrom edgeprof.bench.plan import plan\nfrom edgeprof.bench.suite import load_suite\n"
        "from edgeprof.bench.selection import Selection\n"
        "assert plan(load_suite('lfm2-350m'), Selection(threads=(1,)))\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'executorch', 'torchao', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
