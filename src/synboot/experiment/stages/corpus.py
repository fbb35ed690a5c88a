"""corpus, tokenizer, tokens: from the user's files to a token store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synboot.core.errors import BadInput
from synboot.data.budget import fit_budget_with_bpe, keyed_groups
from synboot.data.documents import Documents
from synboot.data.files import Paths, corpus_bytes_digest, show_paths
from synboot.data.splits import build_corpus
from synboot.data.tokenizer import TextTokenizer
from synboot.data.tokens import (
    TokenStore,
    documents_for,
    join_token_stores,
    write_token_store,
)
from synboot.experiment.stages.process import ranges, set_threads
from synboot.pipeline.stage import Artifact, Context, Counts, Stage


def training_documents(inputs: Mapping[str, Artifact]) -> Documents:
    """All training documents, the unique budget first; numbered as in the token store."""
    return Documents(inputs["corpus"].file("train.arrow"), _order(inputs))


def unique_documents(inputs: Mapping[str, Artifact]) -> Documents:
    """The documents of the unique budget: all training documents where none was set."""
    order = _order(inputs)
    if order is not None:
        order = order[: inputs["tokenizer"].counts["unique_documents"]]
    return Documents(inputs["corpus"].file("train.arrow"), order)


def _order(inputs: Mapping[str, Artifact]) -> np.ndarray | None:
    """The order that begins with the unique budget; None where no budget was set."""
    if "tokenizer" not in inputs or not inputs["tokenizer"].file("order.npy").exists():
        return None
    order: np.ndarray = np.load(inputs["tokenizer"].file("order.npy"), allow_pickle=False)
    return order


def heldout_documents(corpus: Artifact, split: str) -> Documents:
    """The documents of valid or test, numbered as in the token store."""
    return Documents(corpus.file(f"{split}.arrow"))


class CorpusStage(Stage):
    """Reads the user's files: splits, exact duplicates, decontamination."""

    name = "corpus"
    version = 1

    def __init__(self, config: Mapping[str, Any], *, seed: int, paths: Paths) -> None:
        super().__init__(config, {}, seed=seed)
        self.paths = paths  # the config holds the digest of its bytes instead

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write train.arrow, valid.arrow and test.arrow."""
        options = {key: value for key, value in self.config.items() if key != "content"}
        counts: Counts = build_corpus(
            self.paths, context.directory, seed=self.seed, progress=context.advance, **options
        )
        if corpus_bytes_digest(self.paths) != self.config["content"]:
            shown = show_paths(self.paths)
            raise BadInput(f"{shown}: the files changed while they were read; begin again")
        return {**counts, "flops": 0}


class TokenizerStage(Stage):
    """Chooses the unique budget and trains the tokenizer on it."""

    name = "tokenizer"
    version = 1

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write the tokenizer and order.npy."""
        documents = Documents(context.inputs["corpus"].file("train.arrow"))
        keys: list[str] = []
        sizes = np.empty(len(documents), dtype=np.int64)
        for start, stop in ranges(len(documents), 4096):
            context.advance(start, len(documents), "reading")
            groups = documents.groups(start, stop)
            ids = documents.ids(start, stop)
            pairs = zip(groups, ids, strict=True)
            keys += [f"group {g}" if g is not None else f"id {i}" for g, i in pairs]
            sizes[start:stop] = documents.sizes(start, stop)
        chosen = fit_budget_with_bpe(
            keyed_groups(keys, self.seed),
            sizes,
            documents.texts_of,
            budget_tokens=self.config["unique_tokens"],
            vocab_size=self.config["vocab_size"],
        )
        wanted = self.config["unique_tokens"]
        if chosen.num_unique == len(documents) and chosen.num_tokens < 0.95 * wanted:
            raise BadInput(
                f"field budget.unique_tokens: {wanted} tokens asked, but all training text has "
                f"{chosen.num_tokens}; lower it"
            )
        chosen.tokenizer.save(context.directory)
        np.save(context.directory / "order.npy", chosen.order)
        unique_bytes = int(sizes[chosen.order[: chosen.num_unique]].sum())
        return {
            "vocab_size": chosen.tokenizer.vocab_size,
            "unique_documents": chosen.num_unique,
            "unique_tokens": chosen.num_tokens,
            "unique_bytes": unique_bytes,
            "tokenizer_documents": chosen.num_tokenizer_documents,
            "flops": 0,
        }


