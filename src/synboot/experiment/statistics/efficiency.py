"""How many times the unique data repetition would need to be as good as an arm."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from synboot.experiment.statistics.inversion import falling_set
from synboot.experiment.statistics.losses import Interval, Losses, Over, Refused, Weights

_PLACES = 12  # between two runs, at which the set is looked for before its ends are found


@dataclass(frozen=True)
class Multiples:
    """An interval of multiples; None where it goes on beyond the first or the last run."""

    low: float | None
    high: float | None


MultipleBounds = Multiples | Refused


@dataclass(frozen=True)
class Efficiency:
    """The multiple; None with `beyond` where it lies below the first run or above the last, and
    without where the runs do not tell."""

    value: float | None
    beyond: str | None
    documents: MultipleBounds
    seeds: MultipleBounds
    both: MultipleBounds


def data_efficiency(losses: Losses, arm: str, runs: Mapping[str, float]) -> Efficiency:
    """`runs`: the arms that are repetition of more and more unique text, with their multiples.

    Between neighbouring runs the loss is a line in the logarithm of the unique tokens, and nothing
    is said beyond the first and the last. Runs in which more text did worse are pooled with their
    neighbours (isotonic regression): each counts as their mean. An arm behind the first run is
    below it. Up to the run after a pool that holds the first one nothing is said, where the first
    run itself would be worth more than itself, nor of an arm ahead of a pool but not of each run in
    it. Each interval has the multiples at which the interval of (repetition at the multiple - arm)
    holds zero, on this same curve, so that it holds the value. Raises ValueError for fewer than two
    runs, and for two of one multiple.
    """
    names = sorted(runs, key=lambda name: runs[name])
    knots = [math.log(runs[name]) for name in names]
    if len(knots) < 2 or any(a >= b for a, b in pairwise(knots)):
        raise ValueError(f"multiples {sorted(runs.values())}, expected two or more that differ")
    pools = _falling([losses.loss(name) for name in names])
    levels = [dict.fromkeys(names[a:b], 1 / (b - a)) for a, b in pools]
    loss, means = losses.loss(arm), [losses.value(level) for level in levels]
    value, beyond = _place(means, knots, loss)
    if loss > losses.loss(names[0]):  # which pooling may have raised above the arm
        value, beyond = None, "below"
    elif value is not None and len(levels[0]) > 1 and value <= [*knots, math.inf][len(levels[0])]:
        return _untold("repetition of somewhat more text did no better than of the unique text")
    elif any(
        min(map(losses.loss, level)) <= loss < mean
        for level, mean in zip(levels, means, strict=True)
        if len(level) > 1
    ):
        return _untold("more text did worse than less of it, which is no worse than the arm")
    places = [
        a + (b - a) * step / _PLACES for a, b in pairwise(knots) for step in range(_PLACES)
    ] + knots[-1:]

    def ends(over: Over) -> MultipleBounds:
        everything = losses.interval(dict.fromkeys([*names, arm], 1.0), over)
        if isinstance(everything, Refused):
            return everything

        def at(place: float) -> Interval:
            interval = losses.interval(_contrast(levels, knots, place, arm), over)
            assert isinstance(interval, Interval)
            return interval

        low, high = falling_set(at, places)
        if value is not None:  # which halving, or rounding on a level stretch, may miss by a bit
            low = None if low is None else min(low, value)
            high = None if high is None else max(high, value)
        if beyond == "below":
            low = None
        return Multiples(multiple(low), multiple(high))

    def multiple(place: float | None) -> float | None:
        """Of runs their own, to the last bit."""
        exact = dict(zip(knots, (runs[name] for name in names), strict=True))
        return None if place is None else exact.get(place, math.exp(place))

    return Efficiency(
        multiple(value),
        beyond,
        ends("documents"),
        ends("seeds"),
        ends("both"),
    )


def _untold(reason: str) -> Efficiency:
    refused = Refused(reason)
    return Efficiency(None, None, refused, refused, refused)


def _contrast(levels: Sequence[Weights], knots: Sequence[float], place: float, arm: str) -> Weights:
    """The weights of repetition at `place` minus the arm."""
    after = min(max(bisect_right(knots, place), 1), len(knots) - 1)
    part = (place - knots[after - 1]) / (knots[after] - knots[after - 1])
    weights = {arm: -1.0}
    for level, share in ((levels[after - 1], 1 - part), (levels[after], part)):
        for name, weight in level.items():
            weights[name] = weights.get(name, 0.0) + share * weight
    return weights


def _falling(losses: Sequence[float]) -> list[tuple[int, int]]:
    """For each loss the pool [start, stop) of neighbours it is in, so that the means of pools never
    rise: the nearest such losses, by squares."""
    pools: list[tuple[int, int]] = []
    for place in range(len(losses)):
        pools.append((place, place + 1))
        while len(pools) > 1 and _mean(losses, pools[-2]) < _mean(losses, pools[-1]):
            _, stop = pools.pop()
            pools[-1] = (pools[-1][0], stop)
    return [pool for pool in pools for _ in range(*pool)]


def _mean(losses: Sequence[float], pool: tuple[int, int]) -> float:
    return sum(losses[slice(*pool)]) / (pool[1] - pool[0])


def _place(
    falling: Sequence[float], knots: Sequence[float], loss: float
) -> tuple[float | None, str | None]:
    """Where the falling line has `loss`."""
    if loss > falling[0]:
        return None, "below"
    for (high, low), (start, stop) in zip(pairwise(falling), pairwise(knots), strict=True):
        if loss >= low:
            return (
                start if high == low else start + (stop - start) * (high - loss) / (high - low)
            ), None
    return None, "above"
