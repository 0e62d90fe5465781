"""Held-out loss of any model on a data set: by its shards, or where the model has another tokenizer, by the text itself."""

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np

from edgeprof.core.errors import UsageError
from edgeprof.models.gguf_tokenizer import TOKENIZER_FILE
from edgeprof.train.data.dataset import DataSet, Tokens, TokenSplit
from edgeprof.train.data.prepare import Reporter
from edgeprof.train.data.tokenizer import Specials, TextTokenizer, load_tokenizer
from edgeprof.train.distributed import Processes
from edgeprof.train.evaluate.language_model import LanguageModel
from edgeprof.train.evaluate.same_tokenizer import first_difference
from edgeprof.train.held_out import EvaluationCall, held_out_loss

DOCUMENTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScore:
    """``loss`` is in nats a token of the model's tokenizer; ``bits_per_byte`` of UTF-8 compares across tokenizers.

    ``retokenised`` says that the model reads the same text with a tokenizer of its own.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    seq_len: int
    retokenised: bool


def score_held_out(
    model: LanguageModel,
    data: DataSet,
    *,
    seq_len: int,
    batch: int,
    most_tokens: int | None = None,
    reporter: Reporter | None = None,
) -> HeldOutScore:
    """The loss over all that a data set holds out, or over about its first ``most_tokens``; the same each time.

    Raises:
        UsageError: nothing was held out, the model's context is shorter than ``seq_len``, or its loss is not finite.
    """
    if model.max_context is not None and seq_len > model.max_context:
        raise UsageError(f"--seq-len: {seq_len} exceeds the context of {model.max_context} of {model.name}; use less")
    split = data.split("held_out")
    entry = data.index.held_out
    assert entry is not None
    theirs = load_tokenizer(data.folder, Specials(), vocab=None)
    text_bytes, retokenised = entry.text_bytes, False
    if not _reads_the_same(model, theirs):
        split, retokenised = _retokenise(model, theirs, split, data, most_tokens), True
        text_bytes = split.text_bytes
    scorer = model.scorer()
    if reporter is not None:
        calls = -(-(split.tokens - 1) // (batch * seq_len))
        most = calls if most_tokens is None else max(1, most_tokens // (batch * seq_len))
        reporter.stage("score", min(calls, most))
        scorer.register_forward_hook(lambda *_: reporter.step(f"{batch * seq_len:,} tokens a batch"))
    call = EvaluationCall(
        called=scorer,
        processes=Processes(rank=0, world_size=1, device=next(scorer.parameters()).device),
        precision="fp32",
        batch=batch,
        seq_len=seq_len,
        text_bytes=text_bytes,
    )
    found = held_out_loss(call, split, most_tokens)
    if not math.isfinite(found.loss):
        raise UsageError(
            f"{model.folder}: the held-out loss is {found.loss}: its weights are damaged, or training diverged"
        )
    return HeldOutScore(
        loss=found.loss,
        perplexity=math.exp(found.loss) if found.loss < math.log(1e300) else math.inf,
        bits_per_byte=found.bits_per_byte,
        tokens=found.tokens,
        seq_len=seq_len,
        retokenised=retokenised,
    )


def _reads_the_same(model: LanguageModel, theirs: TextTokenizer) -> bool:
    path = model.folder / TOKENIZER_FILE
    return first_difference(load_tokenizer(path, Specials(), vocab=None), theirs) is None


class RetokenisedSplit(TokenSplit):
    """Documents in memory, in another tokenizer's tokens."""

    def __init__(self, like: TokenSplit, documents: list[Tokens], text_bytes: int, n_ids: int) -> None:
        self.name, self.fingerprint, self.n_ids = like.name, like.fingerprint, n_ids
        self._tokens = np.concatenate(documents)
        self.tokens, self.documents = len(self._tokens), len(documents)
        self.ends = np.cumsum([len(d) for d in documents])
        self.text_bytes = text_bytes

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens ``start`` to ``stop``."""
        return self._tokens[start:stop]


def _retokenise(
    model: LanguageModel, theirs: TextTokenizer, split: TokenSplit, data: DataSet, most_tokens: int | None
) -> RetokenisedSplit:
    own = load_tokenizer(model.folder, Specials(), vocab=None)
    begin = np.array([] if own.bos is None else [own.bos], dtype=np.int64)
    end = np.array([own.eos], dtype=np.int64)
    bounds = np.concatenate([[0], split.ends])
    documents: list[Tokens] = []
    text_bytes = tokens = 0
    numbers = iter(range(split.documents))
    while chosen := list(islice(numbers, DOCUMENTS_AT_ONCE)):
        ids = [split.read(int(bounds[n]), int(bounds[n + 1])) for n in chosen]
        texts = theirs.backend.decode_batch([i.tolist() for i in ids], skip_special_tokens=True)
        text_bytes += sum(len(text.encode()) for text in texts)
        read = [np.concatenate([begin, i, end]) for i in own.encode(texts)]
        documents += read
        tokens += sum(len(document) for document in read)
        if most_tokens is not None and tokens > most_tokens:
            break
    return RetokenisedSplit(split, documents, text_bytes, own.n_ids)
