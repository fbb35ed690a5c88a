"""What learns from the concept world, by synboot's own code: base model, synthesizer, control."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synboot.core.rng import rng
from synboot.data.batches import Rows
from synboot.data.mixture import Mixture, Source
from synboot.data.tokens import TokenStore, write_token_store
from synboot.model.architecture import load_model, new_model, save_model
from synboot.model.settings import Shape
from synboot.synth.template import PairRows
from synboot.train.loop import train
from synboot.train.settings import LoopConfig
from synboot.worlds.concept import END, ConceptConfig, ConceptWorld

Pair = tuple[int, int]
_CPU = torch.device("cpu")
PAIRS, RANDOM = KINDS = ("pairs", "random pairs")
"""What is tuned on, and what the models are called."""

_VALIDATION_DOCUMENTS = 500


@dataclass(frozen=True)
class Size:
    """A world, a model, how long it learns, and how many fresh documents judge it."""

    world: ConceptConfig
    shape: Shape
    context: int
    num_documents: int
    """To learn from: each once alone, once as d1 and once as d2."""
    pretrain: LoopConfig
    tune: LoopConfig
    num_fresh: int
    """Fresh pairs, for `captured`."""
    num_seeds: int
    """Fresh seed documents, for the concepts of synthetic ones."""
    min_captured: float
    max_of_random: float
    """Apart from 0, on either side."""
    max_variation: float


def write_corpus(world: ConceptWorld, size: Size, seed: int, folder: Path) -> None:
    """Documents of the world, to learn from and for validation, as token stores below `folder`,
    with the concepts that they were drawn from."""
    for name, number in (("corpus", size.num_documents), ("validation", _VALIDATION_DOCUMENTS)):
        sample = world.sample(number, seed, name)
        documents = (np.append(document, END) for document in sample.documents)
        write_token_store(folder / name, documents, world.vocab_size)
        np.save(folder / name / "concepts.npy", sample.concepts)


def pretrain(size: Size, seed: int, folder: Path) -> None:
    """A fresh model after one pass over the documents, in rows that run on, as `folder`/base."""

    def rows(name: str) -> Mixture:
        store = TokenStore(folder / name)
        source = Source(name, store, len(store), store.num_tokens())
        return Mixture([source], size.context, END, seed=seed)

    vocab_size = size.world.num_words + 1
    model = new_model(
        size.shape, vocab_size=vocab_size, context=size.context, end_id=END, seed=seed
    )
    _train(model, rows("corpus"), rows("validation"), size.pretrain, seed, folder / "base")


def tune(size: Size, seed: int, folder: Path, kind: str) -> None:
    """The base model after one pass over pairs, or over pairs with shuffled partners, as
    `folder`/`kind`."""

    def rows(name: str) -> PairRows:
        pairs = pairs_of(np.load(folder / name / "concepts.npy"), seed, name)
        if kind == RANDOM:
            order = rng(seed, name, kind).permutation(len(pairs)).tolist()
            pairs = [
                (first, pairs[other][1]) for (first, _), other in zip(pairs, order, strict=True)
            ]
        settings: dict[str, Any] = {"context": size.context, "end_id": END, "packed": True}
        return PairRows(TokenStore(folder / name), pairs, seed=seed, **settings)

    model = load_model(folder / "base")
    _train(model, rows("corpus"), rows("validation"), size.tune, seed, folder / kind)


def _train(
    model: Any, rows: Rows, validation: Rows, loop: LoopConfig, seed: int, directory: Path
) -> None:
    scratch = directory.with_name(f"{directory.name}-scratch")
    options: dict[str, Any] = {"seed": seed, "device": _CPU, "checkpoint_seconds": math.inf}
    train(model, rows, validation, loop, scratch, **options)
    save_model(model, directory)


def pairs_of(concepts: np.ndarray, seed: int, name: str) -> list[Pair]:
    """Pairs of documents, by number, that share a concept: every document is d1 once and d2 once,
    of the next of its concept in a random circle."""
    pairs: list[Pair] = []
    order = rng(seed, name, "partners").permutation(len(concepts))
    for concept in np.unique(concepts):
        circle = order[concepts[order] == concept]
        pairs += zip(circle.tolist(), np.roll(circle, 1).tolist(), strict=True)
    return [(first, second) for first, second in pairs if first != second]
