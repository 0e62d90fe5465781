"""Blocks and models as torch modules: names, tied weights, state, and one implementation for decoding and training."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from edgeprof.models.block import BlockSpec
from edgeprof.models.config import ArchConfig, config_of_pattern, make_layer
from edgeprof.models.generate import generate
from edgeprof.models.model import ModelSpec, model_of
from edgeprof.models.module import Block, Model, make_module
from edgeprof.models.reference import composite
from edgeprof.operators.arrays import random_weights
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.module import OperatorModule, state_tensors

DIMS = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "window": 6, "d_ff": 48}
TOKENS = 21


def config(**fields: object) -> ArchConfig:
    return config_of_pattern("CSG", DIMS, name="tiny", d_model=32, vocab=40, **fields)


GEMMA_LIKE = {"tied": True, "sandwich_norm": True, "embedding_scale": 32**0.5, "norm_eps": 1e-6, "ffn": "geglu"}
CONFIGS = {"tied": config(), "untied": config(tied=False), "gemma-like": config(**GEMMA_LIKE)}


def loaded(spec: OperatorSpec) -> OperatorModule:
    module = make_module(spec)
    weights = {name: torch.from_numpy(w) for name, w in random_weights(spec, 7).items()}
    module.load_state_dict(weights, assign=True)
    return module


def tokens(batch: int = 2) -> Tensor:
    return torch.randint(0, 40, (batch, TOKENS), generator=torch.Generator().manual_seed(3))


def run(model: OperatorModule, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = model(x, model.init_state(x.shape[0], TOKENS), 0)
    return y


def all_specs(arch: ArchConfig) -> list[ModelSpec | BlockSpec]:
    return [model_of(arch), *arch.layers]


@pytest.mark.parametrize("arch", CONFIGS.values(), ids=CONFIGS)
def test_parameters_have_the_specs_names_and_shapes(arch: ArchConfig) -> None:
    for spec in all_specs(arch):
        shapes = {name: tuple(p.shape) for name, p in make_module(spec).state_dict().items()}
        assert shapes == {name: weight.shape for name, weight in spec.weights().items()}


@pytest.mark.parametrize("arch", CONFIGS.values(), ids=CONFIGS)
def test_a_model_computes_what_its_reference_does(arch: ArchConfig) -> None:
    spec, x = model_of(arch, all_logits=True), tokens()
    truth = composite(spec, {n: torch.from_numpy(w) for n, w in random_weights(spec, 7).items()}, x, 0)
    error = (run(loaded(spec), x) - truth).abs().max()
    assert error < 1e-5 * truth.abs().max()


def test_only_the_last_token_gets_logits_unless_all_are_asked_for() -> None:
    x = tokens()
    last, every = run(loaded(model_of(config())), x), run(loaded(model_of(config(), all_logits=True)), x)
    assert last.shape == (2, 1, 40)
    assert every.shape == (2, TOKENS, 40)
    torch.testing.assert_close(last, every[:, -1:])


@pytest.mark.parametrize("chunks", [[TOKENS - 4, 1, 1, 1, 1], [5, 7, 9], [1] * TOKENS])
def test_chunks_and_single_tokens_give_the_logits_of_one_call(chunks: list[int]) -> None:
    x, model = tokens(), loaded(model_of(config()))
    state, pos = model.init_state(2, TOKENS), 0
    with torch.no_grad():
        for size in chunks:
            y = model(x[:, pos : pos + size], state, pos)
            pos += size
    torch.testing.assert_close(y, run(model, x), rtol=1e-5, atol=1e-5)


def test_a_tied_head_follows_the_embedding_when_weights_are_assigned_cast_and_copied() -> None:
    model = loaded(model_of(config()))
    assert "head.w_vocab" not in model.state_dict()
    for changed in (model, copy.deepcopy(model), model.to(torch.bfloat16)):
        before = run(changed, tokens())
        state = {name: p.clone() for name, p in changed.state_dict().items()}
        changed.load_state_dict(state | {"embedding.table": 2 * state["embedding.table"]}, assign=True)
        fresh = make_module(changed.spec)
        fresh.load_state_dict(changed.state_dict(), assign=True)
        assert not torch.equal(run(changed, tokens()), before)
        torch.testing.assert_close(run(changed, tokens()), run(fresh, tokens()))


def test_the_table_of_a_tied_model_learns_as_embedding_and_as_projection() -> None:
    model = loaded(model_of(config(), all_logits=True))
    model.requires_grad_(True)
    x = torch.full((1, TOKENS), 5)
    model(x, model.init_state(1, TOKENS), 0).logsumexp(-1).sum().backward()
    gradient = dict(model.named_parameters())["embedding.table"].grad
    assert gradient is not None
    assert (gradient.abs().sum(1) > 0).all()  # ids that were never read get theirs from the projection
    assert gradient[5].abs().sum() > 3 * gradient[6].abs().sum()


@pytest.mark.parametrize("arch", CONFIGS.values(), ids=CONFIGS)
def test_a_model_that_has_generated_can_be_trained(arch: ArchConfig) -> None:
    """Tables that inference caches must not be inference tensors: autograd refuses those."""
    model = loaded(model_of(replace(arch, layers=distinct_theta(arch)), all_logits=True))
    assert isinstance(model, Model)
    list(generate(model, [1, 2, 3], max_new_tokens=2))
    model.requires_grad_(True)
    model(tokens(), model.init_state(2, TOKENS), 0).logsumexp(-1).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def distinct_theta(arch: ArchConfig) -> tuple[BlockSpec, ...]:
    """The layers with a theta of this test's own, for which nothing is cached yet."""
    mixers = [replace(b.mixer, rope_theta=777.0) if "rope_theta" in b.mixer.dims() else b.mixer for b in arch.layers]
    sandwich = arch.sandwich_norm
    return tuple(make_layer(arch.norm_eps, sandwich, m, b.ffn) for m, b in zip(mixers, arch.layers, strict=True))


