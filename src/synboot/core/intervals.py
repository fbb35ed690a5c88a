"""The interval of a proportion."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def proportion_interval(successes: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Ends of the Wilson score interval at confidence `level` for `successes` of `total` trials.

    The proportions p with |successes / total - p| <= z * sqrt(p (1 - p) / total), where z is the
    normal quantile of (1 + level) / 2 (Wilson 1927). It holds the true proportion in about `level`
    of all samples, a little less for some proportions and a little more for others, and is of use
    where none or all succeed. Raises ValueError for no trials, more successes than trials, and a
    level that is not inside (0, 1).
    """
    if total < 1 or not 0 <= successes <= total:
        raise ValueError(f"{successes} successes of {total} trials")
    if not 0 < level < 1:
        raise ValueError(f"level {level}, expected between 0 and 1")
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = successes / total
    scale = 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / scale
    half = z / scale * sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return low, high
