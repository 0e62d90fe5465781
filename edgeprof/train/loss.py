"""Next-token cross-entropy that never holds the logits of all tokens: chunk by chunk, the gradients made along with the loss.

Shape suffixes: N tokens, D d_model, V vocab.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from edgeprof.train.data.loader import IGNORED, Batch

CHUNK_LOGITS = {"cpu": 2**19, "cuda": 2**27}
"""Logits that are held at once. A CPU's chunk is to stay in its cache, a GPU's is to be a large matrix product."""

CHUNK_ROWS = 512
"""Tokens of a chunk at least: with fewer, reading a large projection costs more than its products."""


class LossSum(NamedTuple):
    """Sums over the scored tokens: what is minimised, and the plain cross-entropy that is reported, in nats; both fp32."""

    total: Tensor
    cross_entropy: Tensor


class Loss(Protocol):
    """What is minimised. Another objective, such as distillation, takes this one's place."""

    def __call__(self, hidden_BTD: Tensor, projection_VD: Tensor, batch: Batch) -> LossSum:
        """The loss of normed hidden states, whose logits are their products with the projection's rows."""


class CrossEntropy:
    """Next-token cross-entropy with z-loss.

    Source of z-loss: PaLM, arXiv 2204.02311, section 5: ``z_loss`` times the squared log of the softmax's normaliser.
    """

    def __init__(self, z_loss: float = 0.0) -> None:
        self.z_loss = z_loss

    def __call__(self, hidden_BTD: Tensor, projection_VD: Tensor, batch: Batch) -> LossSum:
        """The sums over the batch's scored tokens."""
        total, cross_entropy = _Chunked.apply(  # type: ignore[no-untyped-call]
            hidden_BTD.flatten(0, 1), projection_VD, batch.targets.flatten(), self.z_loss
        )
        return LossSum(total=total, cross_entropy=cross_entropy)


class _Chunked(torch.autograd.Function):
    """The sums, with gradients made at once: those of the total, scaled in backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, projection_VD: Tensor, targets_N: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        hidden, projection = hidden_ND.to(dtype), projection_VD.to(dtype)
        backward = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        hidden_grad = torch.empty_like(hidden) if backward else None
        projection_grad = torch.zeros_like(projection_VD) if backward else None
        sums = torch.zeros(2, dtype=torch.float32, device=hidden.device)
        rows = min(len(hidden), max(CHUNK_ROWS, CHUNK_LOGITS[device] // projection.shape[0]))
        logits = hidden.new_empty(rows, projection.shape[0])
        with torch.autocast(device, enabled=False):
            scratch = logits if dtype == torch.float32 else torch.empty_like(logits, dtype=torch.float32)
            for begin in range(0, len(hidden), rows):
                h = hidden[begin : begin + rows]
                chunk, p = logits[: len(h)], scratch[: len(h)]
                torch.mm(h, projection.T, out=chunk)
                _add_sums(p.copy_(chunk), targets_N[begin : begin + rows], z_loss, sums, backward=backward)
                if hidden_grad is not None and projection_grad is not None:
                    torch.mm(chunk.copy_(p), projection, out=hidden_grad[begin : begin + rows])
                    _add_product(projection_grad, chunk.T, h)
        ctx.grads, ctx.dtype = (hidden_grad, projection_grad), hidden_ND.dtype
        cross_entropy, squares = sums
        ctx.mark_non_differentiable(cross_entropy)
        return cross_entropy + z_loss * squares, cross_entropy

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden_grad, projection_grad = ctx.grads
        ctx.grads = None, None
        return hidden_grad.to(ctx.dtype) * grad_total, projection_grad.mul_(grad_total), None, None


def _add_sums(logits_NV: Tensor, targets_N: Tensor, z_loss: float, sums: Tensor, *, backward: bool) -> None:
    """Adds cross-entropy and squared log-normalisers to ``sums``; fp32 logits become their gradient where it is wanted.

    All in place: on a CPU, memory that is asked for anew in every chunk costs as much as the arithmetic.
    """
    scored_N = targets_N != IGNORED
    targets_N1 = torch.where(scored_N, targets_N, 0)[:, None]
    greatest_N1 = logits_NV.amax(1, keepdim=True)
    chosen_N = logits_NV.gather(1, targets_N1)[:, 0]
    p = logits_NV.sub_(greatest_N1).exp_()
    total_N = p.sum(1)
    normaliser_N = greatest_N1[:, 0] + total_N.log()
    sums[0] += torch.where(scored_N, normaliser_N - chosen_N, 0).sum()
    sums[1] += torch.where(scored_N, normaliser_N.square(), 0).sum()
    if backward:
        weight_N = scored_N.float()
        p.mul_((weight_N * (1 + 2 * z_loss * normaliser_N) / total_N)[:, None])
        p.scatter_add_(1, targets_N1, -weight_N[:, None])


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``; a product in bf16 is summed up in ``total``'s fp32."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