def test_gradients_are_those_of_the_reference() -> None:
    """Writing keys into a cache must not cut them off from the loss."""
    spec, x = model_of(config(), all_logits=True), tokens(1)
    model = loaded(spec).double()
    model.requires_grad_(True)
    model(x, model.init_state(1, TOKENS), 0).logsumexp(-1).sum().backward()
    weights = {n: torch.from_numpy(w).double().requires_grad_() for n, w in random_weights(spec, 7).items()}
    composite(spec, weights, x, 0).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=1e-6, atol=1e-6, msg=name)


def test_state_is_nested_by_layer_and_every_tensor_of_it_is_found() -> None:
    model = make_module(model_of(config()))
    state = model.init_state(3, 16)
    assert state["layers.0"]["mixer"]["gated"].shape == (3, 2, 32)
    assert state["layers.1"]["mixer"]["k"].shape == (3, 2, 6, 8)
    assert state["layers.2"]["mixer"]["v"].shape == (3, 2, 16, 8)
    assert len(list(state_tensors(state))) == 5


def test_state_and_input_follow_the_weights_dtype() -> None:
    model = loaded(model_of(config())).to(torch.bfloat16)
    assert model.weight_dtype() == torch.bfloat16
    assert {t.dtype for t in state_tensors(model.init_state(1, 4))} == {torch.bfloat16}
    assert run(model, tokens()).dtype == torch.bfloat16


def test_a_block_adds_mixer_and_feed_forward_to_the_stream() -> None:
    """With both output projections at zero nothing is added, whatever the norms do."""
    for layer in CONFIGS["gemma-like"].layers:
        block = loaded(layer)
        assert isinstance(block, Block)
        for name, parameter in block.named_parameters():
            if name in ("mixer.w_out", "mixer.w_o", "ffn.w_down"):
                parameter.data.zero_()
        x = torch.randn(2, TOKENS, 32, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(run(block, x), x)


def test_two_models_of_one_spec_share_no_module() -> None:
    first, second = make_module(model_of(config())), make_module(model_of(config()))
    assert not {id(m) for m in first.modules()} & {id(m) for m in second.modules()}
    assert len(first.state_dict()) == len(second.state_dict())
