"""The training path: ``Packed`` in place of state gives the logits of a prefill, document by document, and their gradients."""

import dataclasses

import pytest
import torch
from torch import Tensor

from edgeprof.models.config import ArchConfig, config_of_pattern
from edgeprof.models.initialise import initialise
from edgeprof.models.model import model_of
from edgeprof.models.module import Block, Model, make_module
from edgeprof.models.reference import composite
from edgeprof.operators.arrays import random_weights
from edgeprof.operators.attention import BLOCK
from edgeprof.operators.base import Dims
from edgeprof.operators.module import Packed

DIMS: Dims = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "window": 6, "d_ff": 48, "kernel_size": 3}
VOCAB = 40
TOKENS = 2 * BLOCK + 9
"""Two whole blocks and a part of one."""

CONFIGS: dict[str, tuple[str, Dims, dict[str, object]]] = {
    "conv": ("C", {}, {}),
    "conv of 7 taps": ("C", {"kernel_size": 7}, {}),
    "conv of 1 tap": ("C", {"kernel_size": 1}, {}),
    "gqa": ("G", {}, {}),
    "mha without qk-norm": ("G", {"n_kv_heads": 4, "qk_norm": False}, {}),
    "swa": ("S", {}, {}),
    "swa of one token": ("S", {"window": 1}, {}),
    "swa wider than a block": ("S", {"window": BLOCK + 5}, {}),
    "swa as wide as the sequence": ("S", {"window": TOKENS}, {}),
    "swa wider than the sequence": ("S", {"window": 4 * TOKENS}, {}),
    "hybrid": ("CSG", {}, {"tied": False}),
    "gemma-like": ("SCG", {}, {"sandwich_norm": True, "embedding_scale": 32**0.5, "ffn": "geglu"}),
}
EVERY_CONFIG = pytest.mark.parametrize("name", CONFIGS)


def config(name: str) -> ArchConfig:
    pattern, dims, fields = CONFIGS[name]
    return config_of_pattern(pattern, DIMS | dims, name="tiny", d_model=32, vocab=VOCAB, **fields)


def loaded(name: str, *, all_logits: bool = True) -> Model:
    spec = model_of(config(name), all_logits=all_logits)
    module = make_module(spec)
    module.load_state_dict({n: torch.from_numpy(w) for n, w in random_weights(spec, 7).items()}, assign=True)
    assert isinstance(module, Model)
    return module


def tokens(batch: int = 2, count: int = TOKENS) -> Tensor:
    return torch.randint(0, VOCAB, (batch, count), generator=torch.Generator().manual_seed(3))


def prefill(model: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = model(x, model.init_state(x.shape[0], x.shape[1]), 0)
    return y


def scale(gradient: Tensor) -> float:
    """What float64 may be off by: a window of one token leaves queries without any gradient at all."""
    return 1e-9 * max(1.0, float(gradient.abs().max()))


LENGTHS = ([3, 1, 1, BLOCK - 5, 7, BLOCK + 1, 1], [14, TOKENS - 14])
"""Documents of two rows: of one token, ending with a block and beside it, longer than one, and over all blocks."""


def documents() -> Tensor:
    rows = [torch.repeat_interleave(torch.arange(len(row)) * 5, torch.tensor(row)) for row in LENGTHS]
    return torch.stack(rows)


@EVERY_CONFIG
def test_logits_are_those_of_a_prefill(name: str) -> None:
    model, x = loaded(name), tokens()
    found = model(x, Packed(), 0)
    assert found.shape == (2, TOKENS, VOCAB)
    torch.testing.assert_close(found, prefill(model, x), rtol=1e-5, atol=1e-5)


@EVERY_CONFIG
def test_a_document_gets_the_logits_that_it_gets_alone(name: str) -> None:
    model, x = loaded(name), tokens()
    packed = model(x, Packed(documents=documents()), 0)
    for row, lengths in enumerate(LENGTHS):
        for document, logits in zip(x[row].split(lengths), packed[row].split(lengths), strict=True):
            torch.testing.assert_close(logits[None], prefill(model, document[None]), rtol=1e-5, atol=1e-5)


@EVERY_CONFIG
def test_a_row_of_one_document_needs_no_documents(name: str) -> None:
    model, x = loaded(name), tokens()
    one = torch.full((2, TOKENS), 3)
    torch.testing.assert_close(model(x, Packed(documents=one), 0), model(x, Packed(), 0), rtol=1e-5, atol=1e-5)


@EVERY_CONFIG
def test_gradients_are_those_of_the_reference(name: str) -> None:
    model, x = loaded(name).double(), tokens(batch=1)
    model.requires_grad_(True)
    weigh = torch.randn(1, TOKENS, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    (model(x, Packed(), 0) * weigh).sum().backward()
    weights = {n: torch.from_numpy(w).double().requires_grad_() for n, w in random_weights(model.spec, 7).items()}
    (composite(model.spec, weights, x, 0) * weigh).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        truth = weights[parameter_name].grad
        assert truth is not None
        torch.testing.assert_close(parameter.grad, truth, rtol=1e-9, atol=scale(truth), msg=parameter_name)


@EVERY_CONFIG
def test_gradients_of_documents_are_those_of_each_alone(name: str) -> None:
    model, x = loaded(name).double(), tokens()
    model.requires_grad_(True)
    names, parameters = zip(*model.named_parameters(), strict=True)
    weigh = torch.randn(2, TOKENS, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    together = torch.autograd.grad((model(x, Packed(documents=documents()), 0) * weigh).sum(), parameters)
    alone = torch.zeros((), dtype=torch.float64)
    for row, lengths in enumerate(LENGTHS):
        for document, factor in zip(x[row].split(lengths), weigh[row].split(lengths), strict=True):
            alone = alone + (model(document[None], Packed(), 0) * factor).sum()
    for parameter, found, truth in zip(names, together, torch.autograd.grad(alone, parameters), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=scale(truth), msg=parameter)


@pytest.mark.parametrize("name", ["hybrid", "gemma-like"])
def test_finite_differences_agree_with_the_gradients_of_a_block_over_documents(name: str) -> None:
    ids = torch.tensor([[0, 0, 0, 0, 1, 2, 2]])
    for layer in config(name).layers:
        block = make_module(layer).double()
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(2))
        x = torch.randn(1, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
        packed = Packed(documents=ids)
        assert torch.autograd.gradcheck(lambda y, b=block, p=packed: b(y, p, 0)[..., :3], (x,))


def test_nothing_is_kept_from_call_to_call() -> None:
    model, x = loaded("hybrid"), tokens()
    packed = Packed()
    first = model(x, packed, 0)
    model(tokens(count=70), packed, 0)
    torch.testing.assert_close(model(x, packed, 0), first, rtol=0, atol=0)


def test_only_the_last_token_gets_logits_unless_all_are_asked_for() -> None:
    x = tokens()
    last = loaded("hybrid", all_logits=False)(x, Packed(), 0)
    torch.testing.assert_close(last, loaded("hybrid")(x, Packed(), 0)[:, -1:])


def test_layers_share_what_is_derived_from_documents() -> None:
    """Twice the layers derive nothing more."""
    counts = []
    for pattern in ("CSG", "CSGCSG"):
        arch = config_of_pattern(pattern, DIMS, name="tiny", d_model=32, vocab=VOCAB)
        module, packed = make_module(model_of(arch)), Packed(documents=documents())
        initialise(module, 0)  # type: ignore[arg-type]
        module(tokens(), packed, 0)
        counts.append(len(packed.shared))
    assert counts[0] == counts[1] > 0


@EVERY_CONFIG
def test_derive_leaves_nothing_to_forward(name: str) -> None:
    """A compiled forward cannot derive: it would break its graph, or bake one batch's masks into it."""
    model, packed = loaded(name), Packed(documents=documents())
    model.derive(torch.zeros(2, TOKENS, 32), packed)
    before = dict(packed.shared)
    model(tokens(), packed, 0)
    assert packed.shared.keys() == before.keys()
    assert all(packed.shared[key] is value for key, value in before.items())


def test_bounds_are_where_documents_begin_in_rows_laid_end_to_end() -> None:
    ids = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]])
    assert Packed(documents=ids).bounds(ids).tolist() == [0, 2, 5, 6, 8, 10]
    assert Packed().bounds(ids).tolist() == [0, 5, 10]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@EVERY_CONFIG
