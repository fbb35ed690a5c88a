"""Which items of a task stand in a training text: windows of 13 words (Brown et al. 2020).

The text of an item is the item with its right answer. An item is contaminated if any 13 words of it
that follow each other stand in the training text, case and punctuation aside; one of 8 to 12 words
if all of its words do, in this order; one of fewer words cannot be judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from synboot.data.ngrams import WINDOW_WORDS, all_windows, windows_of, words

MIN_WORDS = 8


@dataclass(frozen=True)
class ItemWindows:
    """The windows of items: their hashes (uint64), the number of words in each, its item."""

    num_items: int
    hashes: npt.NDArray[np.uint64]
    num_words: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Which items are long enough, bool [items]."""
        return self.per_item(np.ones(len(self.items), dtype=bool)) > 0

    def per_item(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """How many of the `chosen` windows each item has, int64 [items]."""
        return np.bincount(self.items[chosen], minlength=self.num_items)


def item_windows(texts: Sequence[str]) -> ItemWindows:
    """The windows of items with these texts."""
    lengths = np.array([len(words(text)) for text in texts], dtype=np.int64)
    sizes = np.where(lengths < MIN_WORDS, 0, np.minimum(lengths, WINDOW_WORDS))
    hashes, num_words, items = [], [], []
    for size in np.unique(sizes[sizes > 0]).tolist():
        own = np.flatnonzero(sizes == size)
        found = windows_of([texts[i] for i in own.tolist()], size)
        hashes.append(found.hashes)
        num_words.append(np.full(len(found.hashes), size))
        items.append(np.repeat(own, found.sizes))
    if not hashes:
        nothing = np.empty(0, np.int64)
        return ItemWindows(len(texts), np.empty(0, np.uint64), nothing, nothing)
    return ItemWindows(
        len(texts), np.concatenate(hashes), np.concatenate(num_words), np.concatenate(items)
    )


def find_windows(windows: ItemWindows, texts: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Which of `windows` stand in any of `texts`, bool [windows]."""
    found = np.zeros(len(windows.hashes), dtype=bool)
    texts = list(texts)
    for size in np.unique(windows.num_words).tolist():
        own = np.flatnonzero(windows.num_words == size)
        found[own] = np.isin(windows.hashes[own], all_windows(texts, size))
    return found