class TokensStage(Stage):
    """Encodes every document of every split, END after each."""

    name = "tokens"
    version = 1

    def enter(self) -> None:
        """One thread a process."""
        set_threads(1)

    def _ranges(self, context: Context) -> list[tuple[str, int, int]]:
        size = self.numerics["part_documents"]
        return [
            (split, start, stop)
            for split in _splits(context)
            for start, stop in ranges(len(self._documents(context, split)), size)
        ]

    def _documents(self, context: Context, split: str) -> Documents:
        if split == "train":
            return training_documents(context.inputs)
        return heldout_documents(context.inputs["corpus"], split)

    def num_parts(self, context: Context) -> int:
        """Ranges of documents of one split each."""
        return len(self._ranges(context))

    def run_part(self, context: Context, index: int, directory: Path) -> Counts:
        """A token store of the range."""
        split, start, stop = self._ranges(context)[index]
        tokenizer = TextTokenizer.load(context.inputs["tokenizer"].path)
        encoded = tokenizer.encode_documents(self._documents(context, split).texts(start, stop))
        num_tokens = write_token_store(directory, encoded, tokenizer.vocab_size)
        return {"split": split, "documents": stop - start, "tokens": num_tokens}

    def finish(self, context: Context, parts: Sequence[Path]) -> Counts:
        """Write a token store for every split: train/, valid/ and test/ of a run."""
        of_part = [split for split, _, _ in self._ranges(context)]
        counts: Counts = {}
        for split in _splits(context):
            own = [part for part, name in zip(parts, of_part, strict=True) if name == split]
            counts[split] = {"tokens": join_token_stores(context.directory / split, own)}
            counts[split]["documents"] = len(self._documents(context, split))
        counts["tokens"] = sum(counts[split]["tokens"] for split in _splits(context))
        counts["flops"] = 0
        if "train" not in _splits(context):
            return counts
        unique = context.inputs["tokenizer"].counts["unique_documents"]
        store = TokenStore(context.directory / "train")
        counts["unique"] = {"documents": unique, "tokens": store.num_tokens(unique)}
        expected = context.inputs["tokenizer"].counts.get("unique_tokens")
        if expected is not None and counts["unique"]["tokens"] != expected:
            raise AssertionError(f"{counts['unique']['tokens']} unique tokens, not {expected}")
        return counts


def _splits(context: Context) -> list[str]:
    """The splits that the corpus has: three in a run, those that a verb reads elsewhere."""
    return list(context.inputs["corpus"].counts["documents"])


def largest_oracle_multiple(tokens: Artifact) -> float:
    """Tokens of the whole training split over those of the unique budget."""
    return float(tokens.counts["train"]["tokens"] / tokens.counts["unique"]["tokens"])


def check_oracle(
    tokens: Artifact, multiple: float | str, field: str = "budget.oracle_multiple"
) -> None:
    """Raises BadInput with the largest possible multiple if the corpus is too small."""
    largest = largest_oracle_multiple(tokens)
    if multiple != "max" and float(multiple) > largest:
        otherwise = ", or say max" if field == "budget.oracle_multiple" else ""
        raise BadInput(
            f"field {field}: {multiple:g} times the unique budget of "
            f"{tokens.counts['unique']['tokens']} tokens asked, but the corpus allows at most "
            f"{int(largest * 100) / 100:.2f} (lower it, or lower budget.unique_tokens{otherwise})"
        )


def oracle_documents(tokens: Artifact, multiple: float | str) -> int:
    """How many first training documents are the oracle's."""
    store = TokenStore(tokens.file("train"))
    if multiple == "max":
        return len(store)
    return documents_for(store, int(float(multiple) * tokens.counts["unique"]["tokens"]))


def oracle_facts(tokens: Artifact, multiple: float | str) -> Counts:
    """Documents and tokens of the oracle, and their realised multiple of the unique budget."""
    documents = oracle_documents(tokens, multiple)
    num_tokens = TokenStore(tokens.file("train")).num_tokens(documents)
    return {
        "documents": documents,
        "tokens": num_tokens,
        "multiple": num_tokens / tokens.counts["unique"]["tokens"],
    }
