import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprof.train.data.loader import IGNORED, Batch
from edgeprof.train.distill import loss as loss_module
from edgeprof.train.distill.divergence import TopK, top_k_divergence
from edgeprof.train.distill.loss import ChunkedDistillation, Distillation, Objective, token_losses
from edgeprof.train.distill.teacher import top_k_of
from edgeprof.train.loss import CrossEntropy


def random(*shape, seed=0, scale=2.0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale


def naive(student, teacher, k, temperature):
    """The divergence of one token by its definition, in float64 of numpy, from both whole distributions."""
    p, q = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (teacher, student))
    top = np.argsort(-teacher)[:k]
    mass_p, mass_q = p[top].sum(), q[top].sum()
    mass = mass_p * math.log(mass_p / mass_q)
    if k < len(p):
        mass += (1 - mass_p) * math.log((1 - mass_p) / (1 - mass_q))
    inside_p, inside_q = (x[top] ** (1 / temperature) / (x[top] ** (1 / temperature)).sum() for x in (p, q))
    return mass + mass_p * temperature**2 * (inside_p * np.log(inside_p / inside_q)).sum()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("k", [1, 5, 19, 20])
def test_the_divergence_is_that_of_its_definition(k, temperature):
    student, teacher = random(6, 20, seed=1), random(6, 20, seed=2)
    found = top_k_divergence(student, top_k_of(teacher, k), temperature=temperature)
    expected = [naive(s.numpy(), t.numpy(), k, temperature) for s, t in zip(student, teacher, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_with_all_tokens_kept_it_is_the_whole_kl_divergence():
    student, teacher = random(5, 12, seed=3), random(5, 12, seed=4)
    p, q = teacher.softmax(-1), student.softmax(-1)
    whole = (p * (p.log() - q.log())).sum(-1)
    torch.testing.assert_close(top_k_divergence(student, top_k_of(teacher, 12)), whole)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0.5, 4.0))
def test_it_is_zero_only_where_top_k_and_mass_are_equal(seed, k, temperature):
    teacher = random(1, 10, seed=seed, scale=0.5)  # no token so rare that changing it changes next to nothing
    kept = top_k_of(teacher, k)
    outside = torch.ones(10, dtype=torch.bool)
    outside[kept.indices[0]] = False
    equal = teacher.clone()
    # another distribution of the same mass outside: the teacher said nothing of it
    rest = random(1, int(outside.sum()), seed=seed + 1, scale=0.5)
    equal[:, outside] = rest - rest.logsumexp(-1) + teacher[:, outside].logsumexp(-1)
    assert top_k_divergence(equal, kept, temperature=temperature).item() == pytest.approx(0, abs=1e-12)
    for change in (kept.indices[0, 0], int(outside.nonzero()[0])):
        other = equal.clone()
        other[0, change] += 0.5
        assert top_k_divergence(other, kept, temperature=temperature).item() > 1e-9


def test_a_student_or_a_teacher_that_is_sure_loses_nothing_to_rounding():
    logits = torch.zeros(1, 50)
    logits[0, 3] = 60.0
    teacher = top_k_of(logits.double(), 4)
    half = TopK(teacher.values.half(), teacher.indices, teacher.log_rest.half())
    found = logits.clone().requires_grad_()
    loss = top_k_divergence(found, half)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert found.grad.isfinite().all()
    far = top_k_divergence(torch.zeros(1, 50, dtype=torch.float64), top_k_of(logits.double(), 4))
    assert far.item() == pytest.approx(math.log(50), rel=1e-6)


def test_the_gradient_is_that_of_the_divergence():
    student = random(3, 9, seed=5).requires_grad_()
    for k in (4, 9):
        kept = top_k_of(random(3, 9, seed=6), k)
        assert torch.autograd.gradcheck(lambda x, kept=kept: top_k_divergence(x, kept, temperature=1.7), student)


def inputs(n=13, d=6, v=11, k=4):
    hidden, projection = random(n, d, seed=7, scale=1), random(v, d, seed=8, scale=1)
    targets = torch.randint(0, v, (n,), generator=torch.Generator().manual_seed(9))
    targets[::4] = IGNORED
    return hidden.requires_grad_(), projection.requires_grad_(), targets, top_k_of(random(n, v, seed=10), k)


@pytest.mark.parametrize("rows", [4, 1000])
def test_the_chunked_gradient_is_that_of_the_loss_whatever_the_chunk(monkeypatch, rows):
    monkeypatch.setattr(loss_module, "CHUNK_ROWS", rows)
    monkeypatch.setitem(loss_module.CHUNK_LOGITS, "cpu", 1)
    hidden, projection, targets, teacher = inputs()
    objective = Objective(share=0.3, temperature=2.0, z_loss=0.01)

    def total(h, p):
        return ChunkedDistillation.apply(h, p, targets, *teacher, objective)[0]

    assert torch.autograd.gradcheck(total, (hidden, projection))
    whole, cross_entropy = token_losses(hidden @ projection.T, targets, teacher, objective)
    found = ChunkedDistillation.apply(hidden, projection, targets, *teacher, objective)
    torch.testing.assert_close(found, (whole.sum(), cross_entropy.sum()))


def test_no_more_logits_than_a_chunk_are_held(monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK_ROWS", 4)
    monkeypatch.setitem(loss_module.CHUNK_LOGITS, "cpu", 1)
    seen = []
    real = loss_module.token_losses
    monkeypatch.setattr(
        loss_module, "token_losses", lambda logits, *rest: seen.append(len(logits)) or real(logits, *rest)
    )
    hidden, projection, targets, teacher = inputs()
    ChunkedDistillation.apply(hidden, projection, targets, *teacher, Objective())
    assert seen == [4, 4, 4, 1]


class Told:
    """A source of one answer that counts how often it is asked."""

    def __init__(self, teacher):
        self.teacher, self.asked = teacher, 0

    def top_k(self, batch):
        self.asked += 1
        return self.teacher


def call(objective, teacher):
    hidden, projection, targets, _ = inputs(n=12)
    source = Told(TopK(*(x[:12] for x in teacher)))
    batch = Batch(targets[None], targets[None], torch.zeros_like(targets)[None])
    hidden, projection = hidden.detach().float().requires_grad_(), projection.detach().float().requires_grad_()
    return Distillation(source, objective), source, (hidden[None], projection, batch), hidden


def test_without_a_share_it_is_cross_entropy_with_z_loss():
    distil, _, arguments, hidden = call(Objective(share=0.0, z_loss=0.1), inputs()[3])
    found = distil(*arguments)
    (grad,) = torch.autograd.grad(found.total, hidden)
    expected = CrossEntropy(0.1)(*arguments)
    (expected_grad,) = torch.autograd.grad(expected.total, hidden)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grad, expected_grad)


def test_evaluation_reports_cross_entropy_and_does_not_ask_the_teacher():
    distil, source, arguments, _ = call(Objective(share=1.0), inputs()[3])
    with torch.no_grad():
        found = distil(*arguments)
    assert source.asked == 0
    torch.testing.assert_close(found.cross_entropy, CrossEntropy()(*arguments).cross_entropy)
    assert distil(*arguments).cross_entropy == pytest.approx(found.cross_entropy.item(), rel=1e-6)
    assert source.asked == 1
