"""paired: the kept pairs of real documents as training text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from synboot.data.tokens import TokenStore, write_token_store
from synboot.experiment.stages.corpus import unique_documents
from synboot.pairs.find import read_kept_pairs
from synboot.pipeline.stage import Context, Counts, Stage


class PairedStage(Stage):
    """A control of synthesis: every kept pair in both orders, d2 right after d1.

    Both are whole, each with its END, so that all their tokens are trained on as those of any
    document; what is kept together is their order in the stream.
    """

    name = "paired"
    version = 1

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write tokens/, a document for each ordered pair."""
        documents = unique_documents(context.inputs)
        number = {name: i for i, name in enumerate(documents.ids(0, len(documents)))}
        store = TokenStore(context.inputs["tokens"].file("train"))
        kept = read_kept_pairs(context.inputs["pairs"].file("pairs.parquet"))
        joined = (np.concatenate([store[number[d1]], store[number[d2]]]) for d1, d2 in kept)
        vocab_size = context.inputs["tokenizer"].counts["vocab_size"]
        tokens = write_token_store(context.directory / "tokens", joined, vocab_size)
        return {"documents": len(kept), "tokens": tokens, "flops": 0}
