"""The loss of distillation in place of cross-entropy: the teacher's top K beside the text, without the logits of all tokens.

Shape suffixes: B batch, T tokens of a row, N tokens, D d_model, V vocab.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from edgeprof.train.data.loader import IGNORED, Batch
from edgeprof.train.distill.divergence import TopK, top_k_divergence
from edgeprof.train.loss import CHUNK_LOGITS, CHUNK_ROWS, CrossEntropy, LossSum


class TopKSource(Protocol):
    """Where the teacher's distributions come from: the teacher itself, or a folder that it filled before."""

    def top_k(self, batch: Batch) -> TopK:
        """Those of all B * T tokens of a batch, row after row, on the batch's device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is minimised for each scored token: ``share`` of the divergence from the teacher, the rest of cross-entropy.

    ``temperature`` is that inside the top K; ``z_loss`` weighs the squared log-normaliser, as without a teacher.
    """

    share: float = 0.5
    temperature: float = 1.0
    z_loss: float = 0.0


class Distillation:
    """A training loss. Where no gradient is asked for, as in evaluation, it is plain cross-entropy, and the teacher rests."""

    def __init__(self, teacher: TopKSource, objective: Objective) -> None:
        self.teacher, self.objective = teacher, objective
        self.plain = CrossEntropy(objective.z_loss)

    def __call__(self, hidden_BTD: Tensor, projection_VD: Tensor, batch: Batch) -> LossSum:
        """The sums over the batch's scored tokens."""
        if not torch.is_grad_enabled():
            return self.plain(hidden_BTD, projection_VD, batch)
        teacher = self.teacher.top_k(batch)
        total, cross_entropy = ChunkedDistillation.apply(  # type: ignore[no-untyped-call]
            hidden_BTD.flatten(0, 1), projection_VD, batch.targets.flatten(), *teacher, self.objective
        )
        return LossSum(total=total, cross_entropy=cross_entropy)


class ChunkedDistillation(torch.autograd.Function):
    """Gradients are made chunk by chunk along with the loss, and scaled in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        projection_VD: Tensor,
        targets_N: Tensor,
        values_NK: Tensor,
        indices_NK: Tensor,
        log_rest_N: Tensor,
        objective: Objective,
    ) -> tuple[Tensor, Tensor]:
        """The summed loss, and the summed cross-entropy, which has no gradient."""
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        hidden, projection = hidden_ND.to(dtype), projection_VD.to(dtype)
        hidden_grad, projection_grad = torch.empty_like(hidden), torch.zeros_like(projection_VD)
        sums = torch.zeros(2, dtype=_at_least_fp32(hidden_ND.dtype), device=hidden.device)
        rows = max(CHUNK_ROWS, CHUNK_LOGITS[device] // projection.shape[0])
        with torch.autocast(device, enabled=False):
            for begin in range(0, len(targets_N), rows):
                part = slice(begin, begin + rows)
                teacher = TopK(values_NK[part], indices_NK[part], log_rest_N[part])
                grad = _chunk(hidden[part] @ projection.T, targets_N[part], teacher, objective, sums).to(dtype)
                torch.mm(grad, projection, out=hidden_grad[part])
                projection_grad += grad.T @ hidden[part]
        ctx.grads, ctx.dtype = (hidden_grad, projection_grad), hidden_ND.dtype
        total, cross_entropy = sums
        ctx.mark_non_differentiable(cross_entropy)
        return total, cross_entropy

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the hidden states and the projection."""
        hidden_grad, projection_grad = ctx.grads
        return hidden_grad.to(ctx.dtype) * grad_total, projection_grad * grad_total, None, None, None, None, None


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _chunk(logits_NV: Tensor, targets_N: Tensor, teacher: TopK, objective: Objective, sums: Tensor) -> Tensor:
    """Adds the chunk's loss and cross-entropy to ``sums``; the loss's gradient by the logits."""
    with torch.enable_grad():
        logits = logits_NV.detach().to(sums.dtype).requires_grad_(True)
        loss, cross_entropy = token_losses(logits, targets_N, teacher, objective)
        (grad,) = torch.autograd.grad(loss.sum(), logits)
    sums[0] += loss.detach().sum()
    sums[1] += cross_entropy.detach().sum()
    return grad


def token_losses(logits_NV: Tensor, targets_N: Tensor, teacher: TopK, objective: Objective) -> tuple[Tensor, Tensor]:
    """What is minimised and the plain cross-entropy of each token (N); zero for those that are not scored."""
    scored_N = targets_N != IGNORED
    normaliser_N = logits_NV.logsumexp(-1)
    target_N = logits_NV.gather(1, torch.where(scored_N, targets_N, 0)[:, None])[:, 0]
    cross_entropy = normaliser_N - target_N
    divergence = top_k_divergence(logits_NV, teacher, temperature=objective.temperature)
    loss = (1 - objective.share) * cross_entropy + objective.share * divergence
    loss = loss + objective.z_loss * normaliser_N.square()
    return torch.where(scored_N, loss, 0), torch.where(scored_N, cross_entropy, 0)