@pytest.mark.parametrize("with_documents", [False, True])
def test_cuda_in_16_bits_says_what_the_cpu_says(name: str, with_documents: bool) -> None:
    """There, attention runs over documents laid end to end; its gradients too are those of the blocks."""
    model, packed = loaded(name), Packed(documents=documents() if with_documents else None)
    model.requires_grad_(True)
    exact = model(tokens(), packed, 0)
    exact.logsumexp(-1).mean().backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.cuda()
    there = Packed(documents=documents().cuda() if with_documents else None)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = model(tokens().cuda(), there, 0)
    logits.float().logsumexp(-1).mean().backward()
    assert float(((logits.float().cpu() - exact).norm() / exact.norm()).detach()) < 0.05
    largest = max(float(gradient.norm()) for gradient in expected.values())  # one token's queries get none but rounding
    for path, gradient in expected.items():
        found = model.get_parameter(path).grad
        assert found is not None
        assert float((found.cpu() - gradient).norm()) < 0.1 * float(gradient.norm()) + 1e-3 * largest, path


def test_an_evaluation_may_derive_what_training_uses() -> None:
    model, x, packed = loaded("hybrid"), tokens(), Packed(documents=documents())
    with torch.inference_mode():
        model(x, packed, 0)
    model.requires_grad_(True)
    model(x, packed, 0).logsumexp(-1).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_every_block_and_part_is_called_as_a_module_so_that_hooks_run() -> None:
    model = loaded("gemma-like")
    seen: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.ModuleList):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    model(tokens(), Packed(), 0)
    assert sorted(seen) == sorted(n for n, m in model.named_modules() if not isinstance(m, torch.nn.ModuleList))
    assert sum(isinstance(m, Block) for m in model.modules()) == 3


@pytest.mark.parametrize("with_documents", [False, True])
def test_bf16_autocast_trains(with_documents: bool) -> None:
    model, x = loaded("hybrid"), tokens()
    model.requires_grad_(True)
    packed = Packed(documents=documents() if with_documents else None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x, packed, 0)
    exact = model(x, packed, 0)
    assert float(((logits.float() - exact).norm() / exact.norm()).detach()) < 0.05
    logits.float().logsumexp(-1).mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_a_packed_may_be_copied_field_by_field() -> None:
    """As FSDP does with dataclasses among a module's arguments."""
    packed = Packed(documents=documents())
    model, x = loaded("hybrid"), tokens()
    copied = dataclasses.replace(packed, documents=packed.documents, shared={})
    torch.testing.assert_close(model(x, copied, 0), model(x, packed, 0), rtol=0, atol=0)
