import pytest
import torch
from torch.nn import functional as F

from edgeprof.train import loss as loss_module
from edgeprof.train.data.loader import IGNORED, Batch
from edgeprof.train.loss import CrossEntropy


def make(rows: int = 3, tokens: int = 11, vocab: int = 17, width: int = 8) -> tuple[torch.Tensor, torch.Tensor, Batch]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(rows, tokens, width, generator=generator, requires_grad=True)
    projection = torch.randn(vocab, width, generator=generator, requires_grad=True)
    targets = torch.randint(vocab, (rows, tokens), generator=generator)
    targets[0, :4] = IGNORED
    return hidden, projection, Batch(targets, targets, torch.zeros_like(targets))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch) -> None:
    """Several chunks, the last one smaller."""
    monkeypatch.setattr(loss_module, "CHUNK_ROWS", 4)
    monkeypatch.setitem(loss_module.CHUNK_LOGITS, "cpu", 1)


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_sums_and_gradients_are_those_of_whole_logits(z_loss) -> None:
    hidden, projection, batch = make()
    found = CrossEntropy(z_loss)(hidden, projection, batch)
    (0.5 * found.total).backward()
    chunked = hidden.grad, projection.grad
    hidden.grad = projection.grad = None
    logits = hidden @ projection.T
    wanted = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum")
    squares = torch.where(batch.targets != IGNORED, logits.logsumexp(-1).square(), 0).sum()
    (0.5 * (wanted + z_loss * squares)).backward()
    torch.testing.assert_close(found.cross_entropy, wanted)
    torch.testing.assert_close(found.total, wanted + z_loss * squares)
    torch.testing.assert_close(chunked, (hidden.grad, projection.grad))


def test_a_batch_without_scored_tokens_costs_nothing() -> None:
    hidden, projection, batch = make()
    batch.targets.fill_(IGNORED)
    found = CrossEntropy(0.1)(hidden, projection, batch)
    found.total.backward()
    assert found.total.item() == 0
    assert not hidden.grad.any()


def test_without_gradients_the_sums_are_the_same() -> None:
    hidden, projection, batch = make()
    with torch.no_grad():
        assert float(CrossEntropy()(hidden, projection, batch).total) == float(CrossEntropy()(*make()).cross_entropy)


def test_in_bf16_gradients_stay_in_the_weights_format() -> None:
    hidden, projection, batch = make()
    with torch.autocast("cpu", torch.bfloat16):
        found = CrossEntropy()(hidden, projection, batch)
    found.total.backward()
    assert projection.grad.dtype == hidden.grad.dtype == torch.float32
    exact = CrossEntropy()(*make()).total
    assert found.total.item() == pytest.approx(exact.item(), rel=1e-2)
