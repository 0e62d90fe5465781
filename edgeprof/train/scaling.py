"""Published scaling laws: how long to train, how large a batch, how fast, and what over-training buys. All predicted."""

from dataclasses import dataclass

TOKENS_PER_PARAMETER = 20
"""Compute-optimal training. Source: Hoffmann et al., Training Compute-Optimal LLMs, arXiv 2203.15556, table 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFit:
    """``L(N, D) = E + A / N^alpha + B / D^beta``: nats a token of a model of N parameters after D tokens."""

    e: float
    a: float
    alpha: float
    b: float
    beta: float
    source: str
    smallest: float
    largest: float
    """The models that it was fitted to, in parameters: beyond them it is stretched."""

    def loss(self, parameters: float, tokens: float) -> float:
        """The predicted loss."""
        return float(self.e + self.a / parameters**self.alpha + self.b / tokens**self.beta)


CHINCHILLA = LossFit(
    e=1.8172,
    a=482.01,
    alpha=0.3478,
    b=2085.43,
    beta=0.3658,
    smallest=44e6,
    largest=16e9,
    source="Besiroglu et al., Chinchilla Scaling: A replication attempt, arXiv 2404.10102, for the data of arXiv 2203.15556",
)
"""The original's own constants do not fit its data: the replication found and corrected that."""


def optimal_tokens(parameters: int) -> int:
    """Tokens at which a model of this size is compute-optimal."""
    return TOKENS_PER_PARAMETER * parameters


def learning_rate(compute_flops: float) -> float:
    """The best peak learning rate of AdamW for a training compute. Source: DeepSeek LLM, arXiv 2401.02954, section 3.1.

    Muon's updates are scaled to the size of AdamW's, so that it takes the same (Moonlight, arXiv 2502.16982, section 2.2).
    """
    return float(0.3118 * compute_flops**-0.1250)


def batch_tokens(compute_flops: float) -> float:
    """The best batch in tokens for a training compute. Source: DeepSeek LLM, arXiv 2401.02954, section 3.1."""
    return float(0.2920 * compute_flops**0.3271)
