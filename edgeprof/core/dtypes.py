"""Weight and KV-cache number formats, with the bytes each one stores."""

from dataclasses import dataclass

from edgeprof.core.errors import UsageError
from edgeprof.core.registry import did_you_mean

QUANT_GROUP = 32
"""Weights that share a scale in the 4-bit formats (llama.cpp's Q4_0, torchao's and MatMulNBits' common choice)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DType:
    """A number format.

    ``bits`` are stored bits for each value of a matrix weight, scales included, ``embedding_bits`` the same for a table of rows
    (8da4w quantises linear layers only), ``activation_bits`` those of everything else. ``tolerance`` is the largest relative
    error (L2, for each token) against the reference on the same dequantised weights that the numerics gate accepts.
    """

    name: str
    bits: float
    embedding_bits: float
    activation_bits: int
    tolerance: float
    meaning: str


# Tolerances: fp32 leaves room for reordered sums; bf16 has 8 significant bits (2^-8 = 0.4 %) over a few roundings; the
# 4-bit forms compute with activations rounded to 8 bits, which costs a token 1 to 2 %; 8da4w rounds a whole token with one
# scale, and the worst of 4096 tokens of a right short convolution was seen at 3.2 %.
WEIGHT_DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        DType(name="fp32", bits=32, embedding_bits=32, activation_bits=32, tolerance=1e-4, meaning="32-bit floats"),
        DType(
            name="bf16",
            bits=16,
            embedding_bits=16,
            activation_bits=16,
            tolerance=2e-2,
            meaning="bfloat16 weights and activations",
        ),
        DType(
            name="int4",
            bits=4 + 32 / QUANT_GROUP,
            embedding_bits=4 + 32 / QUANT_GROUP,
            activation_bits=32,
            tolerance=3e-2,
            meaning="4-bit symmetric weights in groups of 32 with fp32 scales, int8 activations (MatMulNBits)",
        ),
        DType(
            name="8da4w",
            bits=4 + 16 / QUANT_GROUP,
            embedding_bits=32,
            activation_bits=32,
            tolerance=4e-2,
            meaning="4-bit symmetric weights in groups of 32, activations quantised to int8 per token at run time",
        ),
    )
}

KV_ITEMSIZE: dict[str, int] = {"fp32": 4, "bf16": 2, "int8": 1}
"""Bytes for each value of a KV cache (or of another operator's carried state)."""

KV_TOLERANCE: dict[str, float] = {"fp32": 0.0, "bf16": 1e-2, "int8": 3e-2}
"""What a rounded cache adds to the tolerance of the weights' format."""


def weight_dtype(name: str) -> DType:
    """The weight format called ``name``.

    Raises:
        UsageError: it is unknown.
    """
    if name not in WEIGHT_DTYPES:
        raise UsageError(f"unknown dtype {name!r}: {did_you_mean(name, list(WEIGHT_DTYPES))}")
    return WEIGHT_DTYPES[name]


def kv_itemsize(name: str) -> int:
    """Bytes a cached value takes in the format called ``name``.

    Raises:
        UsageError: it is unknown.
    """
    if name not in KV_ITEMSIZE:
        raise UsageError(f"unknown kv-dtype {name!r}: {did_you_mean(name, list(KV_ITEMSIZE))}")
    return KV_ITEMSIZE[name]
