"""A whole model as an operator: token ids in, logits out."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, TypeVar

from edgeprof.models.composite import CompositeSpec
from edgeprof.models.config import ArchConfig, config_from_json, config_to_json
from edgeprof.operators.base import OperatorSpec, Weight, activation_bytes, implied
from edgeprof.operators.embedding.spec import EmbeddingSpec
from edgeprof.operators.head.spec import HeadSpec

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(CompositeSpec):
    """Embedding, blocks and head. ``config`` is an ArchConfig's canonical JSON (``model_of`` writes it).

    The head sees the last token of a call only, as in generation; with ``all_logits`` every token, as in evaluation.
    A tied projection is the embedding's table: it is no weight of its own.
    """

    name: ClassVar[str] = "model"
    meaning: ClassVar[str] = "a whole model: token ids to logits"
    takes_tokens: ClassVar[bool] = True
    module: ClassVar[str] = "edgeprof.models.module:Model"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.models.onnx:emit_model",
        "executorch": "edgeprof.models.executorch:ModelForm",
    }

    config: str
    all_logits: bool = implied(False)

    @property
    def arch(self) -> ArchConfig:
        """The architecture."""
        return config_from_json(self.config)

    def parts(self) -> dict[str, OperatorSpec]:
        """``embedding``, ``layers.0`` and on, ``head``."""
        return _parts(self.config)

    def width(self) -> int:
        """d_model."""
        return self.arch.d_model

    def vocab_size(self) -> int:
        """Token ids."""
        return self.arch.vocab

    def output_width(self) -> int:
        """Logits."""
        return self.arch.vocab

    def weights(self) -> dict[str, Weight]:
        """The parts' weights, without a tied projection."""
        weights = CompositeSpec.weights(self)
        if self.arch.tied:
            del weights["head.w_vocab"]
        return weights

    def with_projection(self, weights: dict[str, T]) -> dict[str, T]:
        """The weights with ``head.w_vocab`` among them: a tied one is the embedding's table, unless it is given apart.

        A format may round the two differently: 8da4w quantises the projection and leaves the table as it is.
        """
        return {"head.w_vocab": weights["embedding.table"]} | weights if self.arch.tied else weights

    def output_tokens(self, q_len: int) -> int:
        """Tokens of a call that get logits."""
        return q_len if self.all_logits else 1

    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """The parts' FLOPs, the head's for the tokens that get logits."""
        parts = self.parts()
        body = sum(p.flops(batch=batch, q_len=q_len, kv_len=kv_len) for n, p in parts.items() if n != "head")
        return body + parts["head"].flops(batch=batch, q_len=self.output_tokens(q_len), kv_len=kv_len)

    def io_bytes(self, *, batch: int, q_len: int, dtype: str) -> int:
        """64-bit token ids in, logits out."""
        return batch * (8 * q_len + self.output_tokens(q_len) * self.arch.vocab * activation_bytes(dtype))


def model_of(config: ArchConfig, *, all_logits: bool = False) -> ModelSpec:
    """The model of an architecture; its name is no part of what it computes."""
    return ModelSpec(config=config_to_json(config), all_logits=all_logits)


@lru_cache(maxsize=64)
def _parts(config: str) -> dict[str, OperatorSpec]:
    arch = config_from_json(config)
    width, vocab = arch.d_model, arch.vocab
    return {
        "embedding": EmbeddingSpec(vocab=vocab, d_model=width, scale=arch.embedding_scale),
        **{f"layers.{i}": layer for i, layer in enumerate(arch.layers)},
        "head": HeadSpec(vocab=vocab, d_model=width, tied=arch.tied, eps=arch.norm_eps),
    }
