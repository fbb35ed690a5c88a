"""What an arm scores on every held-out document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["bits_per_byte", "nats_per_token"]


@dataclass(frozen=True, eq=False)
class Scores:
    """What one arm, trained with one seed, scores on every test document.

    `ids`, and arrays of shape (documents,): `num_tokens` (scored positions) and `num_bytes`
    (UTF-8), both int64, and `nats` (negative log-likelihood of the document), float64. Raises
    ValueError for no documents, arrays of other lengths, an id given twice, counts below 1 and
    nats that are not finite.
    """

    ids: list[str]
    num_tokens: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    nats: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError("scores of no documents")
        for name in ("num_tokens", "num_bytes", "nats"):
            shape = getattr(self, name).shape
            if shape != (len(self.ids),):
                raise ValueError(f"{name} has shape {shape}, expected ({len(self.ids)},)")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("a document is scored twice")
        if self.num_tokens.min() < 1 or self.num_bytes.min() < 1:
            raise ValueError("a scored document has no tokens or no bytes")
        if not np.isfinite(self.nats).all():
            raise ValueError("nats are not finite")

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
    return Scores(first.ids, first.num_tokens, first.num_bytes, nats)


def require_same_documents(a: Scores, b: Scores) -> None:
    """Raises ValueError if ids, tokens or bytes of the documents differ."""
    if a.ids != b.ids:
        raise ValueError("the scored documents differ, or come in another order")
    if not np.array_equal(a.num_bytes, b.num_bytes):
        raise ValueError("the scored documents differ in bytes")
    if not np.array_equal(a.num_tokens, b.num_tokens):
        raise ValueError("the scored documents differ in tokens")


def units_of(scores: Scores, metric: Metric) -> NDArray[np.float64]:
    """What each document adds to the metric's denominator: metric = sum of nats / sum of it."""
    if metric == "bits_per_byte":
        return scores.num_bytes.astype(np.float64) * math.log(2)
    if metric == "nats_per_token":
        return scores.num_tokens.astype(np.float64)
    raise ValueError(f"unknown metric {metric!r}")
