"""Which optimiser trains which weight: Muon the matrices of the blocks, AdamW the rest."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

from edgeprof.models.model import ModelSpec
from edgeprof.train.settings import Settings

Kind = Literal["matrix", "vocabulary", "vector"]

EPSILON = 1e-8
"""AdamW's. Source: Loshchilov and Hutter, arXiv 1711.05101; PyTorch's default."""

MOMENTS: dict[type[Optimizer], tuple[str, ...]] = {Muon: ("momentum_buffer",), AdamW: ("exp_avg", "exp_avg_sq")}
"""What torch calls the running averages that an optimiser keeps of each weight's gradients."""


def kind_of(name: str, spec: ModelSpec) -> Kind:
    """What a weight is: a matrix inside a block; the embedding or the projection onto the vocabulary; a norm or a kernel.

    A short convolution's kernel has two axes and is no matrix: its channels do not mix.
    """
    if spec.weights()[name].kind == "vector":
        return "vector"
    return "matrix" if name.startswith("layers.") else "vocabulary"


def split_parameters(spec: ModelSpec, parameters: Iterable[tuple[str, Tensor]]) -> dict[Kind, dict[str, Tensor]]:
    """The parameters by their kind and name."""
    found: dict[Kind, dict[str, Tensor]] = {"matrix": {}, "vocabulary": {}, "vector": {}}
    for name, parameter in parameters:
        found[kind_of(name, spec)][name] = parameter
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimiser:
    """One or two of torch's optimisers that step as one."""

    parts: tuple[Optimizer, ...]
    names: Mapping[Tensor, str]
    lr: float

    def step(self, lr_share: float) -> None:
        """Updates every weight at this share of the learning rate, and drops the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.lr * lr_share
            part.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drops the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def moments(self) -> dict[str, Tensor]:
        """Moments by ``<weight>/<moment>``, to save, and to read saved ones into; they are zero before the first step.

        The number of updates, which AdamW keeps a copy of for each weight, is left out.
        """
        found = {}
        for part, parameter in self._each():
            for name in MOMENTS[type(part)]:
                state: dict[str, Any] = part.state[parameter]
                if name not in state:
                    state[name] = torch.zeros_like(parameter)
                found[f"{self.names[parameter]}/{name}"] = state[name]
        return found

    def set_updates(self, updates: int) -> None:
        """Says how many steps the moments are of."""
        for part, parameter in self._each():
            if isinstance(part, AdamW):
                # on the parameter's device, where fused kernels want it
                part.state[parameter]["step"] = torch.tensor(float(updates), device=parameter.device)

    def _each(self) -> Iterator[tuple[Optimizer, Tensor]]:
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    yield part, parameter


def make_optimiser(settings: Settings, spec: ModelSpec, parameters: Iterable[tuple[str, Tensor]]) -> Optimiser:
    """The optimiser that the settings ask for; norms and kernels are never decayed.

    Sources: Jordan et al., Muon, https://kellerjordan.github.io/posts/muon/; its scale: Moonlight, arXiv 2502.16982, section 2.2.
    """
    kinds = split_parameters(spec, parameters)
    names = {parameter: name for kind in kinds.values() for name, parameter in kind.items()}
    matrices = list(kinds["matrix"].values())
    decayed = list(kinds["vocabulary"].values())
    parts: list[Optimizer] = []
    if settings.optimiser == "muon":
        parts.append(
            Muon(
                matrices,
                lr=settings.lr,
                weight_decay=settings.weight_decay,
                momentum=settings.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    else:
        decayed = [*matrices, *decayed]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": list(kinds["vector"].values()), "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    parts.append(AdamW(groups, lr=settings.lr, betas=betas, eps=EPSILON, fused=True))
    return Optimiser(parts=tuple(parts), names=names, lr=settings.lr)
