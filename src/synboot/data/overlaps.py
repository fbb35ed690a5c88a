"""How many windows pairs of texts share: all pairs at once.

A window that only one text has is shared by no pair. Natural text is almost all such windows, so
what is left to compare after they are dropped is little.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from synboot.data.ngrams import WINDOW_WORDS, Hashes, Windows, windows_of

Integers = npt.NDArray[np.int64]

_AT_ONCE = 1 << 29
"""Characters of texts whose windows are compared at once: of natural text some hundred million
windows, and two to three gigabytes while they are."""
_SIEVE_BITS_PER_WINDOW = 16
_BATCH_WINDOWS = 1 << 20
_SIEVED_WINDOWS = 1 << 24  # of more, what it takes to find those that are alone is too much memory
_PLACES_PER_WINDOW = 4


def overlaps(
    texts: Sequence[str], first: Integers, second: Integers, n: int = WINDOW_WORDS
) -> npt.NDArray[np.float64]:
    """`ngrams.overlap` of the texts `first[i]` and `second[i]`, float64 [pairs].

    Each text that is in a pair is hashed once, as long as all of them have at most _AT_ONCE
    characters. Of more, half as many are compared with half as many at a time, so that memory
    stays bounded: a text is hashed once for each half that has a partner of it.
    """
    named, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
    ends = np.cumsum([len(texts[i]) for i in named.tolist()])
    if not len(named) or ends[-1] <= _AT_ONCE:
        return _overlaps_at_once(texts, first, second, n)
    half = np.maximum(ends - 1, 0) // (_AT_ONCE // 2)
    one, other = half[numbers[: len(first)]], half[numbers[len(first) :]]
    blocks = np.minimum(one, other) * (half[-1] + 1) + np.maximum(one, other)
    order = np.argsort(blocks, kind="stable")
    starts = np.flatnonzero(np.diff(blocks[order], prepend=-1))
    shares = np.empty(len(first))
    for pairs in np.split(order, starts[1:]):
        shares[pairs] = _overlaps_at_once(texts, first[pairs], second[pairs], n)
    return shares


def _overlaps_at_once(
    texts: Sequence[str], first: Integers, second: Integers, n: int
) -> npt.NDArray[np.float64]:
    named, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
    windows = windows_of([texts[i] for i in named.tolist()], n)
    one, other = numbers[: len(first)], numbers[len(first) :]
    sizes = windows.sizes
    fewer = np.minimum(sizes[one], sizes[other])
    return np.where(fewer > 0, shared_counts(windows, one, other) / np.maximum(fewer, 1), 0.0)


def shared_counts(windows: Windows, first: Integers, second: Integers) -> Integers:
    """How many windows the texts `first[i]` and `second[i]` of `windows` have in common, int64
    [pairs]."""
    common = _in_several(windows.hashes)
    numbers, offsets = _numbered(windows, common)
    sizes = np.diff(offsets)
    swap = sizes[first] > sizes[second]
    fewer, more = np.where(swap, second, first), np.where(swap, first, second)
    # One sorted array of (text, window); looking up in the order of texts stays in the caches.
    keys = np.repeat(np.arange(len(windows)), sizes) * len(common) + numbers
    order = np.argsort(more, kind="stable")
    order = order[sizes[fewer[order]] > 0]
    counts = np.zeros(len(first), np.int64)
    ends = np.cumsum(sizes[fewer[order]])
    start = 0
    while start < len(order):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _BATCH_WINDOWS, side="right")))
        pairs = order[start:stop]
        asked = sizes[fewer[pairs]]
        pair_of = np.repeat(np.arange(len(pairs)), asked)
        within = np.arange(len(pair_of)) - np.repeat(np.cumsum(asked) - asked, asked)
        window = numbers[offsets[fewer[pairs]][pair_of] + within]
        wanted = more[pairs][pair_of] * len(common) + window
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = keys[places] == wanted
        counts[pairs] = np.bincount(pair_of[found], minlength=len(pairs))
        start = stop
    itself = first == second
    counts[itself] = windows.sizes[first[itself]]
    return counts


def _in_several(hashes: Hashes) -> Hashes:
    """The hashes that come more than once, ascending: a text has each of its windows once."""
    in_order = np.sort(_not_alone(hashes))
    again = in_order[1:][in_order[1:] == in_order[:-1]]
    new = np.ones(len(again), dtype=bool)
    new[1:] = again[1:] != again[:-1]
    distinct: Hashes = again[new]
    return distinct


def _not_alone(hashes: Hashes) -> Hashes:
    """Those that share their first bits with another, in their order: of natural text a quarter.
    To find and to sort them takes two thirds of the time that sorting all would."""
    if not 0 < len(hashes) <= _SIEVED_WINDOWS:
        return hashes
    bits = (len(hashes) * _PLACES_PER_WINDOW).bit_length() - 1
    places = (hashes >> np.uint64(64 - bits)).view(np.int64)
    own = np.arange(len(hashes), dtype=np.int32)
    last = np.empty(1 << bits, np.int32)
    last[places] = own
    several = np.zeros(1 << bits, dtype=bool)
    several[places[last.take(places) != own]] = True
    return hashes[several.take(places)]


def _numbered(windows: Windows, common: Hashes) -> tuple[Integers, Integers]:
    """The windows that are in `common`, by their place there, ascending in each text; and where
    each text's begin, int64 [texts + 1]."""
    bits = max(8, (len(common) * _SIEVE_BITS_PER_WINDOW).bit_length())
    shift = np.uint64(64 - bits)
    sieve = np.zeros(1 << bits, dtype=bool)
    sieve[common >> shift] = True
    likely = np.flatnonzero(sieve[windows.hashes >> shift])  # all of them, and few others
    places = np.searchsorted(common, windows.hashes[likely])
    if len(common):
        right = common[np.minimum(places, len(common) - 1)] == windows.hashes[likely]
        likely, places = likely[right], places[right]
    return places, np.searchsorted(likely, windows.offsets).astype(np.int64)
