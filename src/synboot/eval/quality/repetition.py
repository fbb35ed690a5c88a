"""Repetition: how much of each text stood in it before."""

from __future__ import annotations

import numpy as np

from synboot.data.ngrams import Words
from synboot.data.repeats import REPETITION_WINDOW
from synboot.eval.quality.figures import Floats


def repeated_shares(words: Words) -> Floats:
    """Share of each text's windows of 4 words that stood in it before, float64 [texts]:
    `data.repeats.repetition` of its words. 0.0 for fewer than 4 words."""
    hashes, text_of = words.runs(REPETITION_WINDOW)
    order = np.lexsort((hashes, text_of))
    hashes, text_of = hashes[order], text_of[order]
    again = (hashes[1:] == hashes[:-1]) & (text_of[1:] == text_of[:-1])
    repeats = np.bincount(text_of[1:][again], minlength=len(words))
    windows = np.bincount(text_of, minlength=len(words))
    return np.asarray(repeats / np.maximum(windows, 1), dtype=np.float64)
