"""A block as an operator: norm, mixer, residual, norm, feed-forward, residual."""

import json
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar

from edgeprof.core.canonical import canonical_json
from edgeprof.models.composite import CompositeSpec
from edgeprof.operators.base import NORM_EPSILON, Dims, OperatorSpec
from edgeprof.operators.registry import make_spec
from edgeprof.operators.rms_norm.spec import RmsNormSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec(CompositeSpec):
    """A pre-norm transformer block: ``h = x + mixer(norm(x)); y = h + ffn(norm(h))``.

    ``layer`` is the canonical JSON of what is in it (``block_of`` writes it): the mixer and the feed-forward with their own
    dimensions, the norms' epsilon, and whether they are sandwiched (Gemma's second norm behind mixer and feed-forward).
    """

    name: ClassVar[str] = "block"
    meaning: ClassVar[str] = "a model's block: mixer and feed-forward with norms and residuals"
    module: ClassVar[str] = "edgeprof.models.module:Block"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.models.onnx:emit_block",
        "executorch": "edgeprof.models.executorch:BlockForm",
    }

    d_model: int
    layer: str

    def parts(self) -> dict[str, OperatorSpec]:
        """``mixer_norm``, ``mixer``, ``ffn_norm``, ``ffn``, and in a sandwich the norms ``mixer_post`` and ``ffn_post``."""
        return _parts(self.d_model, self.layer)

    def branches(self) -> list[list[str]]:
        """Paths of the parts that run one after another beside each residual sum: the mixer's, then the feed-forward's."""
        return [[path for path in self.parts() if path.startswith(half)] for half in ("mixer", "ffn")]

    @property
    def mixer(self) -> OperatorSpec:
        """The token mixer."""
        return self.parts()["mixer"]

    @property
    def ffn(self) -> OperatorSpec:
        """The feed-forward."""
        return self.parts()["ffn"]

    @property
    def sandwich(self) -> bool:
        """Whether mixer and feed-forward are followed by norms of their own."""
        return "mixer_post" in self.parts()

    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """The parts', and two residual additions."""
        return CompositeSpec.flops(self, batch=batch, q_len=q_len, kv_len=kv_len) + 2 * batch * q_len * self.d_model

    def check(self) -> None:
        """Checks every part.

        Raises:
            UsageError: a part's dimension is wrong, or ``layer`` is not what ``block_of`` writes.
        """
        OperatorSpec.check(self)
        for part in self.parts().values():
            part.check()


def block_of(mixer: OperatorSpec, ffn: OperatorSpec, *, eps: float = NORM_EPSILON, sandwich: bool = False) -> BlockSpec:
    """The block of a mixer and a feed-forward of the same width."""
    layer = {"mixer": describe_part(mixer), "ffn": describe_part(ffn), "eps": eps, "sandwich": sandwich}
    return BlockSpec(d_model=mixer.width(), layer=canonical_json(layer))


def describe_part(spec: OperatorSpec) -> Dims:
    """An operator as ``op`` and its dimensions, the width left out because it is the model's.

    A whole number where a float is meant becomes one: equal layers are described by equal texts.
    """
    floats = {f.name for f in fields(spec) if f.type in (float, "float")}
    dims = {n: float(v) if n in floats else v for n, v in spec.dims().items() if n != "d_model"}
    return {"op": spec.name} | dims


def part_of(d_model: int, described: Dims) -> OperatorSpec:
    """The operator that ``describe_part`` described.

    Raises:
        UsageError: it is unknown, or a dimension does not fit.
    """
    dims = {n: v for n, v in described.items() if n != "op"}
    return make_spec(str(described["op"]), {"d_model": d_model, **dims})


@lru_cache(maxsize=4096)
def _parts(d_model: int, layer: str) -> dict[str, OperatorSpec]:
    described: dict[str, Any] = json.loads(layer)
    norm = RmsNormSpec(d_model=d_model, eps=described["eps"])
    parts: dict[str, OperatorSpec] = {}
    for name in ("mixer", "ffn"):
        parts[f"{name}_norm"] = norm
        parts[name] = part_of(d_model, described[name])
        if described["sandwich"]:
            parts[f"{name}_post"] = norm
    return parts
