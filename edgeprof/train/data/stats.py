"""What a data set holds, in figures."""

from typing import Any

import numpy as np

from edgeprof.train.data.dataset import DataSet
from edgeprof.train.data.index import SplitEntry, SplitName

LENGTH_QUANTILES = {"p1": 0.01, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99}


def data_stats(data: DataSet) -> dict[str, Any]:
    """Documents, tokens, text a token, lengths of documents and shares of lost text by split, as ``--json`` prints them.

    Lengths count every token of a document with its end. ``replacement_characters`` are U+FFFD in the text, which an earlier
    conversion put where it could not read.
    """
    index = data.index
    entries = dict(index.splits())
    return {
        "data": str(data.folder),
        "fingerprint": index.fingerprint,
        "vocab": index.vocab,
        "tokenizer": index.tokenizer.model_dump(),
        "token_bytes": index.dtype.itemsize,
        "sources": [source.model_dump() for source in index.sources],
        "documents": sum(entry.documents for entry in entries.values()),
        "empty_documents": index.empty_documents,
        "tokens": sum(entry.tokens for entry in entries.values()),
        "splits": {name: _split_stats(data, name, entry) for name, entry in entries.items()},
    }


def _split_stats(data: DataSet, name: SplitName, entry: SplitEntry) -> dict[str, Any]:
    lengths = np.diff(data.split(name).ends, prepend=0)
    quantiles = np.quantile(lengths, list(LENGTH_QUANTILES.values()), method="inverted_cdf")
    return {
        "documents": entry.documents,
        "tokens": entry.tokens,
        "shards": len(entry.shards),
        "text_bytes": entry.text_bytes,
        "bytes_per_token": entry.text_bytes / entry.tokens,
        "document_tokens": {
            "min": int(lengths.min()),
            **{label: int(q) for label, q in zip(LENGTH_QUANTILES, quantiles, strict=True)},
            "max": int(lengths.max()),
        },
        "unknown_tokens": entry.unknown_tokens,
        "unknown_share": entry.unknown_tokens / entry.tokens,
        "replacement_characters": entry.replacement_characters,
    }
