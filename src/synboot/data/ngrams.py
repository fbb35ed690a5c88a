"""Windows of 13 words: what two texts literally share.

Serves decontamination (law 13), near-duplicate pairs and copy detection. `reference_windows` says
what a window is; `window_hashes` is the same set as 64-bit hashes.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
import numpy.typing as npt

WINDOW_WORDS = 13

Hashes = npt.NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_WORD_CACHE_ENTRIES = 1 << 17  # some 20 MB; natural text hits it for more than nine words in ten

# 3 (mod 8) keeps the power of two that divides _BASE**k - 1 small (at most 2**5 for k <= 12), so
# that two windows which differ by a swap of words collide with odds of at most 2**-59.
_BASE = 0x9E3779B97F4A7C1B
_LENGTH_FACTOR = 0xD1B54A32D192ED03
_MASK = (1 << 64) - 1


def words(text: str) -> list[str]:
    r"""The case-folded runs of `\w+` (Unicode) in `text`, in order."""
    return [word.casefold() for word in _WORD.findall(text)]


def reference_windows(text: str, n: int = WINDOW_WORDS) -> set[tuple[str, ...]]:
    """Every run of `n` words in `text`: slow and obvious.

    A text of one to n - 1 words has one window, all of its words; one without words has none.
    Raises ValueError for n < 1.
    """
    _check_size(n)
    found = words(text)
    if not found:
        return set()
    return {tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))}


def window_hashes(text: str, n: int = WINDOW_WORDS) -> Hashes:
    """The windows of `reference_windows` as sorted unique 64-bit hashes.

    uint64 [number of distinct windows], the same in every process and on every machine whose
    Python knows the same Unicode letters. A window w_1..w_m hashes to the splitmix64 finaliser of
    c(m) B^m + w_1 B^(m-1) + ... + w_m (mod 2^64) over BLAKE2b hashes w of the words. Chance that
    any two of k distinct windows collide: about k^2 / 2^65 (3e-8 for a million); that a window is
    found among k others by accident: about k / 2^64. Raises ValueError for n < 1.
    """
    _check_size(n)
    hashed = np.fromiter(map(_word_hashes.__getitem__, _WORD.findall(text)), np.uint64)
    if not hashed.size:
        return hashed
    length = min(n, hashed.size)
    number = hashed.size - length + 1
    sums = np.full(number, length * _LENGTH_FACTOR & _MASK, np.uint64)
    for offset in range(length):
        sums *= np.uint64(_BASE)
        sums += hashed[offset : offset + number]
    hashes = np.sort(_finalise(sums))
    distinct: Hashes = hashes[np.append(True, hashes[1:] != hashes[:-1])]  # np.unique: 4 x slower
    return distinct


def overlap(a: Hashes, b: Hashes) -> float:
    """|a and b| / min(|a|, |b|) of two sorted unique arrays; 0.0 if either is empty."""
    fewer, more = (a, b) if a.size <= b.size else (b, a)
    return share_found(fewer, more)


def share_found(windows: Hashes, known: Hashes) -> float:
    """The share of `windows` that the sorted unique array `known` has; 0.0 if either is empty."""
    return count_found(windows, known) / windows.size if windows.size else 0.0


def count_found(windows: Hashes, known: Hashes) -> int:
    """How many of `windows` the sorted unique array `known` has."""
    if not known.size:
        return 0
    places = np.minimum(np.searchsorted(known, windows), known.size - 1)
    return int(np.count_nonzero(known[places] == windows))


class _WordHashes(dict[str, int]):
    """The hash of every word that was asked for, computed once; begun anew when it is full."""

    def __missing__(self, word: str) -> int:
        folded = word.casefold().encode("utf-8", "surrogatepass")
        if len(self) >= _WORD_CACHE_ENTRIES:
            self.clear()
        self[word] = int.from_bytes(hashlib.blake2b(folded, digest_size=8).digest(), "little")
        return self[word]


_word_hashes = _WordHashes()


def _finalise(sums: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): a bijection, well mixed."""
    sums = (sums ^ (sums >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    sums = (sums ^ (sums >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return sums ^ (sums >> np.uint64(31))


def _check_size(n: int) -> None:
    if n < 1:
        raise ValueError(f"a window has at least one word, got n = {n}")
