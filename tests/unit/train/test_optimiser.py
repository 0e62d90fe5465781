import pytest
import torch
from torch.optim import AdamW, Muon

from edgeprof.train.loss import CrossEntropy
from edgeprof.train.network import make_network
from edgeprof.train.optimiser import make_optimiser, split_parameters
from edgeprof.train.settings import make_settings


@pytest.fixture
def network(config):
    return make_network(config, CrossEntropy(), seed=0, mask_documents=True)


def names_of(part, network) -> set[str]:
    by_parameter = {parameter: name for name, parameter in network.weights()}
    return {by_parameter[p] for group in part.param_groups for p in group["params"]}


def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else(config, network) -> None:
    optimiser = make_optimiser(make_settings(config, {}), network.model.spec, network.weights())
    muon, adamw = optimiser.parts
    assert isinstance(muon, Muon)
    assert isinstance(adamw, AdamW)
    matrices = names_of(muon, network)
    assert {n.rsplit(".", 1)[1] for n in matrices} == {
        "w_b", "w_c", "w_h", "w_out", "w_q", "w_k", "w_v", "w_o", "w_gate", "w_up", "w_down",
    }  # fmt: skip
    assert matrices | names_of(adamw, network) == {name for name, _ in network.weights()}
    assert not matrices & names_of(adamw, network)


def test_a_kernel_is_a_vector_although_it_has_two_axes(config, network) -> None:
    found = split_parameters(network.model.spec, network.weights())
    assert "layers.0.mixer.kernel" in found["vector"]
    assert set(found["vocabulary"]) == {"embedding.table"}


def test_norms_and_kernels_are_not_decayed(config, network) -> None:
    settings = make_settings(config, {"optimiser": "adamw", "weight_decay": 0.5})
    (adamw,) = make_optimiser(settings, network.model.spec, network.weights()).parts
    decayed, plain = adamw.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    vectors = split_parameters(network.model.spec, network.weights())["vector"]
    assert {id(p) for p in plain["params"]} == {id(p) for p in vectors.values()}


def test_moments_before_the_first_step_change_nothing(config) -> None:
    """A checkpoint at step 0 makes the moments that torch makes at the first step."""

    def one_step(*, touched: bool) -> list[torch.Tensor]:
        network = make_network(config, CrossEntropy(), seed=0, mask_documents=True)
        optimiser = make_optimiser(make_settings(config, {}), network.model.spec, network.weights())
        if touched:
            optimiser.moments()
            optimiser.set_updates(0)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step(1.0)
        return [p.detach().clone() for p in network.parameters()]

    for one, other in zip(one_step(touched=True), one_step(touched=False), strict=True):
        assert torch.equal(one, other)
