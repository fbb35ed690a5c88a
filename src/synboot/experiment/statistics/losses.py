"""Losses of arms and training seeds on the same documents, and the intervals of what is made of
them by adding and subtracting.

Three intervals of 95% stand side by side, and each answers a question of its own: how far would
the figure move, had

- `documents`: other test documents been drawn from where these came from, the trained models being
  what they are;
- `seeds`: the arms been trained with other seeds and scored on these same documents;
- `both`: both been drawn anew.

Documents of one group (of a site, a person, a book) are alike, and splits are of whole groups: then
it is groups that are drawn, and "documents" stands for them.

They are the intervals of a crossed design, seeds x documents, in which both have effects of their
own and together; `python -m calibration statistics` shows how often each holds its truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from synboot.core.rng import rng
from synboot.experiment.statistics.scores import Metric, Scores, require_same_documents, units_of

Over = Literal["documents", "seeds", "both"]
"""What an interval is over."""
Weights = Mapping[str, float]
"""What of each arm's loss goes into a figure; a gain over repetition is `{repetition: 1, arm: -1}`.
"""

OVER: tuple[Over, ...] = get_args(Over)
LEVEL = 0.95
# With fewer documents, all of them favouring one arm is no rare accident: 2 * 0.5**5 > 1 - LEVEL.
MIN_DOCUMENTS = 6
MIN_RESAMPLES = 100
_CELLS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Interval:
    """The ends of an interval at confidence LEVEL."""

    low: float
    high: float

    def clear_of_zero(self) -> bool:
        """Whether zero is outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Refused:
    """No interval, and one line on why."""

    reason: str


Bounds = Interval | Refused


@dataclass(frozen=True)
class Figure:
    """A figure with its value for each seed alone and its three intervals."""

    value: float
    by_seed: list[float]
    documents: Bounds
    seeds: Bounds
    both: Bounds

    def over(self, what: Over) -> Bounds:
        """The interval of that name."""
        bounds: Bounds = getattr(self, what)
        return bounds


