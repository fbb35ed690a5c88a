"""The scores of single documents: of a text alone, and of a text beside its seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from synboot.data.ngrams import words_of
from synboot.data.repeats import bare
from synboot.eval.quality.diversity import without_spaces
from synboot.eval.quality.duplicates import seed_similarities
from synboot.eval.quality.figures import Integers
from synboot.eval.quality.fragments import coverage_and_density
from synboot.eval.quality.novelty import RUNS, new_to_seed
from synboot.eval.quality.repetition import repeated_shares

Columns = dict[str, npt.NDArray[Any]]
"""A value for each document, by name."""


def text_scores(texts: Sequence[str]) -> Columns:
    """Of each text: `words`, `bytes` (int64), `repetition` (share of 4-word windows that stood in
    it before) and `without_spaces`."""
    words = words_of(texts)
    return {
        "words": words.sizes,
        "bytes": np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts], np.int64),
        "repetition": repeated_shares(words),
        "without_spaces": np.array([without_spaces(text) for text in texts], dtype=bool),
    }


def seed_scores(
    texts: Sequence[str], seeds: Sequence[str], seed_of: Integers, *, window_words: int
) -> Columns:
    """Of each text beside its seed, `seeds[seed_of[i]]`: `copy` (equal up to case, white space and
    punctuation), `seed_similarity` (Jaccard, windows of `window_words`), `coverage`, `density`,
    and for n of RUNS the runs of n words that are not in the seed (`new_n`) and all (`runs_n`)."""
    own = [seeds[number] for number in seed_of.tolist()]
    words, of_seeds = words_of(texts), words_of(seeds)
    coverage, density = coverage_and_density(words, of_seeds, seed_of)
    columns: Columns = {
        "copy": np.array([_is_copy(*pair) for pair in zip(texts, own, strict=True)], dtype=bool),
        "seed_similarity": seed_similarities(texts, own, window_words),
        "coverage": coverage,
        "density": density,
    }
    beside = words_of(own)
    for n in RUNS:
        columns[f"new_{n}"], columns[f"runs_{n}"] = new_to_seed(words, beside, n)
    return columns


def _is_copy(text: str, seed: str) -> bool:
    letters = bare(text)
    return bool(letters) and letters == bare(seed)
