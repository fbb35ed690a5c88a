"""The interval of a figure over pairs of documents, of which one may be in many pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from synboot.experiment.statistics.losses import (
    MIN_DOCUMENTS,
    Bounds,
    Interval,
    Refused,
    student_t,
)


def ratio_over_pairs(
    numerator: NDArray[np.float64],
    denominator: NDArray[np.float64],
    members: Sequence[tuple[Hashable, Hashable]],
) -> tuple[float, Bounds]:
    """sum(numerator) / sum(denominator) over pairs, arrays of shape (pairs,), and its interval at
    confidence LEVEL. `members` are what the two sides of each pair are of: documents, or their
    groups.

    Pairs that share a member are not independent, the two orders of one pair least of all: the
    variance of the linearised ratio adds the products of all residuals of pairs that share one
    (Fafchamps and Gubert 2007; Aronow, Samii and Assenova 2015), with the correction n / (n - 1)
    and Student's t of n - 1 for n members. It is at least that of independent unordered pairs.
    Refused for less than 6 members. Raises ValueError for no pairs.
    """
    if not len(numerator) == len(denominator) == len(members) or not len(members):
        raise ValueError("expected as many numerators, denominators and members, at least one")
    total = float(denominator.sum())
    value = float(numerator.sum()) / total
    unordered: dict[frozenset[Hashable], float] = defaultdict(float)
    residuals = numerator - value * denominator
    for pair, residual in zip(members, residuals.tolist(), strict=True):
        unordered[frozenset(pair)] += residual
    of_member: dict[Hashable, float] = defaultdict(float)
    for sides, residual in unordered.items():
        for member in sides:
            of_member[member] += residual
    count = len(of_member)
    if count < MIN_DOCUMENTS:
        return value, Refused(f"pairs of {count} documents or groups, fewer than {MIN_DOCUMENTS}")
    # Each pair of pairs that shares one member is counted by it; a pair with itself by both of
    # its members, once too often.
    own = sum(residual**2 for residual in unordered.values())
    twice = sum(residual**2 for sides, residual in unordered.items() if len(sides) == 2)
    variance = max(sum(one**2 for one in of_member.values()) - twice, own)
    error = sqrt(variance * count / (count - 1)) / total
    half = student_t(count - 1) * error
    return value, Interval(value - half, value + half)