class Losses:
    """`scores[arm]`, one for each training seed, in one metric.

    Seeds are paired between arms in the order they are given in. Raises ValueError if no arm is
    given, if ids, tokens, bytes or groups of the documents differ, or for fewer than 100 resamples.
    """

    def __init__(
        self,
        scores: Mapping[str, Sequence[Scores]],
        metric: Metric,
        *,
        seed: int,
        num_resamples: int = 10_000,
    ) -> None:
        if num_resamples < MIN_RESAMPLES:
            raise ValueError(f"{num_resamples} resamples, expected at least {MIN_RESAMPLES}")
        everything = [one for of_arm in scores.values() for one in of_arm]
        if not everything or not all(scores.values()):
            raise ValueError("no scores to compare")
        for other in everything[1:]:
            require_same_documents(everything[0], other)
        self.arms = tuple(scores)
        self.metric = metric
        self.num_documents = len(everything[0].ids)
        clusters = everything[0].clusters()
        self.num_groups = int(clusters.max()) + 1 if everything[0].groups is not None else None
        """Groups, a document without one being its own; None where no document has one."""
        units = units_of(everything[0], metric)
        self.effective_documents = _kish(units)
        """How many documents of equal length would weigh alike: few where a few long ones hold most
        of the text."""
        self._num_units = self.num_groups or self.num_documents
        sums = partial(_sums, clusters) if self.num_groups else _as_they_are
        self._units = sums(units)
        """Of what is resampled: documents, or groups of them (the cluster bootstrap)."""
        self.effective_groups = _kish(self._units) if self.num_groups else None
        """The same of groups."""
        self._effective = self.effective_groups or self.effective_documents
        total = float(self._units.sum())
        nats = {arm: np.stack([sums(one.nats) for one in of_arm]) for arm, of_arm in scores.items()}
        self._of_seeds = {arm: own.sum(axis=1) / total for arm, own in nats.items()}
        """The arm's loss by seed."""
        residuals = {
            arm: (own - self._of_seeds[arm][:, None] * self._units) / total
            for arm, own in nats.items()
        }
        self._own_of_seeds = {arm: own - own.mean(axis=0) for arm, own in residuals.items()}
        """What each document, or group, adds to the difference from that loss, (seeds, documents),
        less what it adds at all seeds alike."""
        self._mean_nats = {arm: own.mean(axis=0) for arm, own in nats.items()}
        self._loss = {arm: float(own.sum() / total) for arm, own in self._mean_nats.items()}
        self._seed, self._num_resamples = seed, num_resamples
        self._resampled: dict[str, NDArray[np.float64]] | None = None

    def loss(self, arm: str) -> float:
        """The arm's mean over its seeds."""
        return self._loss[arm]

    def num_seeds(self, *arms: str) -> int | None:
        """How many seeds each of these arms, by default all, has; None where they differ."""
        counts = {len(self._of_seeds[arm]) for arm in arms or self.arms}
        return counts.pop() if len(counts) == 1 else None

    def value(self, weights: Weights) -> float:
        """The weighted sum of the arms' losses."""
        return math.fsum(weight * self.loss(arm) for arm, weight in weights.items())

    def by_seed(self, weights: Weights) -> list[float]:
        """That of each seed alone; none where arms differ in their number of seeds."""
        if self.num_seeds(*weights) is None:
            return []
        return [float(value) for value in _weighted(weights, self._of_seeds)]

    def figure(self, weights: Weights) -> Figure:
        """The weighted sum of the arms' losses and how surely it is known."""
        bounds = {over: self.interval(weights, over) for over in OVER}
        return Figure(self.value(weights), self.by_seed(weights), **bounds)

    def interval(self, weights: Weights, over: Over) -> Bounds:
        """The interval of the weighted sum: value +- quantile * standard error.

        documents: the standard error is that of the bootstrap. Documents, or whole groups of them,
        are resampled with replacement, the same for all arms; each resample's value is a ratio of
        sums, as the metric is (Efron and Tibshirani, An Introduction to the Bootstrap, chapters 6
        and 12; for groups Davison and Hinkley, Bootstrap Methods and their Application, 3.8). The
        quantile is Student's, for `effective_documents`, or `effective_groups`. By simulation this
        holds its truth more often than percentiles of the resamples, corrected for bias and skew
        or not.

        seeds: Student's t of the seeds' own values, differences of arms of the same seed.

        both: the variances over documents and over seeds, less what both have of their common one,
        add up. The quantile lies between those of Student's t for documents and for seeds, at the
        seeds' share of the variance (after Cochran 1964) to the power of 2 - 1.5 / seeds, which was
        chosen by simulation: at three seeds the plain share is too wide, and Welch and
        Satterthwaite's degrees of freedom are too narrow.
        """
        seeds = self.num_seeds(*weights)
        if over != "seeds" and (few := self._too_few_documents()):
            return Refused(few)
        if over != "documents" and seeds is None:
            return Refused("the arms differ in their number of training seeds")
        if over != "documents" and seeds == 1:
            return Refused("one training seed says nothing of others")
        if over == "documents" or seeds is None:
            margin = self._t_of_documents * math.sqrt(self._variance_of_documents(weights))
        else:
            of_seeds = self._variance_of_seeds(weights, seeds)
            margin = student_t(seeds - 1) * math.sqrt(of_seeds)
            if over == "both":
                margin = self._margin_of_both(weights, of_seeds, seeds)
        value = self.value(weights)
        return Interval(value - margin, value + margin)

    def _too_few_documents(self) -> str | None:
        if self._num_units < MIN_DOCUMENTS:
            what = "groups of test documents" if self.num_groups else "test documents"
            return f"{self._num_units} {what} are too few, at least {MIN_DOCUMENTS} needed"
        if self._effective < 2:
            what = "group of test documents" if self.num_groups else "test document"
            return f"one {what} holds nearly all of the text"
        return None

    @property
    def _t_of_documents(self) -> float:
        return student_t(self._effective - 1)

    def _margin_of_both(self, weights: Weights, of_seeds: float, seeds: int) -> float:
        of_documents = self._variance_of_documents(weights)
        share = of_seeds / (of_seeds + of_documents) if of_seeds > 0 else 0.0
        narrow = self._t_of_documents
        quantile = narrow + max(student_t(seeds - 1) - narrow, 0.0) * math.pow(
            share, 2 - 1.5 / seeds
        )
        sum_of_both = of_seeds + of_documents - self._variance_of_both(weights)
        return quantile * math.sqrt(max(sum_of_both, of_seeds, of_documents))

    def _variance_of_seeds(self, weights: Weights, seeds: int) -> float:
        """Of the figure over seeds, the documents as they are."""
        values = _weighted(weights, self._of_seeds)
        return float(((values - values.mean()) ** 2).sum()) / (seeds * (seeds - 1))

    def _variance_of_documents(self, weights: Weights) -> float:
        """Of the figure over documents, the seeds as they are."""
        if self._resampled is None:
            self._resampled = self._resample()
        return self._unbiased * float((_weighted(weights, self._resampled) ** 2).mean())

    def _variance_of_both(self, weights: Weights) -> float:
        """Of what seeds and documents do together; linearised, as ratios are."""
        own = _weighted(weights, self._own_of_seeds)
        seeds = len(own)
        return self._unbiased * float((own**2).sum()) / (seeds * (seeds - 1))

    @property
    def _unbiased(self) -> float:
        """n / (n - 1)."""
        return self._effective / (self._effective - 1)

    def _resample(self) -> dict[str, NDArray[np.float64]]:
        """Each arm's loss over resampled documents or groups, the same for all arms, less its mean:
        (resamples,)."""
        generator = rng(self._seed, "paired_bootstrap")
        columns = np.stack([*self._mean_nats.values(), self._units])
        sums = np.empty((len(columns), self._num_resamples))
        size = self._num_units
        step = max(1, _CELLS_AT_ONCE // size)
        for start in range(0, self._num_resamples, step):
            rows = min(step, self._num_resamples - start)
            chosen = generator.integers(size, size=(rows, size))
            for column, out in zip(columns, sums, strict=True):
                out[start : start + rows] = column[chosen].sum(axis=1)
        found = sums[:-1] / sums[-1]
        return dict(zip(self.arms, found - found.mean(axis=1, keepdims=True), strict=True))


def _kish(weights: NDArray[np.float64]) -> float:
    """How many of equal weight would weigh alike (Kish, Survey Sampling, 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _sums(clusters: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of the values of each cluster."""
    return np.bincount(clusters, weights=values).astype(np.float64)


def _as_they_are(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values


@cache
def student_t(degrees: float) -> float:
    """The quantile of Student's t at which LEVEL lies between it and its negative."""
    return float(stdtrit(degrees, (1 + LEVEL) / 2))


def _weighted(weights: Weights, values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """The weighted sum of the arms' arrays."""
    (first, weight), *others = weights.items()
    total = weight * values[first]
    for arm, weight in others:
        total += weight * values[arm]
    return total
