"""Novelty: which runs of words of a text do not stand in its seed, or nowhere in a corpus.

A run that comes twice counts twice; a text of fewer than n words has no run of n.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from synboot.data.ngrams import Hashes, Words, distinct_hashes
from synboot.eval.quality.figures import Integers

RUNS = (1, 2, 3, 4, 5, 8, 13)
"""The lengths, in words, that are looked at."""
_NONE = -1
_BLOCK_TEXTS = 1 << 13
_MERGED_RUNS = 1 << 22
"""New runs, at least, that are merged with the known ones at a time."""
_TEXT_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def new_to_seed(texts: Words, seeds: Words, n: int) -> tuple[Integers, Integers]:
    """How many runs of `n` words of text i do not stand in seed i, and how many it has; int64
    [texts] each. `seeds` has one for each text."""
    hashes, text_of = texts.runs(n)
    known = np.sort(_of_text(*seeds.runs(n)))
    new = ~_is_in(_of_text(hashes, text_of), known)
    return _by_text(text_of[new], len(texts)), _by_text(text_of, len(texts))


def _of_text(hashes: Hashes, text_of: Integers) -> Hashes:
    """Hashes that stand for a run and its text: mixed anew, so that equal runs of two texts, and
    what differs by as much as their numbers do, are as far apart as any."""
    sums = hashes + (text_of.astype(np.uint64) + np.uint64(1)) * _TEXT_FACTOR
    sums = (sums ^ (sums >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    mixed: Hashes = sums ^ (sums >> np.uint64(32))
    return mixed


def new_to_corpus(
    texts: Words, itself: Integers, corpus: Iterable[tuple[int, Words]], n: int
) -> tuple[Integers, Integers]:
    """How many runs of `n` words of each text no document of `corpus` has, and how many it has;
    int64 [texts] each.

    `corpus`: blocks of documents, each with the number of its first one, ascending. `itself`: int64
    [texts], which document of the corpus the text is, -1 for none: a real document is compared with
    the others. Holds 17 bytes for each distinct run of the texts, and some blocks.
    """
    known = _distinct(block.runs(n)[0] for _, block in _blocks(texts))
    first = np.full(known.size, _NONE, np.int32)  # of the documents that have a run
    last = first.copy()
    for number, block in corpus:
        hashes, document = block.runs(n)
        places, there = _places(hashes, known)
        places, numbers = places[there], (number + document[there]).astype(np.int32)
        last[places] = numbers  # ascending: the last one of several stays
        unseen = first[places] == _NONE
        first[places[unseen][::-1]] = numbers[unseen][::-1]
    new, total = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
    for start, block in _blocks(texts):
        hashes, text_of = block.runs(n)
        places, _ = _places(hashes, known)
        own = itself[start : start + len(block)][text_of]
        alone = (first[places] == own) & (last[places] == own)  # -1: no document has it
        rows = slice(start, start + len(block))
        new[rows], total[rows] = _by_text(text_of[alone], len(block)), _by_text(text_of, len(block))
    return new, total


def _blocks(texts: Words) -> Iterator[tuple[int, Words]]:
    """Some thousand texts at a time, with the number of the first."""
    for start in range(0, len(texts), _BLOCK_TEXTS):
        offsets = texts.offsets[start : start + _BLOCK_TEXTS + 1]
        yield start, Words(texts.hashes[offsets[0] : offsets[-1]], offsets - offsets[0])


def _distinct(blocks: Iterable[Hashes]) -> Hashes:
    """All hashes, sorted and unique."""
    parts: list[Hashes] = [np.empty(0, np.uint64)]
    num_new = 0
    for block in blocks:
        parts.append(distinct_hashes(block))
        num_new += parts[-1].size
        # Doubling keeps the work of merging in proportion to the number of runs.
        if num_new > max(_MERGED_RUNS, parts[0].size):
            parts, num_new = [_merged(parts)], 0
    return _merged(parts)


def _merged(parts: list[Hashes]) -> Hashes:
    """The hashes of all parts, sorted and unique; `parts` is emptied, to hold none twice."""
    whole = np.concatenate(parts)
    parts.clear()
    whole.sort()
    new = np.ones(whole.size, dtype=bool)
    np.not_equal(whole[1:], whole[:-1], out=new[1:])
    return whole[new]


def _places(hashes: Hashes, known: Hashes) -> tuple[Integers, np.ndarray]:
    """Where each hash stands in `known` (sorted, not empty), and whether it does: looked up in
    their order, which stays in the caches."""
    if not known.size:
        return np.zeros(hashes.size, np.int64), np.zeros(hashes.size, dtype=bool)
    order = np.argsort(hashes)
    places = np.empty(hashes.size, np.int64)
    places[order] = np.minimum(np.searchsorted(known, hashes[order]), known.size - 1)
    return places, known[places] == hashes


def _is_in(hashes: Hashes, known: Hashes) -> np.ndarray:
    return _places(hashes, known)[1]


def _by_text(text_of: Integers, num_texts: int) -> Integers:
    return np.bincount(text_of, minlength=num_texts).astype(np.int64)
