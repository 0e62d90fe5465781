"""The loss on documents that were held out, in nats a token and in bits a byte of text, which compares across tokenizers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn

from edgeprof.train.data.dataset import TokenSplit
from edgeprof.train.data.loader import IGNORED, in_order
from edgeprof.train.distributed import Processes
from edgeprof.train.precision import computing
from edgeprof.train.settings import Precision

EVALUATION_TOKENS = 2**20
"""Most tokens of an evaluation while training goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """``loss`` in nats a scored token. ``bits_per_byte`` of the text: documents' ends are predicted, their first tokens are not.

    Where only a part of the split was scored, its bytes are taken to be the split's average.
    """

    loss: float
    bits_per_byte: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationCall:
    """What an evaluation gets: the network as it is called, and where and how to run it."""

    called: nn.Module
    processes: Processes
    precision: Precision
    batch: int
    seq_len: int
    text_bytes: int
    """Of all the text of the split."""


Evaluate = Callable[[EvaluationCall, TokenSplit, int | None], HeldOut]


def held_out_loss(call: EvaluationCall, split: TokenSplit, most_tokens: int | None = None) -> HeldOut:
    """The loss over a split in its order, or over its first ``most_tokens``; processes share the batches."""
    device, processes = call.processes.device, call.processes
    rows = call.batch * processes.world_size
    n_batches = None if most_tokens is None else max(1, most_tokens // (rows * call.seq_len))
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    with torch.no_grad(), computing(call.precision, device):
        for batch in islice(in_order(split, batch=rows, seq_len=call.seq_len), n_batches):
            # a process without rows of its own takes the first ones unscored: all must make the same calls
            own = [x[processes.rank :: processes.world_size] if len(x) > processes.rank else x[:1] for x in batch]
            if len(batch.ids) <= processes.rank:
                own[1] = torch.full_like(own[1], IGNORED)
            ids, targets, documents = (x.to(device) for x in own)
            sums[0] += call.called(ids, targets, documents).cross_entropy
            sums[1] += (targets != IGNORED).sum()
    nats, count = processes.sum(sums).tolist()
    scored_share = count / max(1, split.tokens - split.documents)
    text_bytes = max(1.0, call.text_bytes * min(1.0, scored_share))
    loss = nats / max(1.0, count)
    return HeldOut(loss=loss, bits_per_byte=nats / math.log(2) / text_bytes, tokens=int(count))
