"""Which neighbours become pairs: pure filters with reasons (law 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from synboot.core.config import Config
from synboot.core.verdict import KEEP, Drop, Verdict
from synboot.data.ngrams import overlap, window_hashes
from synboot.data.overlaps import overlaps


class PairFilterConfig(Config):
    """Thresholds of the pair filters. The paper keeps pairs above a similarity; alpha = 0.75 of
    its encoder is recalled, and no other encoder's scale is comparable."""

    min_similarity: float = Field(default=0.3, ge=-1, le=1)
    """Cosine similarity of the two documents, at least."""
    max_similarity: float = Field(default=1.0, ge=-1, le=1)
    """At most."""
    max_window_overlap: float = Field(default=0.5, ge=0, le=1)
    """Share of 13-word windows in common (of the document with fewer), at most."""
    max_pairs_per_document: int = Field(default=10, ge=1)
    """Pairs that one document may be in; the most similar come first."""
    exclude_same_group: bool = False
    """Drop pairs of one group (a module and its parts, say); documents must have groups."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_similarity > self.max_similarity:
            raise ValueError(
                f"min_similarity {self.min_similarity:g} is above max_similarity "
                f"{self.max_similarity:g}"
            )
        return self


@dataclass(frozen=True)
class PairCandidate:
    """Two documents, by number, `first < second`, and their cosine similarity."""

    first: int
    second: int
    similarity: float


PairFilter = Callable[[PairCandidate], Verdict]


def similar_enough(config: PairFilterConfig) -> PairFilter:
    """Drops `below_min_similarity` and `above_max_similarity`."""

    def check(pair: PairCandidate) -> Verdict:
        if pair.similarity < config.min_similarity:
            return Drop("below_min_similarity", pair.similarity)
        # Rounding carries the product of equal unit vectors a little above 1.
        if pair.similarity > config.max_similarity + 1e-5:
            return Drop("above_max_similarity", pair.similarity)
        return KEEP

    return check


def not_same_group(groups: Sequence[str | None]) -> PairFilter:
    """Drops `same_group`; a document without a group is in none."""

    def check(pair: PairCandidate) -> Verdict:
        group = groups[pair.first]
        same = group is not None and group == groups[pair.second]
        return Drop("same_group", 1.0) if same else KEEP

    return check


def not_near_duplicate(
    texts: Sequence[str], config: PairFilterConfig, expected: Sequence[PairCandidate] = ()
) -> PairFilter:
    """Drops `near_duplicate`: too many 13-word windows in common.

    The windows of `expected` candidates are counted together, which takes a small part of the time
    that they take one by one.
    """
    first = np.array([pair.first for pair in expected], dtype=np.int64)
    second = np.array([pair.second for pair in expected], dtype=np.int64)
    shares = dict(zip(expected, overlaps(texts, first, second).tolist(), strict=True))

    def check(pair: PairCandidate) -> Verdict:
        share = shares.get(pair)
        if share is None:
            share = overlap(window_hashes(texts[pair.first]), window_hashes(texts[pair.second]))
        return Drop("near_duplicate", share) if share > config.max_window_overlap else KEEP

    return check


class DegreeLimit:
    """Drops `degree_limit`: either document is in `max_pairs_per_document` pairs already.

    Depends on what it has let through before: ask it last, and for the most similar pairs first.
    """

    def __init__(self, max_pairs_per_document: int) -> None:
        self._limit = max_pairs_per_document
        self._degree: dict[int, int] = {}

    def __call__(self, pair: PairCandidate) -> Verdict:
        """The verdict; a kept pair counts for both documents."""
        degree = max(self._degree.get(pair.first, 0), self._degree.get(pair.second, 0))
        if degree >= self._limit:
            return Drop("degree_limit", float(degree))
        for document in (pair.first, pair.second):
            self._degree[document] = self._degree.get(document, 0) + 1
        return KEEP
