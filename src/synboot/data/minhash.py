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

_COMPARED = 32
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
    similarity of at least `min_similarity`. Never more than there are. A text is missed with at
    most the odds at `BANDS` where at most 33 texts of different windows agree in any band; in
    the crowds that a long boilerplate makes it may be missed more often. Texts without words are no
    duplicates."""
    windows = windows_of(texts, n)
    leader = _first_of_equals(windows)
    copies = leader != np.arange(len(windows))
    among = ~copies & (windows.sizes > 0)
    near = near_duplicates(windows, min_similarity=min_similarity, seed=seed, among=among)
    duplicates = copies.copy()
    for found in (leader[copies], *near):
        duplicates[found] = True
    return DuplicateRate(len(texts), int(duplicates.sum()))


def near_duplicates(
    windows: Windows,
    *,
    min_similarity: float,
    seed: int,
    among: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs first < second of texts at a Jaccard similarity of at least `min_similarity`. Some are
    missed, as `BANDS` and `candidate_pairs` say. `among`: bool [texts], those with words that are
    looked at; by default all."""
    some = windows.sizes > 0 if among is None else among
    first, second = candidate_pairs(signatures(windows, seed=seed), some)
    shared = shared_counts(windows, first, second)
    sizes = windows.sizes
    near = shared / (sizes[first] + sizes[second] - shared) >= min_similarity
    return first[near], second[near]


def _first_of_equals(windows: Windows) -> npt.NDArray[np.int64]:
    """For each text the first one with the same windows, by their sum: two of k texts with others
    are taken for equal with odds of k^2 / 2^65. A text without windows has no equal."""
    first = np.arange(len(windows))
    some = np.flatnonzero(windows.sizes > 0)
    if some.size:
        sums = np.add.reduceat(windows.hashes, windows.offsets[some])
        _, examples, which = np.unique(sums, return_index=True, return_inverse=True)
        first[some] = some[examples[which]]
    return first


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

    Where more than _COMPARED others agree in a band, each is paired with so many before it: a crowd
    of ten thousand makes 320 thousand pairs a band, not fifty million.
    """
    texts = np.flatnonzero(some)
    keys = [np.empty(0, np.int64)]
    for band in range(BANDS):
        rows = signature[texts, band * ROWS : (band + 1) * ROWS]
        order = np.lexsort(rows.T)  # stable: texts that agree ascend
        in_order, rows = texts[order], rows[order]
        head = np.ones(len(order), dtype=bool)
        head[1:] = (rows[1:] != rows[:-1]).any(axis=1)
        later = np.arange(len(order))
        place = later - np.flatnonzero(head)[np.cumsum(head) - 1]  # among those that agree
        for before in range(1, _COMPARED + 1):
            later = later[place[later] >= before]
            keys.append(in_order[later - before] * len(signature) + in_order[later])
    first, second = np.divmod(np.unique(np.concatenate(keys)), max(1, len(signature)))
    return first, second
