"""The registered operators: one line each."""

from edgeprof.core.registry import Registry
from edgeprof.operators.base import Dims, OperatorSpec

OPERATORS: Registry[type[OperatorSpec]] = Registry("operator")
OPERATORS.add("short_conv", "edgeprof.operators.short_conv.spec:ShortConvSpec")
OPERATORS.add("swa", "edgeprof.operators.swa.spec:SwaSpec")
OPERATORS.add("gqa", "edgeprof.operators.gqa.spec:GqaSpec")
OPERATORS.add("swiglu", "edgeprof.operators.swiglu.spec:SwigluSpec")
OPERATORS.add("geglu", "edgeprof.operators.geglu.spec:GegluSpec")
OPERATORS.add("embedding", "edgeprof.operators.embedding.spec:EmbeddingSpec")
OPERATORS.add("head", "edgeprof.operators.head.spec:HeadSpec")
OPERATORS.add("rms_norm", "edgeprof.operators.rms_norm.spec:RmsNormSpec")
OPERATORS.add("residual", "edgeprof.operators.residual.spec:ResidualSpec")
OPERATORS.add("identity", "edgeprof.operators.identity.spec:IdentitySpec")
OPERATORS.add("block", "edgeprof.models.block:BlockSpec")
OPERATORS.add("pair", "edgeprof.models.pair:PairSpec")
OPERATORS.add("model", "edgeprof.models.model:ModelSpec")


def make_spec(op: str, dims: Dims) -> OperatorSpec:
    """The operator ``op`` with its dimensions.

    Raises:
        UsageError: the operator is unknown or a dimension does not fit.
    """
    return OPERATORS.get(op).from_dims(dims)
