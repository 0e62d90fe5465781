"""Times every form of an operator that was tried for ExecuTorch beside the deployed one; prints ratios from one run.

    python benchmarks/forms_executorch.py [NAME ...]     # names of groups; all of them without any

One thread, LFM2-350M's dimensions, a hot loop. All forms of a group are loaded into one process and timed in turns, round
by round, the order reversed every other round; a form's time is the median over rounds of the round's median call. The
ratio is to the deployed form (above 1: slower than it). Outputs are compared with the deployed form's first.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from variants_executorch import (
    Conv1dShortConv,
    Conv2dShortConv,
    ExactGeglu,
    FusedGqa,
    FusedShortConv,
    FusedSwiglu,
    RowMajorFoldedGqa,
    RowMajorGqa,
    TanhGeglu,
    attend_by_kernel,
    attend_delegated,
    attend_unfolded,
    mean_by_linear,
    mean_by_pooling,
    rotate_by_cat,
    rotate_by_halves,
    rotate_by_matrix,
    undelegated_mean,
)

from edgeprof.core.types import Artifact, ArtifactSpec
from edgeprof.operators import executorch_form
from edgeprof.operators.arrays import Array, random_input, random_weights
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.executorch_form import CallShape, Form
from edgeprof.operators.geglu.executorch import GegluForm
from edgeprof.operators.gqa import executorch as gqa_form
from edgeprof.operators.gqa.executorch import GqaForm
from edgeprof.operators.head import executorch as head_form
from edgeprof.operators.registry import make_spec
from edgeprof.operators.rms_norm import executorch as rms_norm_form
from edgeprof.operators.rms_norm.executorch import RmsNormForm
from edgeprof.operators.short_conv.executorch import ShortConvForm
from edgeprof.operators.swa import executorch as swa_form
from edgeprof.operators.swa.executorch import SwaForm
from edgeprof.operators.swiglu.executorch import SwigluForm
from edgeprof.runtimes import executorch_build
from edgeprof.runtimes.base import Built, Call
from edgeprof.runtimes.executorch import RUNTIME, ExecutorchCell

D, D_FF, VOCAB = 1024, 4608, 65536
ATTENTION = {"d_model": D, "n_heads": 16, "n_kv_heads": 8, "head_dim": 64}
ROUNDS, ROUND_S = 9, 0.1
BOTH, FP32 = ("fp32", "8da4w"), ("fp32",)
PATCHED = (executorch_form, gqa_form, swa_form, rms_norm_form, head_form)


@dataclass(frozen=True)
class Variant:
    """A form, and what is put in place of the deployed form's parts."""

    form: type[Form]
    patches: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Forms of one operator at one shape; the first is the deployed one."""

    operator: OperatorSpec
    shape: CallShape
    dtypes: tuple[str, ...]
    variants: dict[str, Variant]
    pos: int = 0


def shape(q_len: int, capacity: int = 0, has_past: bool = False) -> CallShape:
    return CallShape(batch=1, q_len=q_len, capacity=capacity or q_len, has_past=has_past)


def groups() -> dict[str, Group]:
    """Every comparison by name."""
    return conv_groups() | gqa_groups() | swa_groups() | other_groups()


def conv_groups() -> dict[str, Group]:
    conv = make_spec("short_conv", {"d_model": D, "kernel_size": 3})
    forms = {
        "three projections, taps as multiply-adds": Variant(ShortConvForm),
        "one in_proj, cut": Variant(FusedShortConv),
        "three projections, conv1d": Variant(Conv1dShortConv),
        "three projections, conv2d": Variant(Conv2dShortConv),
    }
    return {
        "conv_decode": Group(conv, shape(1, 1, True), BOTH, forms),
        "conv_prefill_1k": Group(conv, shape(1024), BOTH, forms),
    }


def gqa_groups() -> dict[str, Group]:
    gqa = make_spec("gqa", ATTENTION)
    parts = {
        "deployed": Variant(GqaForm),
        "norm: undelegated mean": Variant(GqaForm, {"norm": undelegated_mean}),
        "norm: mean by a linear layer": Variant(GqaForm, {"norm": mean_by_linear}),
        "norm: mean by pooling": Variant(GqaForm, {"norm": mean_by_pooling}),
        "rope: swapped halves by cat": Variant(GqaForm, {"rotate": rotate_by_cat}),
        "rope: half by half": Variant(GqaForm, {"rotate": rotate_by_halves}),
        "rope: swap by a linear layer": Variant(GqaForm, {"rotate": rotate_by_matrix}),
        "one projection for q, k, v": Variant(FusedGqa),
    }
    caches = {
        "cache by KV head, group folded into rows": Variant(GqaForm),
        "cache by KV head, not folded": Variant(GqaForm, {"attend_rows": attend_unfolded}),
        "cache by row, not folded (ExecuTorch's llama)": Variant(RowMajorGqa),
        "cache by row, folded": Variant(RowMajorFoldedGqa),
        "delegated matrix products": Variant(GqaForm, {"attend_rows": attend_delegated}),
    }
    kernel = {"kernel (custom_sdpa)": Variant(GqaForm, {"attend_blocks": attend_by_kernel})}
    chunk = {"delegated blocks of 128": Variant(GqaForm)}
    return {
        "gqa_parts": Group(gqa, shape(1, 128, True), BOTH, parts, 127),
        "gqa_parts_prefill": Group(gqa, shape(256), FP32, parts),
        "gqa_decode_1k": Group(gqa, shape(1, 1024, True), FP32, caches, 1023),
        "gqa_decode_4k": Group(gqa, shape(1, 4096, True), FP32, caches, 4095),
        "gqa_decode_16k": Group(gqa, shape(1, 16384, True), FP32, caches, 16383),
        "gqa_prefill_1k": Group(gqa, shape(1024), FP32, blocks_of(GqaForm) | kernel),
        "gqa_chunk_256_at_1k": Group(gqa, shape(256, 1024, True), FP32, chunk, 768),
    }


def blocks_of(form: type[Form]) -> dict[str, Variant]:
    return {f"delegated blocks of {b}": Variant(form, {"BLOCK": b}) for b in (128, 64, 256, 512)}


def swa_groups() -> dict[str, Group]:
    swa = make_spec("swa", ATTENTION | {"window": 512})
    kernel = {"kernel under masks, blocks of 128": Variant(SwaForm, {"attend_blocks": attend_by_kernel})}
    decode = {
        "ring by KV head, group folded into rows": Variant(SwaForm),
        "not folded": Variant(SwaForm, {"attend_rows": attend_unfolded}),
        "delegated matrix products": Variant(SwaForm, {"attend_rows": attend_delegated}),
    }
    return {
        "swa_prefill_1k": Group(swa, shape(1024), FP32, blocks_of(SwaForm) | kernel),
        "swa_decode": Group(swa, shape(1, 4096, True), FP32, decode, 4095),
    }


def other_groups() -> dict[str, Group]:
    norm = make_spec("rms_norm", {"d_model": D})
    norms = {
        "deployed": Variant(RmsNormForm),
        "undelegated mean": Variant(RmsNormForm, {"norm": undelegated_mean}),
        "mean by a linear layer": Variant(RmsNormForm, {"norm": mean_by_linear}),
        "mean by pooling": Variant(RmsNormForm, {"norm": mean_by_pooling}),
    }
    swiglu = make_spec("swiglu", {"d_model": D, "d_ff": D_FF})
    swiglus = {"three projections": Variant(SwigluForm), "gate and up as one, cut": Variant(FusedSwiglu)}
    geglu = make_spec("geglu", {"d_model": D, "d_ff": D_FF})
    geglus = {
        "by sigmoid": Variant(GegluForm),
        "by tanh": Variant(TanhGeglu),
        "F.gelu (the exact one)": Variant(ExactGeglu),
        "silu (swiglu)": Variant(SwigluForm),
    }
    return {
        "rms_norm": Group(norm, shape(1), FP32, norms),
        "swiglu_decode": Group(swiglu, shape(1), BOTH, swiglus),
        "geglu_decode": Group(geglu, shape(1), BOTH, geglus),
        "geglu_prefill_256": Group(geglu, shape(256), FP32, geglus),
    }


def load(group: Group, variant: Variant, dtype: str, folder: Path) -> tuple[ExecutorchCell, Built]:
    """Lowers and loads a variant."""
    operator, shape = group.operator, group.shape
    spec = ArtifactSpec(
        op=operator.name,
        op_version=operator.version,
        dims=operator.dims(),
        batch=1,
        q_len=shape.q_len,
        capacity=shape.capacity,
        has_past=shape.has_past,
        dtype=dtype,
        kv_dtype="fp32",
        runtime=RUNTIME.name,
        runtime_version="",
        source_hash="",
    )
    folder.mkdir()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(executorch_build, "form", return_value=variant.form))
        for name, value in variant.patches.items():
            for module in PATCHED:
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, value))
        built = RUNTIME.build(operator, spec, random_weights(operator, 0), folder)
    artifact = Artifact(key="", spec=spec, files=built.files, weight_bytes=built.weight_bytes)
    return ExecutorchCell(operator, artifact, folder), built


def median_call_ns(call: Call) -> float:
    """Median of the calls that fit into a round, at least three."""
    samples: list[int] = []
    end = time.perf_counter() + ROUND_S
    while len(samples) < 3 or time.perf_counter() < end:
        begin = time.perf_counter_ns()
        call()
        samples.append(time.perf_counter_ns() - begin)
    return statistics.median(samples)


def compare(name: str, group: Group, dtype: str) -> None:
    """Prints a row for each form: microseconds, ratio to the deployed form, delegated share, difference of outputs."""
    x = random_input(group.operator, batch=1, q_len=group.shape.q_len, seed=0)
    calls: dict[str, Call] = {}
    notes: dict[str, str] = {}
    reference: Array | None = None
    with tempfile.TemporaryDirectory() as folder:
        for i, (label, variant) in enumerate(group.variants.items()):
            cell, built = load(group, variant, dtype, Path(folder) / str(i))
            calls[label] = cell.bind(x, group.pos)
            calls[label]()
            output = cell.output()
            reference = output if reference is None else reference
            difference = np.linalg.norm(output - reference) / np.linalg.norm(reference)
            notes[label] = f"{built.delegated_share:.2f} | {difference:.0e}"
            cell.fill(0)  # a softmax over zeros would be no work to speak of
        rounds: dict[str, list[float]] = {label: [] for label in calls}
        for i in range(ROUNDS):
            for label in list(calls)[:: 1 if i % 2 else -1]:
                rounds[label].append(median_call_ns(calls[label]))
    times = {label: statistics.median(t) for label, t in rounds.items()}
    deployed = next(iter(times.values()))
    for label, t in times.items():
        print(f"| {name} | {dtype} | {label} | {t / 1e3:.1f} | {t / deployed:.2f} | {notes[label]} |", flush=True)


def main() -> None:
    known = groups()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names or list(known)
    RUNTIME.start(1)
    torch.set_num_threads(1)
    print("| group | dtype | form | us a call | ratio | delegated | differs by |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        for dtype in known[name].dtypes:
            compare(name, known[name], dtype)


if __name__ == "__main__":
    main()
