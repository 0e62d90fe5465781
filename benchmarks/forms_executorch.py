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
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprof.core.types import Artifact, ArtifactSpec
from edgeprof.operators import executorch_form
from edgeprof.operators.arrays import Array, random_input, random_weights
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.executorch_form import CallShape, Form
from edgeprof.operators.geglu.executorch import CUBIC, LINEAR, GegluForm
from edgeprof.operators.gqa import executorch as gqa_form
from edgeprof.operators.gqa.executorch import GqaForm, index
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
PATCHED = (executorch_form, gqa_form, swa_form, rms_norm_form, head_form)


def mean_by_linear(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """RMSNorm whose mean is a linear layer of ones: wholly delegated."""
    ones = torch.full((1, x.shape[-1]), 1.0 / x.shape[-1])
    return x * torch.rsqrt(F.linear(x * x, ones) + eps) * scale


def mean_by_pooling(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """RMSNorm whose mean is a global average pool over (1, D): wholly delegated."""
    rows = (x * x).reshape(-1, 1, 1, x.shape[-1])
    mean = rows.mean((2, 3), keepdim=True).reshape(*x.shape[:-1], 1)
    return x * torch.rsqrt(mean + eps) * scale


def undelegated_mean(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """RMSNorm whose mean XNNPACK does not take."""
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * scale


def rotate_by_cat(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE as in transformers: the swapped halves are put together, then multiplied."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def rotate_by_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE half by half, put together last."""
    half = x.shape[-1] // 2
    a, b, c, s = x[..., :half], x[..., half:], cos[..., :half], sin[..., :half]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def rotate_by_matrix(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE with the swap as a linear layer of 0, 1 and -1."""
    size = x.shape[-1]
    swap = torch.zeros(size, size)
    half = torch.arange(size // 2)
    swap[half, half + size // 2], swap[half + size // 2, half] = -1, 1
    return x * cos + F.linear(x, swap) * sin


class FusedShortConv(ShortConvForm):
    """One in_proj of 3 D rows, cut afterwards."""

    def load(self, weights: dict[str, Tensor]) -> None:
        """Takes the canonical weights."""
        super().load(weights)
        self.w_in = fuse(self, ("w_b", "w_h", "w_c"))

    def forward(self, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Runs the operator."""
        d = x.shape[-1]
        y = self.w_in(x)
        return self.mix(y[..., :d] * y[..., d : 2 * d], y[..., 2 * d :])


class Conv1dShortConv(ShortConvForm):
    """The taps as a depthwise conv1d over (D, T)."""

    def mix(self, new: Tensor, gate: Tensor) -> Tensor:
        """Convolves, gates and projects."""
        gated = torch.cat([self.gated, new], 1) if self.shape.has_past else F.pad(new, (0, 0, self.taps - 1, 0))
        kernel = self.kernel.t()[:, None]
        mixed = F.conv1d(gated.transpose(1, 2), kernel, groups=new.shape[-1]).transpose(1, 2)
        y = self.w_out(gate * mixed)
        self.gated.copy_(gated[:, self.shape.q_len :])
        return y


class Conv2dShortConv(ShortConvForm):
    """The taps as a depthwise conv2d of height 1."""

    def mix(self, new: Tensor, gate: Tensor) -> Tensor:
        """Convolves, gates and projects."""
        gated = torch.cat([self.gated, new], 1) if self.shape.has_past else F.pad(new, (0, 0, self.taps - 1, 0))
        kernel = self.kernel.t()[:, None, None]
        mixed = F.conv2d(gated.transpose(1, 2)[:, :, None], kernel, groups=new.shape[-1])[:, :, 0].transpose(1, 2)
        y = self.w_out(gate * mixed)
        self.gated.copy_(gated[:, self.shape.q_len :])
        return y


class FusedSwiglu(SwigluForm):
    """Gate and up as one projection, cut afterwards."""

    def load(self, weights: dict[str, Tensor]) -> None:
        """Takes the canonical weights."""
        super().load(weights)
        self.w_both = fuse(self, ("w_gate", "w_up"))

    def forward(self, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Runs the operator."""
        y = self.w_both(x)
        half = y.shape[-1] // 2
        return self.w_down(F.silu(y[..., :half]) * y[..., half:])


class ExactGeglu(GegluForm):
    """Another function: the exact gelu, which is what XNNPACK makes of any ``F.gelu``."""

    def activate(self, gate: Tensor) -> Tensor:
        """The activation."""
        return F.gelu(gate, approximate="tanh")


class TanhGeglu(GegluForm):
    """The approximation as it is usually written; ExecuTorch's own kernel runs tanh."""

    def activate(self, gate: Tensor) -> Tensor:
        """The activation."""
        return gate * 0.5 * (1 + torch.tanh(gate * (gate * gate * (CUBIC / 2) + LINEAR / 2)))


def fuse(form: Form, names: tuple[str, ...]) -> nn.Linear:
    """One linear layer of the rows of several, which leave the form."""
    rows = torch.cat([getattr(form, n).weight.detach() for n in names])
    for n in names:
        delattr(form, n)
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(rows, requires_grad=False)
    return layer


def attend_unfolded(q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> Tensor:
    """Decode with G query heads over one KV head's rows: the kernel reads the keys G times."""
    return torch.ops.llama.custom_sdpa(q, k, v, start.item() + q.shape[2] - 1, None, 0.0, True)


def attend_delegated(q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> Tensor:
    """Decode by two delegated matrix products over every row of the cache (its mask left out)."""
    caches, _, group, size = q.shape
    scores = torch.bmm(q.reshape(caches, group, size) * size**-0.5, k.reshape(caches, -1, size).transpose(1, 2))
    return torch.bmm(torch.softmax(scores, -1), v.reshape(caches, -1, size)).reshape(q.shape)


def attend_by_kernel(
    q: Tensor, k: Tensor, v: Tensor, band: Tensor, past: Tensor | None, window: int | None = None
) -> Tensor:
    """Prefill by the kernel: all at once, or a windowed block at a time under a mask."""
    if window is None:
        return torch.ops.llama.custom_sdpa(q, k, v, k.shape[1] - q.shape[1], None, 0.0, True)
    parts = []
    for begin in range(0, q.shape[1], band.shape[0]):
        end, first = min(begin + band.shape[0], q.shape[1]), max(0, begin - window + 1)
        mask = band[: end - begin, first - (begin - window + 1) : end - (begin - window + 1)].clone()
        parts.append(
            torch.ops.llama.custom_sdpa(q[:, begin:end], k[:, first:end], v[:, first:end], 0, mask, 0.0, False)
        )
    return torch.cat(parts, 1)


class RowMajorGqa(GqaForm):
    """Decode on caches (1, R, K, E), a row of all heads after another, as in ExecuTorch's own llama export."""

    folded = False

    def __init__(self, spec: OperatorSpec, shape: CallShape) -> None:
        super().__init__(spec, shape)
        for name in ("k", "v"):
            self.register_buffer(name, torch.zeros(1, self.rows, spec.n_kv_heads, spec.head_dim))

    def forward(self, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Runs the operator."""
        q, k, v = self.project(x, inputs)
        row = index(inputs["gqa_row"], self.rows - 1)
        start = inputs[f"gqa_start_{self.group}"].item()
        torch.ops.llama.update_cache(k.reshape(1, 1, -1, k.shape[-1]), self.k, row)
        torch.ops.llama.update_cache(v.reshape(1, 1, -1, v.shape[-1]), self.v, row)
        if self.folded:
            q = q.reshape(1, self.spec.n_kv_heads, self.group, -1).transpose(1, 2)
            y = torch.ops.llama.custom_sdpa(q, self.k, self.v, start, None, 0.0, False).transpose(1, 2)
        else:
            q = q.reshape(1, 1, -1, q.shape[-1])
            y = torch.ops.llama.custom_sdpa(q, self.k, self.v, start + self.group - 1, None, 0.0, True)
        return self.output(y.reshape(self.spec.n_kv_heads, 1, self.group, -1))


class RowMajorFoldedGqa(RowMajorGqa):
    """As above with a group's query heads as rows of one head."""

    folded = True


class FusedGqa(GqaForm):
    """Queries, keys and values as one projection, cut afterwards."""

    def load(self, weights: dict[str, Tensor]) -> None:
        """Takes the canonical weights."""
        super().load(weights)
        self.w_qkv = fuse(self, ("w_q", "w_k", "w_v"))

    def project(self, x: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Cuts what one projection made."""
        d = self.spec.n_heads * self.spec.head_dim
        kv = self.spec.n_kv_heads * self.spec.head_dim
        y = self.w_qkv(x)
        self.w_q, self.w_k, self.w_v = (
            lambda _: y[..., :d],
            lambda _: y[..., d : d + kv],
            lambda _: y[..., d + kv :],
        )
        return super().project(x, inputs)


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
    both = ("fp32", "8da4w")
    conv = make_spec("short_conv", {"d_model": D, "kernel_size": 3})
    gqa = make_spec("gqa", ATTENTION)
    swa = make_spec("swa", ATTENTION | {"window": 512})
    conv_forms = {
        "three projections, taps as multiply-adds": Variant(ShortConvForm),
        "one in_proj, cut": Variant(FusedShortConv),
        "three projections, conv1d": Variant(Conv1dShortConv),
        "three projections, conv2d": Variant(Conv2dShortConv),
    }
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
    blocks = {f"delegated blocks of {b}": Variant(GqaForm, {"BLOCK": b}) for b in (128, 64, 256, 512)}
    swa_blocks = {n: Variant(SwaForm, v.patches) for n, v in blocks.items()}
    geglu = make_spec("geglu", {"d_model": D, "d_ff": D_FF})
    geglu_forms = {
        "by sigmoid": Variant(GegluForm),
        "by tanh": Variant(TanhGeglu),
        "F.gelu (the exact one)": Variant(ExactGeglu),
        "silu (swiglu)": Variant(SwigluForm),
    }
    norms = {
        "deployed": None,
        "undelegated mean": undelegated_mean,
        "mean by a linear layer": mean_by_linear,
        "mean by pooling": mean_by_pooling,
    }
    return {
        "conv_decode": Group(conv, shape(1, 1, True), both, conv_forms),
        "conv_prefill_1k": Group(conv, shape(1024), both, conv_forms),
        "gqa_parts": Group(gqa, shape(1, 128, True), both, parts, 127),
        "gqa_parts_prefill": Group(gqa, shape(256), ("fp32",), parts),
        "gqa_decode_1k": Group(gqa, shape(1, 1024, True), ("fp32",), caches, 1023),
        "gqa_decode_4k": Group(gqa, shape(1, 4096, True), ("fp32",), caches, 4095),
        "gqa_decode_16k": Group(gqa, shape(1, 16384, True), ("fp32",), caches, 16383),
        "gqa_prefill_1k": Group(
            gqa,
            shape(1024),
            ("fp32",),
            blocks | {"kernel (custom_sdpa)": Variant(GqaForm, {"attend_blocks": attend_by_kernel})},
        ),
        "gqa_chunk_256_at_1k": Group(
            gqa, shape(256, 1024, True), ("fp32",), {"delegated blocks of 128": Variant(GqaForm)}, 768
        ),
        "swa_prefill_1k": Group(
            swa,
            shape(1024),
            ("fp32",),
            swa_blocks | {"kernel under masks, blocks of 128": Variant(SwaForm, {"attend_blocks": attend_by_kernel})},
        ),
        "swa_decode": Group(
            swa,
            shape(1, 4096, True),
            ("fp32",),
            {
                "ring by KV head, group folded into rows": Variant(SwaForm),
                "not folded": Variant(SwaForm, {"attend_rows": attend_unfolded}),
                "delegated matrix products": Variant(SwaForm, {"attend_rows": attend_delegated}),
            },
            4095,
        ),
        "rms_norm": Group(
            make_spec("rms_norm", {"d_model": D}),
            shape(1),
            ("fp32",),
            {n: Variant(RmsNormForm, {"norm": f} if f else {}) for n, f in norms.items()},
        ),
        "swiglu_decode": Group(
            make_spec("swiglu", {"d_model": D, "d_ff": D_FF}),
            shape(1),
            both,
            {"three projections": Variant(SwigluForm), "gate and up as one, cut": Variant(FusedSwiglu)},
        ),
        "geglu_decode": Group(geglu, shape(1), both, geglu_forms),
        "geglu_prefill_256": Group(geglu, shape(256), ("fp32",), geglu_forms),
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
