"""What an architecture costs on paper: parameters by part, weights, state, and FLOPs and bytes a token.

Every count is the operators' own; nothing is measured, and nothing heavy is imported.
"""

from collections import Counter
from dataclasses import dataclass

from edgeprof.core.dtypes import WEIGHT_DTYPES
from edgeprof.models.config import ArchConfig
from edgeprof.models.model import model_of

NORMS = "norms"
"""The part that holds every norm of the residual stream, the head's included; QK-norms belong to their mixer."""

VOCABULARY = ("embedding", "head")
"""Parts as large as the vocabulary. A tied head has no parameters of its own, and is no part."""

LARGE_SHARE = 1 / 3
"""An embedding beyond this share of the parameters is worth a warning: it takes memory and computes nothing."""

SHORTEST_CONTEXT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What the operators of one kind hold together: ``count`` of them, by the operator's name."""

    name: str
    count: int
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightCost:
    """Bytes of the weights in a format, scales included, and the embedding's table among them.

    Quantised formats store a tied projection as a second weight, packed for a matrix product; ``tied_copy_bytes`` come on top.
    """

    dtype: str
    weight_bytes: int
    embedding_bytes: int
    tied_copy_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCost:
    """What decoding one token costs that ends a context of ``context`` tokens.

    ``bytes_moved`` is what must be moved at least once: every weight but the embedding's other rows, the state, in- and output.
    ``state_bytes`` is what is kept for the next token.
    """

    context: int
    dtype: str
    kv_dtype: str
    flops: int
    state_bytes: int
    bytes_moved: int


def parameters(config: ArchConfig) -> int:
    """Number of parameters; a tied projection counts once."""
    return model_of(config).params()


def embedding_parameters(config: ArchConfig) -> int:
    """Parameters of the embedding's table."""
    return model_of(config).parts()["embedding"].params()


def embedding_share(config: ArchConfig) -> float:
    """Share of the parameters that the embedding's table takes."""
    return embedding_parameters(config) / parameters(config)


def parameters_by_part(config: ArchConfig) -> tuple[Part, ...]:
    """Embedding, mixers and feed-forwards by operator, norms, and the head where it is not tied; their sum is the model's."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for leaf in model_of(config).leaves():
        if leaf.name == "head":
            norm = leaf.weights()["norm"].size
            held = {NORMS: norm} | ({} if config.tied else {leaf.name: leaf.params() - norm})
        else:
            held = {NORMS if leaf.name == "rms_norm" else leaf.name: leaf.params()}
        counts.update(held.keys())
        sizes.update(held)
    return tuple(Part(name=name, count=counts[name], parameters=sizes[name]) for name in sorted(sizes, key=_place))


def _place(part: str) -> int:
    """Where a part stands in a table: embedding first, then what is in blocks, then norms and head."""
    return {"embedding": 0, NORMS: 2, "head": 3}.get(part, 1)


def vocabulary_share(config: ArchConfig) -> float:
    """Share of the parameters that grow with the vocabulary: the embedding, and a head that is not tied."""
    held = sum(part.parameters for part in parameters_by_part(config) if part.name in VOCABULARY)
    return held / parameters(config)


def weight_costs(config: ArchConfig) -> tuple[WeightCost, ...]:
    """The weights at each precision."""
    model = model_of(config)
    embedding, head = model.parts()["embedding"], model.parts()["head"]
    costs = []
    for dtype, formats in WEIGHT_DTYPES.items():
        norm_bytes = head.weights()["norm"].size * formats.activation_bits // 8
        copied = config.tied and formats.bits < formats.activation_bits
        costs.append(
            WeightCost(
                dtype=dtype,
                weight_bytes=model.weight_bytes(dtype),
                embedding_bytes=embedding.weight_bytes(dtype),
                tied_copy_bytes=head.weight_bytes(dtype) - norm_bytes if copied else 0,
            )
        )
    return tuple(costs)


def token_cost(config: ArchConfig, *, context: int, dtype: str, kv_dtype: str) -> TokenCost:
    """The cost of decoding one token of a single sequence."""
    model = model_of(config)
    return TokenCost(
        context=context,
        dtype=dtype,
        kv_dtype=kv_dtype,
        flops=model.flops(batch=1, q_len=1, kv_len=context),
        state_bytes=model.state_bytes(batch=1, kv_len=context, kv_dtype=kv_dtype),
        bytes_moved=model.bytes_moved(batch=1, q_len=1, kv_len=context, dtype=dtype, kv_dtype=kv_dtype),
    )


def state_by_mixer(config: ArchConfig, *, context: int, kv_dtype: str) -> dict[str, int]:
    """Bytes of state after ``context`` tokens, by the operator that carries it."""
    found: Counter[str] = Counter()
    for layer in config.layers:
        found[layer.mixer.name] += layer.mixer.state_bytes(batch=1, kv_len=context, kv_dtype=kv_dtype)
    return dict(found)


def usual_contexts(config: ArchConfig, factor: int = 4) -> tuple[int, ...]:
    """Contexts worth a look: 1024 tokens, each ``factor`` times the one before, and the longest that the model is meant for."""
    longest = config.max_context
    contexts = [SHORTEST_CONTEXT]
    while contexts[-1] * factor < longest:
        contexts.append(contexts[-1] * factor)
    return tuple(dict.fromkeys(min(n, longest) for n in (*contexts, longest)))


def floor_ns(bytes_moved: int, bytes_per_s: float) -> float:
    """The shortest time in which memory of that bandwidth delivers the bytes."""
    return 1e9 * bytes_moved / bytes_per_s
