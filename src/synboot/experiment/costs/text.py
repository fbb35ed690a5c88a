"""How much text a recipe has: from its artifacts where they are built, else from a sample."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synboot.core.rng import rng
from synboot.data.corpus import Rules, read_documents_by_file
from synboot.data.fields import Fields
from synboot.data.files import DataFile, Paths, find_files
from synboot.data.tokenizer import train_tokenizer
from synboot.data.tokens import TokenStore
from synboot.experiment.plan import Plan
from synboot.experiment.recipe import Recipe
from synboot.experiment.stages.corpus import CorpusStage, oracle_documents, unique_documents
from synboot.pipeline.stage import Artifact, Stage

_SAMPLE_BYTES = 4 << 20
"""Of text read from the files of a split, at most; what is behind it is taken to be alike."""
_SAMPLE_DOCUMENTS = 2000
_WORD = re.compile(r"\w\w+")


@dataclass(frozen=True)
class Text:
    """A recipe's text: counts, and lengths of documents in tokens, END included."""

    exact: bool
    """Counted in artifacts; else extrapolated from a sample."""
    vocab_size: int
    bytes_per_token: float
    num_tokens: int
    """Of all splits."""
    unique_documents: int
    unique_tokens: int
    valid_documents: int
    valid_tokens: int
    heldout_lengths: np.ndarray
    """Of the documents that are scored, int64; as many as there are."""
    unique_lengths: np.ndarray
    """Of a sample of the unique budget."""
    words_per_document: float
    """Distinct words of a document of the unique budget."""


def text_of(plan: Plan, artifacts: Mapping[str, Artifact]) -> Text:
    """The text of a plan's recipe; `artifacts` are `corpus_artifacts`. Files are read where the
    plan has them, as standard input can be read once only."""
    if artifacts:
        return _counted(plan.recipe, artifacts)
    corpus = plan.corpus["corpus"]
    if not isinstance(corpus, CorpusStage):
        raise AssertionError(f"the corpus is made by {corpus.label}, from no files")
    return _sampled(plan.recipe, corpus.paths)


def corpus_artifacts(
    plan: Plan, artifact: Callable[[Stage], Artifact | None]
) -> dict[str, Artifact]:
    """Those of corpus, tokenizer and tokens, by name, or none where one is missing."""
    built = {name: artifact(stage) for name, stage in plan.corpus.items()}
    known = {name: found for name, found in built.items() if found is not None}
    return known if len(known) == len(built) else {}


def _counted(recipe: Recipe, artifacts: Mapping[str, Artifact]) -> Text:
    tokens, tokenizer = artifacts["tokens"], artifacts["tokenizer"].counts
    train = TokenStore(tokens.file("train"))
    documents = unique_documents(artifacts)
    chosen = _some(len(documents), recipe.seed)
    return Text(
        exact=True,
        vocab_size=tokenizer["vocab_size"],
        bytes_per_token=tokenizer["unique_bytes"] / tokenizer["unique_tokens"],
        num_tokens=tokens.counts["tokens"],
        unique_documents=len(documents),
        unique_tokens=tokens.counts["unique"]["tokens"],
        valid_documents=tokens.counts["valid"]["documents"],
        valid_tokens=tokens.counts["valid"]["tokens"],
        heldout_lengths=TokenStore(tokens.file(recipe.evaluate.split)).lengths(),
        unique_lengths=train.lengths(len(documents))[chosen],
        words_per_document=_mean_words(documents.texts_of(chosen)),
    )


def oracle_tokens(recipe: Recipe, artifacts: Mapping[str, Artifact], text: Text) -> int:
    """Unique tokens of the oracle."""
    multiple = recipe.budget.oracle_multiple
    if artifacts:
        store = TokenStore(artifacts["tokens"].file("train"))
        return store.num_tokens(oracle_documents(artifacts["tokens"], multiple))
    held_out = text.valid_tokens + int(text.heldout_lengths.sum())
    return int(text.num_tokens - held_out if multiple == "max" else multiple * text.unique_tokens)


def _sampled(recipe: Recipe, paths: Paths) -> Text:
    corpus = recipe.corpus
    texts: dict[str | None, list[str]] = {}
    count: dict[str | None, float] = {}
    for split, files in find_files(paths).items():
        texts[split], count[split] = _sample(files, recipe)
    first = texts.get("train") or texts[None]
    chosen = [first[i] for i in _some(len(first), recipe.seed)]
    tokenizer = train_tokenizer(chosen, recipe.tokenizer.vocab_size)
    lengths = {
        split: np.array([len(ids) for ids in tokenizer.encode_documents(some[:_SAMPLE_DOCUMENTS])])
        for split, some in texts.items()
    }
    split_from = "train" if "train" in texts else None
    documents = dict(count)
    for split, fraction in (("valid", corpus.valid_fraction), ("test", corpus.test_fraction)):
        if split not in documents:
            documents[split] = fraction * count[split_from]
            documents[split_from] -= documents[split]
            lengths[split] = lengths[split_from]
    tokens = {split: float(lengths[split].mean() * documents[split]) for split in documents}
    scored = recipe.evaluate.split
    of_train = lengths[split_from]
    bytes_of = sum(len(text.encode()) for text in chosen)
    encoded = sum(len(ids) for ids in tokenizer.encode_documents(chosen))
    unique = min(recipe.budget.unique_tokens, round(tokens[split_from]))
    return Text(
        exact=False,
        vocab_size=tokenizer.vocab_size,
        bytes_per_token=bytes_of / encoded,
        num_tokens=round(sum(tokens.values())),
        unique_documents=max(round(unique / of_train.mean()), 1),
        unique_tokens=unique,
        valid_documents=max(round(documents["valid"]), 1),
        valid_tokens=round(tokens["valid"]),
        heldout_lengths=np.resize(lengths[scored], max(round(documents[scored]), 1)),
        unique_lengths=of_train[_some(len(of_train), recipe.seed)],
        words_per_document=_mean_words(chosen),
    )


def _sample(files: Sequence[DataFile], recipe: Recipe) -> tuple[list[str], float]:
    """The first texts of files, and how many documents there are: by the share of the files' bytes
    that the texts took, unless all were read."""
    corpus, done = recipe.corpus, [0.0, 0.0]

    def progress(read: float, total: float, _note: str) -> None:
        done[:] = [read, total]

    fields = Fields(corpus.text_field, corpus.id_field, corpus.group_field)
    rules = Rules("skip", corpus.max_document_bytes, corpus.long_documents)
    texts: list[str] = []
    size = 0
    for _, document in read_documents_by_file(files, fields, rules, progress=progress):
        texts.append(document.text)
        size += len(document.text)
        if size >= _SAMPLE_BYTES and done[0]:
            return texts, len(texts) * done[1] / done[0]
    return texts, float(len(texts))


def _some(count: int, seed: int) -> np.ndarray:
    """Places of a keyed sample, in order."""
    return np.sort(rng(seed, "sample of texts").permutation(count)[:_SAMPLE_DOCUMENTS])


def _mean_words(texts: Sequence[str]) -> float:
    counts: Any = [len(set(_WORD.findall(text.lower()))) for text in texts]
    return float(np.mean(counts)) if counts else 0.0
