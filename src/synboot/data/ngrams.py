"""Windows of 13 words: what two texts literally share.

Serves decontamination (law 13), near-duplicate pairs and copy detection. `reference_windows` says
what a window is; `window_hashes` is the same set as 64-bit hashes, and `windows_of`,
`with_windows` and `all_windows` have those of many texts, at a fraction of the cost for each.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

WINDOW_WORDS = 13

Hashes = npt.NDArray[np.uint64]
Item = TypeVar("Item")

_WORD = re.compile(r"\w+")
_WORD_CACHE_ENTRIES = 1 << 17  # some 20 MB; natural text hits it for more than nine words in ten

# 3 (mod 8) keeps the power of two that divides _BASE**k - 1 small (at most 2**5 for k <= 12), so
# that two windows which differ by a swap of words collide with odds of at most 2**-59.
_BASE = 0x9E3779B97F4A7C1B
_LENGTH_FACTOR = 0xD1B54A32D192ED03
_MASK = (1 << 64) - 1

_BATCH_CHARACTERS = 1 << 17
_LONG_TEXT = 1 << 22  # from here on the numbers that a character takes would be many
_MERGE_WINDOWS = 1 << 20
_LONG_WORD = 256
_KNOWN_WORDS_BITS = 20  # 16 MB; rare words share places, and drive each other out
_SPELLING_BASE = 0xC2B2AE3D27D4EB4F
_BETWEEN = "\n"  # no word character


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
    hashes = np.sort(_finalise(_rolled(hashed, length)))
    distinct: Hashes = hashes[np.append(True, hashes[1:] != hashes[:-1])]  # np.unique: 4 x slower
    return distinct


@dataclass(frozen=True)
class HashedTexts:
    """Hashes of many texts: text i has `hashes[offsets[i] : offsets[i + 1]]`. `offsets`: int64
    [texts + 1]."""

    hashes: Hashes
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, index: int) -> Hashes:
        """Those of one text."""
        return self.hashes[self.offsets[index] : self.offsets[index + 1]]

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """How many each text has, int64 [texts]."""
        return np.diff(self.offsets)


class Windows(HashedTexts):
    """The windows of texts: of each what `window_hashes` gives for it."""


def windows_of(texts: Sequence[str], n: int = WINDOW_WORDS) -> Windows:
    """`window_hashes` of every text, some hundred thousand characters at a time.

    A word that was seen before is known by a second 64-bit hash, of its characters: the chance that
    any two of k distinct words are taken for each other is about k^2 / 2^65, as for windows.
    """
    _check_size(n)
    blocks: list[Hashes] = []
    sizes: list[npt.NDArray[np.int64]] = []
    for batch in _batches(texts, str):
        hashes, counts = _windows_of_batch(batch, n)
        blocks.append(hashes)
        sizes.append(counts)
    offsets = np.zeros(len(texts) + 1, np.int64)
    if not blocks:
        return Windows(np.empty(0, np.uint64), offsets)
    np.cumsum(np.concatenate(sizes), out=offsets[1:])
    return Windows(np.concatenate(blocks), offsets)


class Words(HashedTexts):
    """The words of texts, in their order."""

    def runs(self, n: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
        """Every run of `n` words within a text, in order and as often as it comes: its hash, that
        of the window of these words, and the number of its text. Shorter texts have none."""
        _check_size(n)
        counts = np.maximum(self.sizes - n + 1, 0)
        text_of = np.repeat(np.arange(len(self)), counts)
        if not text_of.size:
            return np.empty(0, np.uint64), text_of
        places = np.arange(len(text_of)) - np.repeat(np.cumsum(counts) - counts, counts)
        return _finalise(_rolled(self.hashes, n))[self.offsets[text_of] + places], text_of


def words_of(texts: Sequence[str]) -> Words:
    """The hashed words of every text, in their order."""
    blocks = [np.empty(0, np.uint64)]
    sizes = [np.zeros(1, np.int64)]
    for batch in _batches(texts, str):
        if len(batch) == 1 and len(batch[0]) > _LONG_TEXT:
            found = map(_word_hashes.__getitem__, _WORD.findall(batch[0]))
            blocks.append(np.fromiter(found, np.uint64))
            sizes.append(np.array([blocks[-1].size]))
            continue
        hashed, starts = _hash_words(_BETWEEN.join(batch))
        ends = np.cumsum([len(text) + 1 for text in batch])
        blocks.append(hashed)
        sizes.append(np.diff(np.searchsorted(starts, ends), prepend=0))
    return Words(np.concatenate(blocks), np.cumsum(np.concatenate(sizes)))


def with_windows(
    items: Iterable[Item], text_of: Callable[[Item], str], n: int = WINDOW_WORDS
) -> Iterator[tuple[Item, Hashes]]:
    """Each of `items` with the windows of its text; some hundred thousand characters read ahead."""
    _check_size(n)
    for batch in _batches(items, text_of):
        windows = windows_of([text_of(item) for item in batch], n)
        for i, item in enumerate(batch):
            yield item, windows.of(i)


def all_windows(texts: Iterable[str], n: int = WINDOW_WORDS) -> Hashes:
    """The windows that any of `texts` has, sorted and unique. Holds 8 bytes for each, 32 while they
    are merged."""
    _check_size(n)
    known = np.empty(0, np.uint64)
    new: list[Hashes] = []
    num_new = 0
    for batch in _batches(texts, str):
        new.append(_windows_of_batch(batch, n)[0])
        num_new += new[-1].size
        # Doubling keeps the work of merging in proportion to the number of windows.
        if num_new > max(_MERGE_WINDOWS, known.size):
            known = _merge([known, *new])
            new, num_new = [], 0
    return _merge([known, *new])


def _merge(parts: list[Hashes]) -> Hashes:
    windows = np.concatenate(parts)
    windows.sort()
    return _without_repeats(windows)


def distinct_hashes(hashes: Hashes) -> Hashes:
    """Sorted and unique, as np.unique does it with a table of several times their size, in more
    than ten times the time."""
    return _without_repeats(np.sort(hashes))


def _without_repeats(in_order: Hashes) -> Hashes:
    distinct: Hashes = in_order[np.append(True, in_order[1:] != in_order[:-1])[: in_order.size]]
    return distinct


def _batches(items: Iterable[Item], text_of: Callable[[Item], str]) -> Iterator[list[Item]]:
    """As many at a time as have some hundred thousand characters, or one that has more."""
    batch: list[Item] = []
    characters = 0
    for item in items:
        size = len(text_of(item)) + 1
        if batch and characters + size > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
        batch.append(item)
        characters += size
    if batch:
        yield batch


def _windows_of_batch(texts: Sequence[str], n: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hashes, and how many of them each text has."""
    if len(texts) == 1 and len(texts[0]) > _LONG_TEXT:
        hashes = window_hashes(texts[0], n)
        return hashes, np.array([hashes.size])
    joined = _BETWEEN.join(texts)
    hashed, starts = _hash_words(joined)
    ends = np.cumsum([len(text) + 1 for text in texts])
    last = np.searchsorted(starts, ends)  # words before the end of each text
    lengths = np.diff(last, prepend=0)
    first = last - lengths
    sums = np.empty(0, np.uint64)
    if len(hashed) >= n:
        sums = _rolled(hashed, n)
    counts = np.where(lengths >= n, lengths - n + 1, np.minimum(lengths, 1))
    places = np.cumsum(counts) - counts
    hashes = np.empty(int(counts.sum()), np.uint64)
    full = np.repeat(lengths >= n, counts)
    within = np.arange(len(hashes)) - np.repeat(places, counts)
    hashes[full] = sums[(np.repeat(first, counts) + within)[full]]
    for length in np.unique(lengths[(lengths > 0) & (lengths < n)]).tolist():
        short = np.flatnonzero(lengths == length)
        rows = hashed[first[short][:, None] + np.arange(length)]
        hashes[places[short]] = [_rolled(row, length)[0] for row in rows]
    hashes = _finalise(hashes)
    for place, count in zip(places.tolist(), counts.tolist(), strict=True):
        hashes[place : place + count].sort()
    distinct = np.ones(len(hashes), dtype=bool)
    distinct[1:] = hashes[1:] != hashes[:-1]
    distinct[places[counts > 0]] = True
    text_of = np.repeat(np.arange(len(texts)), counts)
    return hashes[distinct], np.bincount(text_of[distinct], minlength=len(texts))


