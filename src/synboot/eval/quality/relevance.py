"""Relevance to the seed, by an encoder: similarity beside that of random and of related real text.

Nothing here knows an encoder: similarities of pairs come in, figures go out.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from synboot.eval.quality.figures import Figure, Floats, freedom_of, mean, rate, share_interval

RANDOM_QUANTILE = 0.95


def cosines(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> Floats:
    """Row by row, of unit vectors; 0 where a text has no place (a row of zeros)."""
    products = first.astype(np.float64) * second.astype(np.float64)
    return np.asarray(products.sum(axis=1), dtype=np.float64)


def relevance(similarities: Floats, random: Floats) -> Figure:
    """What `similarities` of pairs are beside those of random pairs: their mean and quantiles, the
    area under the curve (`auc`), and how many lie below the 95% quantile of the random ones."""
    threshold = float(np.quantile(random, RANDOM_QUANTILE)) if len(random) else math.inf
    return {
        "similarity": mean(similarities),
        "auc": area_under_curve(similarities, random),
        "below_random_quantile": rate(similarities < threshold) if len(random) else None,
    }


def area_under_curve(above: Floats, below: Floats) -> Figure:
    """The chance that one of `above` exceeds one of `below`, ties counting half. Its interval is
    that of a share (`share_interval`) with the variance of DeLong, DeLong and Clarke-Pearson
    (1988); where the two are wholly apart, it is that of as many trials as the fewer are."""
    m, n = len(above), len(below)
    if not (m and n):
        return {"auc": None, "low": None, "high": None}
    wins = _placements(above, below)
    losses = 1.0 - _placements(below, above)
    area = float(wins.mean())
    if m < 2 or n < 2:
        return {"auc": area, "low": None, "high": None}
    parts = [(float(each.var(ddof=1)) / len(each), freedom_of((each - each.mean()) ** 2))
             for each in (wins, losses)]  # fmt: skip
    variance = sum(part for part, _ in parts)
    doubt = sum(part**2 / freedom for part, freedom in parts)
    low, high = share_interval(
        area,
        variance,
        variance**2 / doubt if doubt else 1.0,
        most_trials=float(m * n),
        least_trials=float(min(m, n)),
    )
    return {"auc": area, "low": low, "high": high}


def _placements(values: Floats, others: Floats) -> Floats:
    """For each value the share of `others` below it, ties counting half."""
    in_order = np.sort(others)
    left = np.searchsorted(in_order, values, side="left")
    right = np.searchsorted(in_order, values, side="right")
    return np.asarray((left + right) / (2 * len(others)), dtype=np.float64)
