"""The forms of operators for ExecuTorch that were tried beside the deployed ones; forms_executorch.py times them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.executorch_form import CallShape, Form
from edgeprof.operators.geglu.executorch import CUBIC, LINEAR, GegluForm
from edgeprof.operators.gqa.executorch import GqaForm, index
from edgeprof.operators.short_conv.executorch import ShortConvForm
from edgeprof.operators.swiglu.executorch import SwigluForm


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
