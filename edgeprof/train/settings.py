"""What a training run is set to: what decides its result, and what only decides how it is run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from edgeprof.models.accounting import parameters
from edgeprof.models.config import ArchConfig
from edgeprof.models.model import model_of
from edgeprof.train.scaling import batch_tokens, learning_rate, optimal_tokens

Precision = Literal["auto", "fp32", "bf16"]

DEFAULT_SEQ_LEN = 256
"""Sequences of a run that asks for none, where the model's context is not shorter: a small model sees more of them."""

DEFAULT_EPOCHS = 2
"""How often data are seen at most where no budget is asked for: a first run on a small text is to be short."""

MAX_BATCH = 4096
"""Sequences that a batch has at most by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides a run's result; a run folder is for one of them.

    ``tokens`` is the budget, ``batch`` the sequences of ``seq_len`` tokens in a step of all processes. ``lr`` is the highest
    learning rate; ``warmup`` and ``decay`` are shares of the steps, ``final_lr`` a share of ``lr``. ``beta1``, ``beta2`` are
    AdamW's, ``momentum`` Muon's. ``clip`` bounds the gradient's norm, ``z_loss`` weighs the squared log of the softmax's
    normaliser. ``mask_documents`` keeps a token from seeing other documents of its row. After ``max_skipped`` steps in a row
    without a finite loss and gradient the run stops.
    """

    tokens: int
    seq_len: int
    batch: int
    lr: float
    optimiser: Literal["muon", "adamw"] = "muon"
    schedule: Literal["wsd", "cosine"] = "wsd"
    warmup: float = 0.02
    decay: float = 0.2
    final_lr: float = 0.0
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95
    clip: float = 1.0
    z_loss: float = 1e-4
    mask_documents: bool = True
    max_skipped: int = 10
    seed: int = 0
    precision: Precision = "auto"

    @property
    def step_tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.seq_len

    @property
    def steps(self) -> int:
        """Steps of the whole run: the last one may go beyond the budget."""
        return -(-self.tokens // self.step_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How a run is run: may be another after each interruption, and moves results by rounding only.

    ``micro_batch`` is the sequences that a process takes at once, ``save_every`` and ``evaluate_every`` are steps, ``keep`` the
    checkpoints that are kept; None is chosen for the run. ``parallel`` says what several processes share: the batch only, or the
    weights, too.
    """

    micro_batch: int | None = None
    checkpoint_activations: bool = False
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    save_every: int | None = None
    evaluate_every: int | None = None
    keep: int = 2


def setting_names() -> tuple[str, ...]:
    """Names of all fields, those that decide the result first."""
    return tuple(f.name for kind in (Settings, Running) for f in fields(kind))


def make_settings(config: ArchConfig, given: Mapping[str, Any], *, data_tokens: int | None = None) -> Settings:
    """The settings for a model: those given, and for the others what suits its size, the budget, and the data if known."""
    chosen = {f.name: given[f.name] for f in fields(Settings) if f.name in given}
    optimal = optimal_tokens(parameters(config))
    chosen.setdefault("tokens", optimal if data_tokens is None else min(optimal, DEFAULT_EPOCHS * data_tokens))
    chosen.setdefault("seq_len", min(DEFAULT_SEQ_LEN, config.max_context))
    compute = chosen["tokens"] * training_flops(config, chosen["seq_len"])
    chosen.setdefault("batch", _power_of_two(batch_tokens(compute) / chosen["seq_len"]))
    chosen.setdefault("lr", float(f"{learning_rate(compute):.2g}"))
    return Settings(**chosen)


def make_running(given: Mapping[str, Any]) -> Running:
    """How to run it: what is given, and the defaults."""
    return Running(**{f.name: given[f.name] for f in fields(Running) if f.name in given})


def training_flops(config: ArchConfig, seq_len: int) -> float:
    """FLOPs a token of forward and backward over whole sequences, logits of every token included.

    Source: the backward pass takes two matrix products for each of the forward's, Kaplan et al., arXiv 2001.08361, section 2.1.
    """
    return 3 * model_of(config, all_logits=True).flops(batch=1, q_len=seq_len, kv_len=seq_len) / seq_len


def _power_of_two(value: float) -> int:
    power = 1
    while power * 2**0.5 < value and power < MAX_BATCH:
        power *= 2
    return power


def settings_document(settings: Settings) -> dict[str, Any]:
    """The settings as JSON takes them."""
    return asdict(settings)
