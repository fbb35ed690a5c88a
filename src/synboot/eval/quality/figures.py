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
    `of`, `documents`. The interval is the normal one of a ratio (its variance linearised), within
    0 and 1; documents with nothing in `whole` are not among them."""
    some = whole > 0
    part, whole = part[some], whole[some]
    documents, count, total = len(whole), int(part.sum()), int(whole.sum())
    shape = {"count": count, "of": total, "documents": documents}
    if not total:
        return {"rate": None, "low": None, "high": None, **shape}
    share = count / total
    if documents < 2:
        return {"rate": share, "low": None, "high": None, **shape}
    spread = float(((part - share * whole).astype(np.float64) ** 2).sum())
    half = Z * math.sqrt(documents / (documents - 1) * spread) / total
    return {"rate": share, "low": max(0.0, share - half), "high": min(1.0, share + half), **shape}


def known(figure: Mapping[str, Any] | None, name: str = "rate") -> bool:
    """Whether a figure is there and has a value."""
    return figure is not None and figure.get(name) is not None
