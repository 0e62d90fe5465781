"""Blocks and whole models for ExecuTorch: the operators' own forms, nested as the weights' paths say."""

from torch import Tensor, nn

from edgeprof.models.block import BlockSpec
from edgeprof.models.composite import CompositeSpec, part_weights
from edgeprof.models.model import ModelSpec
from edgeprof.operators.arrays import Array
from edgeprof.operators.attribute import form
from edgeprof.operators.executorch_form import CallShape, Form, chain_inputs


class CompositeForm(Form):
    """Forms of an operator's parts, each a submodule at its part's path."""

    spec: CompositeSpec

    def __init__(self, spec: CompositeSpec, shape: CallShape) -> None:
        nn.Module.__init__(self)  # without weights of its own: they are the parts'
        self.spec = spec
        self.shape = shape
        for path, part in spec.parts().items():
            folder, _, name = path.rpartition(".")
            if folder and not hasattr(self, folder):
                self.add_module(folder, nn.Module())
            self.get_submodule(folder).add_module(name, form(part, "executorch")(part, shape))

    def load(self, weights: dict[str, Tensor]) -> None:
        """Takes the canonical weights, by path."""
        for path in self.spec.parts():
            self._part(path).load(part_weights(weights, path))

    def _part(self, path: str) -> Form:
        part = self.get_submodule(path)
        assert isinstance(part, Form)
        return part

    @classmethod
    def inputs(cls, spec: CompositeSpec, shape: CallShape, pos: int) -> dict[str, Array]:
        """What the operators inside need, each input once."""
        return chain_inputs(list(dict.fromkeys(spec.leaves())), shape, pos)


class BlockForm(CompositeForm):
    """Mixer and feed-forward, each with its norms and around it a residual sum."""

    spec: BlockSpec

    def forward(self, x_BTD: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Runs T tokens, (B, T, D) to (B, T, D)."""
        for branch in self.spec.branches():
            y_BTD = x_BTD
            for path in branch:
                y_BTD = self._part(path)(y_BTD, inputs)
            x_BTD = x_BTD + y_BTD
        return x_BTD


class PairForm(CompositeForm):
    """One block behind another."""

    def forward(self, x_BTD: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Runs T tokens, (B, T, D) to (B, T, D)."""
        for path in self.spec.parts():
            x_BTD = self._part(path)(x_BTD, inputs)
        return x_BTD


class ModelForm(CompositeForm):
    """Embedding, blocks, and the head on the last token, unless every token's logits are wanted.

    A tied projection is the embedding's own parameter. Quantising makes it a second, rounded weight called
    ``head.w_vocab``, and leaves the table as it is.
    """

    spec: ModelSpec

    def load(self, weights: dict[str, Tensor]) -> None:
        """Takes the canonical weights, by path."""
        super().load(self.spec.with_projection(weights))

    def forward(self, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Runs token ids (B, T) to logits (B, 1, V) or (B, T, V)."""
        for path in self.spec.parts():
            if path == "head" and not self.spec.all_logits:
                x = x[:, -1:]
            x = self._part(path)(x, inputs)
        return x
