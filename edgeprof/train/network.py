"""A model and its loss as one module: what is wrapped for several processes, compiled, and called in a training step."""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edgeprof.models.config import ArchConfig
from edgeprof.models.initialise import initialise
from edgeprof.models.model import model_of
from edgeprof.models.module import Model
from edgeprof.operators.module import Packed, rms_norm
from edgeprof.train.data.loader import Batch
from edgeprof.train.loss import Loss, LossSum


class Network(nn.Module):
    """Token ids in, sums of losses out."""

    def __init__(self, model: Model, loss: Loss, *, mask_documents: bool, checkpoint_activations: bool = False) -> None:
        """``checkpoint_activations`` keeps a block's input only, and computes the rest again for its gradient."""
        super().__init__()
        self.model = model
        self.loss = loss
        self.mask_documents, self.checkpoint_activations = mask_documents, checkpoint_activations

    def forward(self, ids_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor) -> LossSum:
        """The loss's sums over a batch."""
        batch = Batch(ids_BT, targets_BT, documents_BT)
        packed = Packed(documents=documents_BT if self.mask_documents else None)
        return self.loss(self._hidden(ids_BT, packed), self.projection, batch)

    def _hidden(self, ids_BT: Tensor, packed: Packed) -> Tensor:
        """Normed hidden states of every token, (B, T, D)."""
        head = self.model.head
        h: Tensor = self.model.embedding(ids_BT, packed, 0)
        self.model.derive(h, packed)
        for layer in self.model.layers:
            h = (
                checkpoint(layer, h, packed, 0, use_reentrant=False)
                if self.checkpoint_activations
                else layer(h, packed, 0)
            )
        return rms_norm(h, head.norm, head.spec.eps)

    @property
    def projection(self) -> Tensor:
        """The head's matrix, (V, D): the embedding's table where they are tied."""
        model = self.model
        return model.embedding.table if model.spec.arch.tied else model.head.w_vocab

    def weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The model's parameters by the names of its spec."""
        return self.model.named_parameters()

    def blocks(self) -> list[nn.Module]:
        """The model's blocks in order."""
        return list(self.model.layers)


def make_network(
    config: ArchConfig, loss: Loss, *, seed: int, mask_documents: bool, checkpoint_activations: bool = False
) -> Network:
    """A network with new weights that ``seed`` determines, on the CPU."""
    model = Model(model_of(config, all_logits=True))
    initialise(model, seed)
    return Network(model, loss, mask_documents=mask_documents, checkpoint_activations=checkpoint_activations)
