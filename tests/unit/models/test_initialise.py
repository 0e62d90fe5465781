"""Weights to start training from: their spread, their independence of the layout, and a first step that learns."""

import pytest
import torch
from torch.nn import functional as F

from edgeprof.models.config import config_of_pattern
from edgeprof.models.initialise import initialise
from edgeprof.models.model import model_of
from edgeprof.models.module import Model, make_module
from edgeprof.operators.module import Packed

DIMS = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 32, "window": 6, "d_ff": 384, "kernel_size": 4}
WIDTH = 128


def initialised(pattern: str, seed: int = 0, **fields: object) -> Model:
    arch = config_of_pattern(pattern, DIMS, name="tiny", d_model=WIDTH, vocab=300, **fields)
    model = make_module(model_of(arch, all_logits=True))
    assert isinstance(model, Model)
    initialise(model, seed)
    return model


def spread(model: Model, name: str) -> float:
    return float(model.get_parameter(name).detach().std())


def test_matrices_spread_by_their_fan_in_and_branches_ends_by_the_depth_too() -> None:
    model = initialised("CG", tied=False)
    for name in ("layers.0.mixer.w_b", "layers.1.mixer.w_k", "layers.1.ffn.w_up", "embedding.table", "head.w_vocab"):
        assert spread(model, name) == pytest.approx((2 / 5 / WIDTH) ** 0.5, rel=0.05)
    for name in ("layers.0.mixer.w_out", "layers.1.mixer.w_o"):
        assert spread(model, name) == pytest.approx((2 / 5 / WIDTH / 4) ** 0.5, rel=0.05)
    assert spread(model, "layers.1.ffn.w_down") == pytest.approx((2 / 5 / 384 / 4) ** 0.5, rel=0.05)
    assert spread(model, "layers.0.mixer.kernel") == pytest.approx(0.5, rel=0.1)


def test_norms_start_at_one() -> None:
    norms = [p for n, p in initialised("CG", sandwich_norm=True).named_parameters() if n.endswith("norm")]
    assert len(norms) == 11
    assert all(bool((p == 1).all()) for p in norms)


def test_a_seed_gives_the_same_weights_and_another_seed_others() -> None:
    same = [initialised("CG", seed).get_parameter("layers.1.mixer.w_q") for seed in (1, 1, 2)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])


def test_layouts_start_with_the_same_values_where_they_have_the_same_weights() -> None:
    one, other = initialised("CG"), initialised("GG")
    assert torch.equal(one.get_parameter("layers.1.mixer.w_q"), other.get_parameter("layers.1.mixer.w_q"))


def test_every_parameter_learns_from_the_first_step_on() -> None:
    model = initialised("CSG", sandwich_norm=True)
    x = torch.randint(0, 300, (2, 33), generator=torch.Generator().manual_seed(0))
    loss = F.cross_entropy(model(x[:, :-1], Packed(), 0).flatten(0, 1), x[:, 1:].flatten())
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())] == []
    assert abs(float(loss.detach()) - torch.log(torch.tensor(300.0)).item()) < 0.5
