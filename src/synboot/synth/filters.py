"""Which sampled texts become synthetic documents: filters with reasons (law 8).

Thresholds are shares of tokens and of word windows, never lists of words, so that they hold for
any language that parts its words by spaces; others (Chinese, Japanese, Thai) have one long
"word" a clause, and copies are found only where whole clauses are copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import Field

from synboot.core.config import Config
from synboot.core.verdict import KEEP, Drop, Verdict
from synboot.data.ngrams import all_windows, share_found, window_hashes
from synboot.data.repeats import bare, bare_digest, repetition

_WHOLE = math.nextafter(1.0, 0.0)


class TextFilterConfig(Config):
    """Thresholds of the text filters."""

    keep_unfinished: bool = False
    """Keep documents that were cut at the length limit instead of ending by themselves: right
    where real documents, too, are mostly longer than the room that a row leaves for d2. They are
    trained on like any other, with END as the border to the next."""
    min_tokens: int = Field(default=8, ge=1)
    """Of a text; a shorter one is dropped."""
    max_repetition: float = Field(default=0.5, ge=0, le=1)
    """Share of a text's 4-token windows that repeat an earlier one, at most."""
    max_seed_overlap: float = Field(default=0.5, ge=0, le=1)
    """Share of a text's 13-word windows that stand in the seed document, at most; a whole copy is
    dropped at any value."""
    max_corpus_overlap: float = Field(default=0.8, ge=0, le=1)
    """The same of windows found anywhere in the unique budget."""
    max_draw_overlap: float = Field(default=0.8, ge=0, le=1)
    """The same of windows found in the documents of the same writer that were kept before."""


@dataclass(frozen=True)
class Draft:
    """A sampled text before it is judged; `text` is None if its bytes are no valid UTF-8."""

    tokens: np.ndarray
    text: str | None
    finish_reason: str
    seed_text: str

    @cached_property
    def windows(self) -> np.ndarray:
        """Hashes of the text's 13-word windows."""
        return window_hashes(self.text or "")

    @cached_property
    def repetition(self) -> float:
        """Share of 4-token windows that stood in the text before."""
        return repetition(self.tokens)

    @cached_property
    def seed_overlap(self) -> float:
        """Share of the text's 13-word windows that stand in the seed document; 1.0 if all of it
        does, up to case, white space and punctuation (which catches texts of few words)."""
        letters = bare(self.text or "")
        if letters and letters in bare(self.seed_text):
            return 1.0
        return share_found(self.windows, window_hashes(self.seed_text))


TextFilter = Callable[[Draft], Verdict]


def text_filters(config: TextFilterConfig, corpus: CorpusWindows) -> list[TextFilter]:
    """The filters that look at one draft alone, cheapest first."""

    def unfinished(draft: Draft) -> Verdict:
        cut = draft.finish_reason != "end" and not config.keep_unfinished
        return Drop("unfinished", float(len(draft.tokens))) if cut else KEEP

    def invalid_utf8(draft: Draft) -> Verdict:
        return Drop("invalid_utf8", 1.0) if draft.text is None else KEEP

    def too_short(draft: Draft) -> Verdict:
        short = len(draft.tokens) < config.min_tokens or not bare(draft.text or "")
        return Drop("too_short", float(len(draft.tokens))) if short else KEEP

    def repetitive(draft: Draft) -> Verdict:
        over = draft.repetition > config.max_repetition
        return Drop("repetition", draft.repetition) if over else KEEP

    def seed_copy(draft: Draft) -> Verdict:
        share = draft.seed_overlap  # a whole copy goes at any threshold
        return Drop("seed_copy", share) if share > min(config.max_seed_overlap, _WHOLE) else KEEP

    def corpus_duplicate(draft: Draft) -> Verdict:
        share = corpus.overlap(draft)
        over = share > min(config.max_corpus_overlap, _WHOLE)
        return Drop("corpus_duplicate", share) if over else KEEP

    return [unfinished, invalid_utf8, too_short, repetitive, seed_copy, corpus_duplicate]


class CorpusWindows:
    """What is needed to know a copy of any document of the unique budget."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.windows = all_windows(texts)
        self._bare = {bare_digest(text) for text in texts}

    def overlap(self, draft: Draft) -> float:
        """Share of the draft's 13-word windows found in any document; 1.0 if a document equals it
        up to case, white space and punctuation."""
        if bare_digest(draft.text or "") in self._bare:
            return 1.0
        return share_found(draft.windows, self.windows)


class EarlierDraws:
    """Drops `draw_duplicate`: mostly made of what was kept before. Depends on the past, hence is
    asked in the total order of draws, by one process, after all other filters."""

    def __init__(self, max_draw_overlap: float) -> None:
        self._limit = max_draw_overlap
        self._bare: set[bytes] = set()
        self._windows: set[int] = set()
        self.last_overlap = 0.0
        """Share of the last text's windows found in what was kept before it; 1.0 for a copy."""

    def __call__(self, text: str) -> Verdict:
        """The verdict; a kept text counts as earlier from now on."""
        digest = bare_digest(text)
        windows = window_hashes(text).tolist()
        found = sum(window in self._windows for window in windows)
        share = 1.0 if digest in self._bare else found / max(len(windows), 1)
        self.last_overlap = share
        if share > min(self._limit, _WHOLE):
            return Drop("draw_duplicate", share)
        self._bare.add(digest)
        self._windows.update(windows)
        return KEEP
