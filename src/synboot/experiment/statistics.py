"""Held-out scores of the arms, and what can be said of their differences.

Every interval here answers one question: how far the figure would move had other test documents
been drawn from where these came from. It says nothing of another training seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from synboot.core.rng import rng

Metric = Literal["bits_per_byte", "nats_per_token"]

LEVEL = 0.95
# With fewer documents, all of them favouring one arm is no rare accident: 2 * 0.5**5 > 1 - LEVEL.
MIN_DOCUMENTS = 6
MIN_RESAMPLES = 100
_CELLS_AT_ONCE = 1 << 20


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


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval at confidence `level`."""

    estimate: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Recovered:
    """The share of the oracle's gain that SBP brings, or one line on why none is stated."""

    value: float | None
    interval: Interval | None
    refused: str | None


def mean_scores(seeds: Sequence[Scores]) -> Scores:
    """One arm's scores over several training seeds, as the mean nats of each document.

    An interval computed from the mean covers the choice of test documents, not that of seeds: list
    the values of the single seeds beside it. Raises ValueError for no scores and for documents
    that differ between seeds.
    """
    if not seeds:
        raise ValueError("no scores to average")
    for other in seeds[1:]:
        _require_same_documents(seeds[0], other)
    first = seeds[0]
    nats = np.mean([scores.nats for scores in seeds], axis=0)
    return Scores(first.ids, first.num_tokens, first.num_bytes, nats)


def paired_bootstrap(
    a: Scores, b: Scores, metric: Metric, *, seed: int, num_resamples: int = 10_000
) -> Interval:
    """metric(a) - metric(b) with its 95% interval over the choice of test documents.

    Documents are resampled with replacement, the same for both arms; each resample's value is a
    ratio of sums, as the metric is; the interval is the percentile one (Efron and Tibshirani, An
    Introduction to the Bootstrap, chapter 13). Equal seeds and document counts give equal
    resamples, so intervals of several arms belong together. Raises ValueError if ids, tokens or
    bytes of the documents differ, or for fewer than 100 resamples.
    """
    _require_same_documents(a, b)
    difference, unit = a.nats - b.nats, _nats_per_unit(a, metric)
    sums = _resampled_sums(np.stack([difference, unit]), seed, num_resamples)
    return _percentile_interval(float(difference.sum() / unit.sum()), sums[0] / sums[1])


def recovered(
    repetition: Scores,
    sbp: Scores,
    oracle: Scores,
    metric: Metric,
    *,
    seed: int,
    num_resamples: int = 10_000,
) -> Recovered:
    """(repetition - sbp) / (repetition - oracle) with its 95% interval over test documents.

    Refused where the interval of the oracle's gain, repetition - oracle, is not clear of zero from
    above, and for fewer than 6 documents. Because all arms are scored on the same tokens and
    bytes, the share is the same number in every ratio-of-sums metric; only the gain in the reason
    has the metric's unit. Raises ValueError as `paired_bootstrap` does.
    """
    _require_same_documents(repetition, sbp)
    oracle_gain = paired_bootstrap(
        repetition, oracle, metric, seed=seed, num_resamples=num_resamples
    )
    if len(repetition.ids) < MIN_DOCUMENTS:
        reason = (
            f"{len(repetition.ids)} test documents are too few, at least {MIN_DOCUMENTS} needed"
        )
        return Recovered(None, None, reason)
    if oracle_gain.low <= 0:
        unit = metric.replace("_", " ")
        reason = (
            f"the oracle's gain over repetition, {oracle_gain.estimate:.4f} {unit} "
            f"[{oracle_gain.low:.4f}, {oracle_gain.high:.4f}], is not clear of zero"
        )
        return Recovered(None, None, reason)
    gains = np.stack([repetition.nats - sbp.nats, repetition.nats - oracle.nats])
    part, whole = _resampled_sums(gains, seed, num_resamples)
    share = np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
    estimate = float(gains[0].sum() / gains[1].sum())
    interval = _percentile_interval(estimate, share)
    return Recovered(estimate, interval, None)


def _require_same_documents(a: Scores, b: Scores) -> None:
    if a.ids != b.ids:
        raise ValueError("the scored documents differ, or come in another order")
    if not np.array_equal(a.num_bytes, b.num_bytes):
        raise ValueError("the scored documents differ in bytes")
    if not np.array_equal(a.num_tokens, b.num_tokens):
        raise ValueError("the scored documents differ in tokens")


def _nats_per_unit(scores: Scores, metric: Metric) -> NDArray[np.float64]:
    """What a document adds to the metric's denominator, so that metric = sum nats / sum of it."""
    if metric == "bits_per_byte":
        return scores.num_bytes.astype(np.float64) * math.log(2)
    if metric == "nats_per_token":
        return scores.num_tokens.astype(np.float64)
    raise ValueError(f"unknown metric {metric!r}")


def _resampled_sums(
    columns: NDArray[np.float64], seed: int, num_resamples: int
) -> NDArray[np.float64]:
    """Sums of `columns`, shape (k, documents), over resampled documents: (k, num_resamples)."""
    if num_resamples < MIN_RESAMPLES:
        raise ValueError(f"{num_resamples} resamples, expected at least {MIN_RESAMPLES}")
    num_documents = columns.shape[1]
    generator = rng(seed, "paired_bootstrap")
    sums = np.empty((len(columns), num_resamples))
    step = max(1, _CELLS_AT_ONCE // num_documents)
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        chosen = generator.integers(num_documents, size=(rows, num_documents))
        for column, out in zip(columns, sums, strict=True):
            out[start : start + rows] = column[chosen].sum(axis=1)
    return sums


def _percentile_interval(estimate: float, resampled: NDArray[np.float64]) -> Interval:
    """Ends after cutting at most (1 - LEVEL) / 2 of the resamples off either side.

    NaN, a share of nothing, counts as beyond both ends, so it can only widen the interval.
    """
    cut = int(len(resampled) * (1 - LEVEL) / 2)
    undefined = np.isnan(resampled)
    low = np.sort(np.where(undefined, -np.inf, resampled))[cut]
    high = np.sort(np.where(undefined, np.inf, resampled))[-1 - cut]
    return Interval(estimate, float(low), float(high), LEVEL)