def _rolled(hashed: Hashes, length: int) -> Hashes:
    """c(length) B^length + w_1 B^(length-1) + ... + w_length of every run of `length` words: runs
    of twice the length from two, a word more from the last one."""
    sums, done = hashed, 1
    for bit in f"{length:b}"[1:]:
        power = np.uint64(pow(_BASE, done, 1 << 64))
        sums = sums[: len(sums) - done] * power + sums[done:]
        done *= 2
        if bit == "1":
            sums = sums[: len(sums) - 1] * np.uint64(_BASE) + hashed[done:]
            done += 1
    constant = length * _LENGTH_FACTOR * pow(_BASE, length, 1 << 64) & _MASK
    return sums + np.uint64(constant)


def _hash_words(text: str) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """BLAKE2b hashes of the words of `text` and where they start. Each word that is not known by
    its spelling is looked up once."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    inside = np.zeros(len(codes) + 2, dtype=bool)
    inside[1:-1] = _word_characters()[codes]
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    if not starts.size:
        return np.empty(0, np.uint64), starts
    spellings = _spellings(codes, starts, ends)
    slots = spellings >> np.uint64(64 - _KNOWN_WORDS_BITS)
    known_spellings, known_hashes = _known_words()
    hashed = known_hashes[slots]
    unknown = np.flatnonzero((known_spellings[slots] != spellings) | (ends - starts > _LONG_WORD))
    short = unknown[ends[unknown] - starts[unknown] <= _LONG_WORD]
    distinct, examples, which = np.unique(spellings[short], return_index=True, return_inverse=True)
    examples = short[examples]
    bounds = zip(starts[examples].tolist(), ends[examples].tolist(), strict=True)
    values = np.fromiter((_word_hashes[text[a:b]] for a, b in bounds), np.uint64)
    hashed[short] = values[which] if values.size else values
    known_spellings[slots[examples]] = distinct
    known_hashes[slots[examples]] = values
    for word in unknown[ends[unknown] - starts[unknown] > _LONG_WORD].tolist():
        hashed[word] = _word_hash(text[starts[word] : ends[word]])
    return hashed, starts


def _spellings(
    codes: npt.NDArray[np.uint32], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> Hashes:
    """A hash of the characters of every word: a polynomial in an odd base, from sums of it over
    the whole text; divided by the base's power at the word's start, which has an inverse."""
    powers, inverses = _spelling_powers(len(codes))
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])
    return _finalise((sums[ends] - sums[starts]) * inverses[starts])


def _spelling_powers(length: int) -> tuple[Hashes, Hashes]:
    return _powers_up_to(1 << (max(length, _BATCH_CHARACTERS) - 1).bit_length())


@functools.lru_cache(maxsize=1)
def _powers_up_to(length: int) -> tuple[Hashes, Hashes]:
    bases = (_SPELLING_BASE, pow(_SPELLING_BASE, -1, 1 << 64))
    one, other = (
        np.cumprod(np.concatenate([[np.uint64(1)], np.full(length - 1, base, np.uint64)]))
        for base in bases
    )
    return one, other


@functools.cache
def _word_characters() -> npt.NDArray[np.bool_]:
    r"""Which characters are `\w`, by code."""
    found = np.zeros(sys.maxunicode + 1, dtype=bool)
    for match in _WORD.finditer("".join(map(chr, range(sys.maxunicode + 1)))):
        found[match.start() : match.end()] = True
    return found


@functools.cache
def _known_words() -> tuple[Hashes, Hashes]:
    """Spellings and BLAKE2b hashes of words seen before, each at the first bits of its spelling.
    No word's spelling is taken for that of an empty place (0) but with odds of 2^-64."""
    return np.zeros(1 << _KNOWN_WORDS_BITS, np.uint64), np.zeros(1 << _KNOWN_WORDS_BITS, np.uint64)


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
        if len(self) >= _WORD_CACHE_ENTRIES:
            self.clear()
        self[word] = value = _word_hash(word)
        return value


_word_hashes = _WordHashes()


def _word_hash(word: str) -> int:
    folded = word.casefold().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(folded, digest_size=8).digest(), "little")


def _finalise(sums: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): a bijection, well mixed."""
    sums = (sums ^ (sums >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    sums = (sums ^ (sums >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return sums ^ (sums >> np.uint64(31))


def _check_size(n: int) -> None:
    if n < 1:
        raise ValueError(f"a window has at least one word, got n = {n}")
