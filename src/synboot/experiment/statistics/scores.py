"""What an arm scores on every held-out document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["bits_per_byte", "nats_per_token"]


@dataclass(frozen=True, eq=False)
class Scores:
    """What one arm, trained with one seed, scores on every test document.

    `ids`, and arrays of shape (documents,): `num_tokens` (scored positions) and `num_bytes`
    (UTF-8), both int64, and `nats` (negative log-likelihood of the document), float64. `groups`:
    the group of each document that has one (None for the others); None if none has. Raises
    ValueError for no documents, arrays of other lengths, an id given twice, counts below 1 and
    nats that are not finite.
    """

    ids: list[str]
    num_tokens: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    nats: NDArray[np.float64]
    groups: Sequence[str | None] | None = None

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError("scores of no documents")
        for name in ("num_tokens", "num_bytes", "nats"):
            shape = getattr(self, name).shape
            if shape != (len(self.ids),):
                raise ValueError(f"{name} has shape {shape}, expected ({len(self.ids)},)")
        if self.groups is not None and len(self.groups) != len(self.ids):
            raise ValueError(f"groups of {len(self.groups)} documents, expected {len(self.ids)}")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("a document is scored twice")
        if self.num_tokens.min() < 1 or self.num_bytes.min() < 1:
            raise ValueError("a scored document has no tokens or no bytes")
        if not np.isfinite(self.nats).all():
            raise ValueError("nats are not finite")

    def clusters(self) -> NDArray[np.int64]:
        """A number from 0 on for each document: the same within a group, else its own."""
        groups = [None] * len(self.ids) if self.groups is None else self.groups
        keys = [(g is None, i if g is None else g) for i, g in zip(self.ids, groups, strict=True)]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.array([numbers[key] for key in keys], dtype=np.int64)

    def nats_per_token(self) -> float:
        """Sum of nats over sum of tokens."""
        return float(self.nats.sum() / self.num_tokens.sum())

    def perplexity(self) -> float:
        """exp(nats per token); infinite where float64 ends."""
        exponent = self.nats_per_token()
        return math.exp(exponent) if exponent < 709 else math.inf

    def bits_per_byte(self) -> float:
        """Sum of nats over ln 2 over sum of bytes."""
        return float(self.nats.sum() / math.log(2) / self.num_bytes.sum())


def mean_scores(seeds: Sequence[Scores]) -> Scores:
    """One arm's scores over several training seeds, as the mean nats of each document. Raises
    ValueError for no scores and for documents that differ between seeds."""
    if not seeds:
        raise ValueError("no scores to average")
    for other in seeds[1:]:
        require_same_documents(seeds[0], other)
    first = seeds[0]
    nats = np.mean([scores.nats for scores in seeds], axis=0)
    return replace(first, nats=nats)


def require_same_documents(a: Scores, b: Scores) -> None:
    """Raises ValueError if ids, tokens, bytes or groups of the documents differ."""
    if a.ids != b.ids:
        raise ValueError("the scored documents differ, or come in another order")
    if not np.array_equal(a.num_bytes, b.num_bytes):
        raise ValueError("the scored documents differ in bytes")
    if not np.array_equal(a.num_tokens, b.num_tokens):
        raise ValueError("the scored documents differ in tokens")
    if a.groups != b.groups and not np.array_equal(a.clusters(), b.clusters()):
        raise ValueError("the scored documents differ in groups")


def units_of(scores: Scores, metric: Metric) -> NDArray[np.float64]:
    """What each document adds to the metric's denominator: metric = sum of nats / sum of it."""
    if metric == "bits_per_byte":
        return scores.num_bytes.astype(np.float64) * math.log(2)
    if metric == "nats_per_token":
        return scores.num_tokens.astype(np.float64)
    raise ValueError(f"unknown metric {metric!r}")
