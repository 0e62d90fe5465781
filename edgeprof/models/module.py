"""Blocks and whole models in torch, composed of their parts' modules: what is benched, trained, exported and evaluated.

A training call hands a ``Packed`` in place of state to every block and part, always through ``module(...)``, so that hooks run.

Parameters are named as in the spec's ``weights()``, by path. Shape suffixes: B batch, T tokens of this call, D d_model, V vocab.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from edgeprof.models.block import BlockSpec
from edgeprof.models.model import ModelSpec
from edgeprof.operators.attribute import attribute
from edgeprof.operators.base import OperatorSpec, Weight
from edgeprof.operators.embedding.module import Embedding
from edgeprof.operators.head.module import Head
from edgeprof.operators.head.spec import HeadSpec
from edgeprof.operators.module import OperatorModule, Packed, State, rms_norm


def make_module(spec: OperatorSpec) -> OperatorModule:
    """The torch module of an operator, its weights not yet set."""
    module: OperatorModule = attribute(spec.module)(spec)
    return module


class Composite(OperatorModule):
    """A module made of parts: all its parameters are theirs."""

    def own_weights(self) -> dict[str, Weight]:
        """None."""
        return {}

    def derive(self, x: Tensor, packed: Packed) -> None:
        """Has each part do so; all parts but an embedding see hidden states of the same shape."""
        for part in self.children():
            for module in part if isinstance(part, nn.ModuleList) else (part,):
                cast(OperatorModule, module).derive(x, packed)


class Block(Composite):
    """A pre-norm block; the parts are children under their own names."""

    spec: BlockSpec

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__(spec)
        for name, part in spec.parts().items():
            self.add_module(name, make_module(part))
        # Reached by a plain attribute in every call: a child goes through nn.Module's slow __getattr__.
        self._halves = (self._half("mixer"), self._half("ffn"))

    def _half(self, name: str) -> tuple[nn.Module, nn.Module, nn.Module | None]:
        """A mixer or feed-forward between its norms; the second norm is there in a sandwich only."""
        parts = dict(self.named_children())
        return parts[f"{name}_norm"], parts[name], parts.get(f"{name}_post")

    def init_state(self, batch: int, capacity: int) -> State:
        """The mixer's state."""
        mixer = cast(OperatorModule, self._halves[0][1])
        return {"mixer": mixer.init_state(batch, capacity)}

    def forward(self, x_BTD: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Runs T tokens; norms and feed-forward have no state."""
        mixer_state: State | Packed = state if isinstance(state, Packed) else state["mixer"]
        for norm, part, post in self._halves:
            y = part(norm(x_BTD, mixer_state, pos), mixer_state, pos)
            x_BTD = x_BTD + (y if post is None else post(y, mixer_state, pos))
        return x_BTD


class TiedHead(Head):
    """A head whose projection is the embedding's table: its only parameter is the norm."""

    def __init__(self, spec: HeadSpec, embedding: Embedding) -> None:
        super().__init__(spec)
        self._tied_to = (embedding,)  # in a tuple: the embedding is the model's child, not the head's

    def own_weights(self) -> dict[str, Weight]:
        """The norm's scales."""
        return {"norm": self.spec.weights()["norm"]}

    def forward(self, x_BTD: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Hidden states (B, T, D) to logits (B, T, V)."""
        return F.linear(rms_norm(x_BTD, self.norm, self.spec.eps), self._tied_to[0].table)


class Model(Composite):
    """Embedding, blocks and head."""

    spec: ModelSpec

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        parts = dict(spec.parts())
        embedding = Embedding(parts.pop("embedding"))
        head_spec = cast(HeadSpec, parts.pop("head"))
        self.embedding = embedding
        self.layers = nn.ModuleList(make_module(part) for part in parts.values())
        self.head = TiedHead(head_spec, embedding) if head_spec.tied else Head(head_spec)
        # As in a block: bound once, so that a call looks nothing up but the layer's state.
        self._bound = (embedding, tuple(zip(parts, self.layers, strict=True)), self.head)
        self._all_logits = spec.all_logits

    def init_state(self, batch: int, capacity: int) -> State:
        """Each layer's state, by the layer's path."""
        return {path: cast(OperatorModule, layer).init_state(batch, capacity) for path, layer in self._bound[1]}

    def forward(self, x_BT: Tensor, state: State | Packed, pos: int) -> Tensor:
        """Token ids (B, T) to logits: (B, 1, V) of the last token, or (B, T, V) where the spec asks for all."""
        embedding, layers, head = self._bound
        h: Tensor = embedding(x_BT, state, pos)
        for path, layer in layers:
            h = layer(h, state if isinstance(state, Packed) else state[path], pos)
        if not self._all_logits:
            h = h[:, -1:]
        logits: Tensor = head(h, state, pos)
        return logits
