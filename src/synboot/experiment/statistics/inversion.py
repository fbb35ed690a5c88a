"""Intervals of what solves an equation in the arms' losses: the values at which it may hold.

A share of a gain, or a multiple of the data, is the value at which some weighted sum of losses is
zero. Its interval is the set of values at which the interval of that sum holds zero: Fieller's for
a ratio and Student's t, that of the bootstrapped ratio for percentiles, and right as often as the
sum's own interval is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from synboot.experiment.statistics.losses import Interval

IntervalAt = Callable[[float], Interval]
"""The interval of the sum at a value."""
_HALVINGS = 40
_DOUBLINGS = 60


def set_around(at: IntervalAt, value: float) -> Interval:
    """The ends of the set around `value`, where the sum itself is zero. The sum must be clear of
    zero far enough away on both sides."""
    return Interval(_end(at, value, -1.0), _end(at, value, 1.0))


def _end(at: IntervalAt, inside: float, step: float) -> float:
    for _ in range(_DOUBLINGS):
        if at(inside + step).clear_of_zero():
            break
        step *= 2
    return boundary(lambda place: not at(place).clear_of_zero(), inside, inside + step)


def boundary(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where between `inside`, which is taken to hold, and `outside` `holds` ends, by halving."""
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return inside


def falling_set(at: IntervalAt, places: Sequence[float]) -> tuple[float | None, float | None]:
    """The ends of the set among rising `places`, for a sum that falls from above zero to below.

    None where the set goes on beyond the first or the last of them. All of the sum above zero
    gives (last, None), all below (None, first).
    """
    intervals = [at(place) for place in places]
    starts = [i for i, interval in enumerate(intervals) if interval.low <= 0]
    stops = [i for i, interval in enumerate(intervals) if interval.high >= 0]
    low: float | None = places[-1]
    if starts:
        first = starts[0]
        low = (
            None
            if first == 0
            else boundary(lambda place: at(place).low > 0, places[first - 1], places[first])
        )
    high: float | None = places[0]
    if stops:
        last = stops[-1]
        high = (
            None
            if last == len(places) - 1
            else boundary(lambda place: at(place).high < 0, places[last + 1], places[last])
        )
    return low, high
