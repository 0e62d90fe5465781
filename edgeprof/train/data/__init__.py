"""From documents to batches: sources, tokenizer, packed token shards on disk, and a loader whose position can be stored."""
