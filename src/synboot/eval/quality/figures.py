"""Figures with their intervals: rates, means and pooled shares over documents.

All intervals are of 95%, as if documents were independent draws. Draws of one seed document are
not quite that: where there are many of them, the true intervals are somewhat wider.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from synboot.core.intervals import proportion_interval

Z = 1.959963984540054
"""The normal quantile of 97.5%."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

Figure = dict[str, Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def rate(flags: Flags) -> Figure:
    """Share of the documents whose flag is set: `rate`, Wilson's `low` and `high`, `count`,
    `documents`. Without documents the first three are None."""
    return rate_of(int(flags.sum()), len(flags))


def rate_of(count: int, documents: int) -> Figure:
    """`rate` of `count` among so many documents."""
    low, high = proportion_interval(count, documents) if documents else (None, None)
    share = count / documents if documents else None
    return {"rate": share, "low": low, "high": high, "count": count, "documents": documents}


def mean(values: npt.NDArray[Any]) -> Figure:
    """`mean`, its normal interval, the `documents` it is of, and `quantiles` of the values."""
    documents = len(values)
    if not documents:
        return {"mean": None, "low": None, "high": None, "documents": 0, "quantiles": {}}
    numbers = values.astype(np.float64)
    middle = float(numbers.mean())
    half = Z * float(numbers.std(ddof=1)) / math.sqrt(documents) if documents > 1 else None
    ends = (None, None) if half is None else (middle - half, middle + half)
    return {
        "mean": middle,
        "low": ends[0],
        "high": ends[1],
        "documents": documents,
        "quantiles": quantiles(numbers),
    }


def quantiles(values: npt.NDArray[Any]) -> dict[str, float]:
    """`{"0.5": median, ...}` at QUANTILES, between neighbours by proportion."""
    if not len(values):
        return {}
    found = np.quantile(values.astype(np.float64), QUANTILES)
    return {f"{q:g}": float(value) for q, value in zip(QUANTILES, found, strict=True)}


def pooled(part: Integers, whole: Integers) -> Figure:
    """Sum of `part` over sum of `whole`, both counted by document: `rate`, `low`, `high`, `count`,
    `of`, `documents`. Documents with nothing in `whole` are not among them.

    The interval is Wilson's (1927) for as many independent trials as give the ratio the variance
    that it has between documents (linearised), at most as many as there are, with Student's
    quantile in the place of the normal one: its degrees of freedom are those of that variance,
    which a few documents may make up alone (after Satterthwaite 1946). It errs on the wide side.
    Where documents do not differ, as at 0 and 1, trials are Kish's number of documents, (sum of
    `whole`)^2 / sum of squares: those of a document may all go together."""
    some = whole > 0
    part, whole = part[some], whole[some]
    documents, count, total = len(whole), int(part.sum()), int(whole.sum())
    shape = {"count": count, "of": total, "documents": documents}
    if not total:
        return {"rate": None, "low": None, "high": None, **shape}
    share = count / total
    if documents < 2:
        return {"rate": share, "low": None, "high": None, **shape}
    weights, residuals = whole.astype(np.float64), (part - share * whole).astype(np.float64) ** 2
    low, high = share_interval(
        share,
        documents / (documents - 1) * float(residuals.sum()) / total**2,
        freedom_of(residuals),
        most_trials=float(total),
        least_trials=total**2 / float((weights**2).sum()),
    )
    return {"rate": share, "low": low, "high": high, **shape}


def freedom_of(squares: Floats) -> float:
    """Degrees of freedom of a sum of squared deviations, by how few of them make it up; at least
    1."""
    if not squares.any():
        return 1.0
    return max(1.0, float(squares.sum()) ** 2 / float((squares**2).sum()) - 1.0)


def share_interval(
    share: float, variance: float, freedom: float, *, most_trials: float, least_trials: float
) -> tuple[float, float]:
    """Wilson's interval of a share that has such a variance, estimated with so many degrees of
    freedom; `least_trials` count where it is 0."""
    if variance == 0.0 or share in (0.0, 1.0):
        trials, quantile = least_trials, Z
    else:
        trials = min(most_trials, share * (1.0 - share) / variance)
        quantile = float(stdtrit(freedom, 0.975))
    square = quantile**2
    scale = 1.0 + square / trials
    centre = (share + square / (2.0 * trials)) / scale
    half = quantile / scale * math.sqrt(share * (1.0 - share) / trials + square / 4.0 / trials**2)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def known(figure: Mapping[str, Any] | None, name: str = "rate") -> bool:
    """Whether a figure is there and has a value."""
    return figure is not None and figure.get(name) is not None
