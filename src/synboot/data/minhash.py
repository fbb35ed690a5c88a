"""MinHash: which of many texts are near duplicates, without comparing all pairs.

A text's signature has, for each of some random orders of all windows, the first of its own. Two
texts agree in one order with the probability of their Jaccard similarity (Broder, 1997). Bands of a
few orders each make candidates of texts that agree in a whole band; candidates are then compared by
their windows, so that no pair is reported that is not one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from synboot.core.rng import rng
from synboot.data.ngrams import WINDOW_WORDS, Hashes, Windows, windows_of
from synboot.data.overlaps import shared_counts

_COMPARED = 8
BANDS, ROWS = 32, 4
"""A pair of Jaccard similarity s is missed with the odds (1 - s^4)^32: 5e-8 at 0.8, 1e-3 at 0.66,
0.13 at 0.5."""

Signatures = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class DuplicateRate:
    """Of how many texts another one is a near duplicate, among the first `documents`."""

    documents: int
    duplicates: int

    @property
    def rate(self) -> float:
        """Share of the documents; 0.0 of none."""
        return self.duplicates / self.documents if self.documents else 0.0


def duplicate_rate(
    texts: Sequence[str],
    *,
    min_similarity: float = 0.8,
    n: int = WINDOW_WORDS,
    seed: int = 0,
) -> DuplicateRate:
    """duplicate@N of N texts: those that share windows of `n` words with another one at a Jaccard
    similarity of at least `min_similarity`. Never more than there are; a text is missed with at
    most the odds at `BANDS`. Texts without words are no duplicates."""
    windows = windows_of(texts, n)
    first, second = near_duplicates(windows, min_similarity=min_similarity, seed=seed)
    return DuplicateRate(len(texts), len(np.unique(np.concatenate([first, second]))))


def near_duplicates(
    windows: Windows, *, min_similarity: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs first < second of texts at a Jaccard similarity of at least `min_similarity`."""
    first, second = candidate_pairs(signatures(windows, seed=seed), windows.sizes > 0)
    shared = shared_counts(windows, first, second)
    sizes = windows.sizes
    union = sizes[first] + sizes[second] - shared
    near = shared >= min_similarity * union
    return first[near], second[near]


def signatures(windows: Windows, *, seed: int) -> Signatures:
    """uint64 [texts, BANDS x ROWS]: the least of each text's windows, after multiplication with a
    random odd number and the addition of another. Of a text without windows: the largest number."""
    random = rng(seed, "minhash")
    factors = random.integers(0, 2**63, BANDS * ROWS, np.uint64) * np.uint64(2) + np.uint64(1)
    terms = random.integers(0, 2**64, BANDS * ROWS, np.uint64)
    result = np.full((len(windows), BANDS * ROWS), np.iinfo(np.uint64).max, np.uint64)
    some = windows.sizes > 0
    if some.any():
        starts = windows.offsets[:-1][some]
        for order, (factor, term) in enumerate(zip(factors, terms, strict=True)):
            mixed: Hashes = windows.hashes * factor + term
            result[some, order] = np.minimum.reduceat(mixed ^ (mixed >> np.uint64(32)), starts)
    return result


def candidate_pairs(
    signature: Signatures, some: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs first < second, once each, of texts with `some` windows that agree in a whole band.

    Where more than _COMPARED others agree in a band, each text is paired with the first and with so
    many before it: a crowd of a thousand copies makes thousands of pairs, not half a million.
    """
    texts = np.flatnonzero(some)
    pairs = [np.empty((0, 2), np.int64)]
    for band in range(BANDS):
        rows = signature[texts, band * ROWS : (band + 1) * ROWS]
        order = np.lexsort((texts, *rows.T))
        in_order, rows = texts[order], rows[order]
        head = np.ones(len(order), dtype=bool)
        head[1:] = (rows[1:] != rows[:-1]).any(axis=1)
        first = np.flatnonzero(head)[np.cumsum(head) - 1]  # of those that agree
        later = np.arange(len(order))
        for before in range(1, _COMPARED + 1):
            other = np.maximum(later - before, first)
            pairs.append(np.stack([in_order[other], in_order], axis=1)[other < later])
        pairs.append(np.stack([in_order[first], in_order], axis=1)[first < later])
    first, second = np.unique(np.concatenate(pairs), axis=0).T
    return first, second
