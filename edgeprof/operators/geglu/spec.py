"""What the GeGLU feed-forward costs."""

from dataclasses import dataclass
from typing import ClassVar

from edgeprof.operators.swiglu.spec import GatedSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class GegluSpec(GatedSpec):
    """The gated feed-forward whose activation is gelu in its tanh approximation, as in Gemma.

    Source: Gemma 3 technical report, arXiv 2503.19786; ``gelu_pytorch_tanh`` in its checkpoints' configuration.
    """

    name: ClassVar[str] = "geglu"
    meaning: ClassVar[str] = "GeGLU feed-forward (gelu in its tanh approximation)"
    module: ClassVar[str] = "edgeprof.operators.geglu.module:Geglu"
    reference: ClassVar[str] = "edgeprof.operators.geglu.reference:geglu"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.operators.geglu.onnx:emit",
        "executorch": "edgeprof.operators.geglu.executorch:GegluForm",
    }
