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
    """The multiple; None with `beyond` where it lies below the first run or above the last."""

    value: float | None
    beyond: str | None
    documents: MultipleBounds
    seeds: MultipleBounds
    both: MultipleBounds


def data_efficiency(losses: Losses, arm: str, runs: Mapping[str, float]) -> Efficiency:
    """`runs`: the arms that are repetition of more and more unique text, with their multiples.

    Between neighbouring runs the loss is a line in the logarithm of the unique tokens, and nothing
    is said beyond the first and the last. For the value, runs in which more text did worse are
    pooled with their neighbours (isotonic regression). Each interval has the multiples at which
    the interval of (repetition at the multiple - arm) holds zero. Raises ValueError for fewer than
    two runs, and for two of one multiple.
    """
    names = sorted(runs, key=lambda name: runs[name])
    knots = [math.log(runs[name]) for name in names]
    if len(knots) < 2 or any(a >= b for a, b in pairwise(knots)):
        raise ValueError(f"multiples {sorted(runs.values())}, expected two or more that differ")
    falling = _falling([losses.loss(name) for name in names])
    value, beyond = _place(falling, knots, losses.loss(arm))
    places = [
        a + (b - a) * step / _PLACES for a, b in pairwise(knots) for step in range(_PLACES)
    ] + knots[-1:]

    def ends(over: Over) -> MultipleBounds:
        refused = losses.interval({names[0]: 1.0, names[-1]: -1.0, arm: -1.0}, over)
        if isinstance(refused, Refused):
            return refused

        def at(place: float) -> Interval:
            interval = losses.interval(_contrast(names, knots, place, arm), over)
            assert isinstance(interval, Interval)
            return interval

        low, high = falling_set(at, places)
        return Multiples(
            None if low is None else math.exp(low), None if high is None else math.exp(high)
        )

    return Efficiency(
        None if value is None else math.exp(value),
        beyond,
        ends("documents"),
        ends("seeds"),
        ends("both"),
    )


def _contrast(names: Sequence[str], knots: Sequence[float], place: float, arm: str) -> Weights:
    """The weights of repetition at `place` minus the arm."""
    after = min(max(bisect_right(knots, place), 1), len(knots) - 1)
    part = (place - knots[after - 1]) / (knots[after] - knots[after - 1])
    weights = {names[after - 1]: 1 - part, names[after]: part}
    return weights | {arm: weights.get(arm, 0.0) - 1}


def _falling(losses: Sequence[float]) -> list[float]:
    """The nearest losses, by squares, that never rise: pools of neighbours have their mean."""
    pools: list[list[float]] = []
    for loss in losses:
        pools.append([loss])
        while len(pools) > 1 and _mean(pools[-2]) < _mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    return [_mean(pool) for pool in pools for _ in pool]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


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
