"""Near duplicates: of a seed, of any document of a corpus, among draws.

Two texts are near duplicates if their windows of some words have a Jaccard similarity of a
threshold at least. Seeds are compared exactly; corpus and draws by MinHash, whose candidates are
then compared exactly, so that it misses some (`data.minhash.BANDS` has the odds) and invents none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from synboot.data.minhash import BANDS, ROWS, signatures
from synboot.data.ngrams import Hashes, Windows, windows_of
from synboot.data.overlaps import shared_counts
from synboot.eval.quality.figures import Flags, Floats, Integers

_COMPARED = 32
"""Documents of a block that a text is compared with in a band, at most."""
_SIGNED = 1 << 13


def seed_similarities(texts: Sequence[str], seeds: Sequence[str], n: int) -> Floats:
    """Jaccard similarity of the windows of `n` words of text i and seed i; 0.0 if either has no
    words. float64 [texts]."""
    windows = windows_of([*texts, *seeds], n)
    one = np.arange(len(texts))
    return _similarities(windows, one, one + len(texts))


def _similarities(windows: Windows, first: Integers, second: Integers) -> Floats:
    shared = shared_counts(windows, first, second)
    sizes = windows.sizes
    union = sizes[first] + sizes[second] - shared
    return np.asarray(shared / np.maximum(union, 1), dtype=np.float64)


def near_in_corpus(
    windows: Windows,
    itself: Integers,
    corpus: Iterable[tuple[int, Windows]],
    *,
    min_similarity: float,
    seed: int,
) -> Flags:
    """Which texts are near duplicates of some document of `corpus`, bool [texts].

    `corpus`: blocks of documents, each with the number of its first one. `itself`: int64 [texts],
    which document of the corpus the text is, -1 for none; it is no duplicate of itself. Documents
    of equal windows count as one in a block, so that copies of one do not hide another; where more
    than 32 different ones agree with a text in a band, a duplicate may be missed more often.
    """
    near = np.zeros(len(windows), dtype=bool)
    own = _band_keys(windows, seed)
    for number, block in corpus:
        left = np.flatnonzero(~near & (windows.sizes > 0))
        if not left.size:
            break
        leaders, copies = _distinct(block)
        keys = _band_keys(_subset(block, leaders), seed)
        text, leader = _candidates(own[left], keys)
        text, document = left[text], leaders[leader]
        same = number + document == itself[text]
        near[text[same & (copies[leader] > 1)]] = True
        text, document = text[~same], document[~same]
        texts, text_place = np.unique(text, return_inverse=True)
        documents, document_place = np.unique(document, return_inverse=True)
        both = _joined(_subset(windows, texts), _subset(block, documents))
        found = _similarities(both, text_place, len(texts) + document_place) >= min_similarity
        near[text[found]] = True
    return near


def _candidates(own: Hashes, keys: Hashes) -> tuple[Integers, Integers]:
    """Pairs (row of `own`, row of `keys`), once each, that agree in a band."""
    pairs = [np.empty(0, np.int64)]
    for band in range(BANDS):
        order = np.argsort(keys[:, band], kind="stable")
        in_order = keys[order, band]
        low = np.searchsorted(in_order, own[:, band], side="left")
        high = np.searchsorted(in_order, own[:, band], side="right")
        for place in range(_COMPARED):
            row = np.flatnonzero(low + place < high)
            if not row.size:
                break
            pairs.append(row * len(keys) + order[low[row] + place])
    row, other = np.divmod(np.unique(np.concatenate(pairs)), max(1, len(keys)))
    return row, other


def _band_keys(windows: Windows, seed: int) -> Hashes:
    """uint64 [texts, BANDS]: equal for texts that agree in a band, and for others with odds of
    2^-64; some thousand texts at a time, since their signatures are four times as large."""
    keys = np.empty((len(windows), BANDS), np.uint64)
    factors = np.array([pow(0x9E3779B97F4A7C15, k + 1, 1 << 64) for k in range(ROWS)], np.uint64)
    for start in range(0, len(windows), _SIGNED):
        rows = np.arange(start, min(start + _SIGNED, len(windows)))
        signed = signatures(_subset(windows, rows), seed=seed).reshape(len(rows), BANDS, ROWS)
        keys[rows] = (signed * factors).sum(axis=2, dtype=np.uint64)
    return keys


def _distinct(windows: Windows) -> tuple[Integers, Integers]:
    """The first text of each set of windows, and how many texts have this set; texts without words
    are left out. Sets are told apart by their sums, with odds of 2^-64 for two to be taken for
    one."""
    some = np.flatnonzero(windows.sizes > 0)
    if not some.size:
        return some, some
    sums = np.add.reduceat(windows.hashes, windows.offsets[some])
    _, first, counts = np.unique(sums, return_index=True, return_counts=True)
    return some[first], counts


def _subset(windows: Windows, rows: Integers) -> Windows:
    """The texts `rows`, in this order."""
    sizes = windows.sizes[rows]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    places = np.arange(offsets[-1]) + np.repeat(windows.offsets[rows] - offsets[:-1], sizes)
    return Windows(windows.hashes[places], offsets)


def _joined(one: Windows, other: Windows) -> Windows:
    offsets = np.concatenate([one.offsets, other.offsets[1:] + one.offsets[-1]])
    return Windows(np.concatenate([one.hashes, other.hashes]), offsets)
